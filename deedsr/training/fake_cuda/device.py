"""Within `fake_cuda` this machine has a GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import checkpoint
from torch.utils._pytree import tree_map_only

from deedsr.training.fake_cuda.attention import on_cuda
from deedsr.training.fake_cuda.backward import Saved, backward
from deedsr.training.fake_cuda.generators import Generator
from deedsr.training.fake_cuda.mode import CUDA, FakeCuda

BYTES = 80 * 10**9
ENDLESS = 2**60
"""To count what is needed, however much."""


@contextmanager
def fake_cuda(total: int = BYTES) -> Iterator[FakeCuda]:
    """Within the context there is a GPU with `total` bytes of memory that runs everything at once and knows no numbers.

    Whatever is asked of CUDA there is answered as one would, also on a machine that has one.
    """
    torch._C._ensureCUDADeviceGuardSet()
    mode, saved, engine, tasks = FakeCuda(total), Saved(), torch.autograd.graph._engine_run_backward, count(1)

    def run_backward(roots: Any, gradients: Any, keep: bool, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(root, FakeTensor) for root in roots):
            return engine(roots, gradients, keep, *args, **kwargs)
        task = next(tasks)
        with patch.object(torch._C, "_current_graph_task_id", lambda: task):
            return backward(roots, gradients, saved, keep)

    lifted = torch._C._only_lift_cpu_tensors()
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    forget()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with ExitStack() as stack:
            for place, name, value in _answers(mode, total):
                stack.enter_context(patch.object(place, name, value))
            stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", run_backward))
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(saved.keep, saved.take))
            stack.enter_context(on_cuda())
            stack.enter_context(mode)
            yield mode
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.__future__.set_swap_module_params_on_conversion(swapped)
        forget()


def forget() -> None:
    """Empty the caches of our functions: a fake GPU's tensors are of no use outside, and a real one's within."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("deedsr", "stage1", "stage2"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _answers(mode: FakeCuda, total: int) -> list[tuple[Any, str, Any]]:
    """What CUDA says of itself."""

    def always(value: Any) -> Any:
        return lambda *_args, **_kwargs: value

    memory = mode.memory
    cuda = {
        "is_available": always(True),
        "is_initialized": always(True),
        "device_count": always(1),
        "current_device": always(0),
        "set_device": always(None),
        "is_current_stream_capturing": always(False),
        "_lazy_init": always(None),
        "is_bf16_supported": always(True),
        "get_device_name": always("fake CUDA"),
        "get_device_capability": always((9, 0)),
        "empty_cache": memory.trim,
        "memory_allocated": lambda *_: memory.allocated,
        "memory_reserved": lambda *_: memory.reserved,
        "max_memory_allocated": lambda *_: memory.peak_allocated,
        "max_memory_reserved": lambda *_: memory.peak_reserved,
        "reset_peak_memory_stats": lambda *_: memory.reset_peak(),
        "mem_get_info": lambda *_: (total - memory.reserved, total),
        "Event": Event,
        "synchronize": lambda *_: mode.wait("asked to"),
    }
    return [
        *((torch.cuda, name, answer) for name, answer in cuda.items()),
        (torch.cuda.amp.common, "amp_definitely_not_available", always(False)),
        (torch.accelerator, "is_available", always(True)),
        (torch.accelerator, "current_accelerator", always(CUDA)),
        (checkpoint.DefaultDeviceType, "_default_device_type", CUDA.type),  # asked for once in a process
        (fake_tensor, "init_gpu_context", always(None)),  # makes a real tensor, in torch 2.11
        (torch, "Generator", Generator),
        (torch.utils, "swap_tensors", _swap),
        (torch, "save", _save),
        (Tensor, "pin_memory", _pinned),
    ]


class Event:
    """On a GPU that does everything at once all has happened."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Takes what one of CUDA does."""

    def record(self, *_: Any) -> None:
        """Nothing."""

    def synchronize(self) -> None:
        """Nothing."""

    def query(self) -> bool:
        return True


def _save(value: Any, *args: Any, save: Any = torch.save, **kwargs: Any) -> None:
    """A file holds what a copy on the CPU would."""
    save(tree_map_only(FakeTensor, Tensor.cpu, value), *args, **kwargs)


def _pinned(tensor: Tensor, *_: Any) -> Tensor:
    copy = tensor.clone()
    copy.pinned = True
    return copy


def _swap(one: Tensor, other: Tensor) -> None:
    """What a module's move does to its parameters; PyTorch's own wants no weak references, which fake ones have."""
    one.__class__, other.__class__ = other.__class__, one.__class__
    one.__dict__, other.__dict__ = other.__dict__, one.__dict__
    torch._C._swap_tensor_impl(one, other)

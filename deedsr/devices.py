"""The device that a user means, and the memory that it has given at most."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from deedsr.options import DEVICES

LACKS = (
    *("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory"),
    *("MPS backend out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
)
"""Parts of the messages by which torch says that it lacks memory, where it has no class of its own for that."""


def pick_device(name: str, runtime: str = "torch") -> torch.device:
    """The device that a name means; ``auto`` is CUDA, else Apple's, else the CPU, of runtime ``onnx`` always the CPU.

    Raises ValueError if it is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cpu" if runtime == "onnx" else next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    kind, _, index = name.partition(":")
    there = available.get(kind, False) and (not index or (index.isdigit() and kind == "cuda"))
    if not there or (index and int(index) >= torch.cuda.device_count()):
        raise ValueError(f"device {name!r} is not available here; choose one of {', '.join(DEVICES)}")
    return torch.device(name)


def check_compiler(device: torch.device) -> None:
    """Raise ValueError where `torch.compile` finds nothing to compile with for a device."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # each takes seconds
    from torch.utils._triton import has_triton

    cuda = device.type == "cuda"
    try:
        found = has_triton() if cuda else bool(get_cpp_compiler())
    except RuntimeError:
        found = False
    if not found:
        needed = "Triton, and a GPU that it knows" if cuda else "a C++ compiler"
        raise ValueError(f"compiling needs {needed}, which is not here: install that, or leave `compile` out")


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on another device; without waiting for a GPU, which has first to do all it was told."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def borrowed(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Within the context the modules lie on the device, outside on the CPU."""
    try:
        _move(modules, device)
        yield
    finally:
        _move(modules, torch.device("cpu"))
        if modules and device.type == "cuda":
            torch.cuda.empty_cache()  # whole blocks for those that come next, not what fits between others


def _move(modules: Sequence[nn.Module], device: torch.device) -> None:
    with torch.inference_mode(False):  # weights made within could never be trained
        for module in modules:
            module.to(device)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether products and convolutions of float32 may be rounded to 10 bits before."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Fetched:
    """A tensor on its way to the CPU, which goes on meanwhile; on the CPU it is there at once."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.detach().to("cpu", non_blocking=tensor.is_cuda)
        self._arrival = torch.cuda.Event() if tensor.is_cuda else None
        if self._arrival is not None:
            self._arrival.record()

    @property
    def there(self) -> bool:
        """Whether `get` needn't wait."""
        return self._arrival is None or self._arrival.query()

    def get(self) -> Tensor:
        """The tensor on the CPU, as soon as all that came before it is done."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._copy


def peak_memory(device: torch.device) -> int:
    """Bytes: of a GPU's allocator, else of resident memory, models and interpreter counted; of Windows 0."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        if sys.platform == "win32":
            return 0  # nothing tells
        import resource  # which Windows lacks

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that there are for tensors: what nobody has, and what PyTorch keeps of those that are gone."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that a device has not enough memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in LACKS)

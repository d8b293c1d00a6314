"""Operations on fake CUDA tensors, and what they would cost a GPU."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from mmap import ACCESS_COPY, mmap
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from deedsr.training.fake_cuda.attention import attention
from deedsr.training.fake_cuda.generators import of_cuda
from deedsr.training.fake_cuda.memory import Allocator

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)

PRODUCTS = ("convolution", "_convolution", "mm", "addmm", "bmm", "baddbmm", "dot", "mv")
NORMS = ("native_layer_norm", "native_group_norm", "_fused_rms_norm")
ATTENTION = ("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention")
ONE_DTYPE = {*PRODUCTS, *NORMS, *ATTENTION, "lerp", "lerp_"}
"""Operations whose kernels take tensors of a single dtype; fake ones let others pass."""

SMALL = 2**16
"""Bytes; less on the CPU is not worth a mapping of its own."""


class FakeCuda(TorchDispatchMode):
    """Within it, tensors on "cuda" have a shape, a dtype and a device, and no numbers; those on the CPU are real.

    What the CPU reads of a fake one is 0, or True. waits: how often the CPU would wait for the GPU, by place and what
    for. uploads: copies to the GPU that it would wait for, by place: of memory that is not pinned, or without
    ``non_blocking``. launches: of kernels, by operation. memory: that of the allocator.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        self.fake = FakeTensorMode()
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.memory = Allocator(total)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        given = list(leaves((*args, *kwargs.values())))
        if not any(map(_on_cuda, given)):
            return func(*args, **kwargs)
        if func.namespace == "prim":  # asks for the device
            return self.run(func, args, kwargs)
        if torch.is_inference_mode_enabled() and composite(func):  # where autograd has not taken them apart
            with self:
                if func is aten.scaled_dot_product_attention.default:
                    return attention(*args, **kwargs)
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        check_generator(func, kwargs)
        tensors = [one for one in given if isinstance(one, Tensor)]
        check_dtypes(func, tensors)
        if func.overloadpacket in READ:
            return READ[func.overloadpacket](self, args, kwargs)
        out = self.run(func, args, kwargs)
        self.count(func, tensors, args, kwargs, out)
        if func.namespace == "aten" and func not in COPIES:
            return out
        return tree_map_only(Tensor, lambda tensor: self.land(tensor, waits(args, kwargs)), out)

    def run(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if not all(isinstance(one, FakeTensor) for one in leaves((*args, *kwargs.values())) if isinstance(one, Tensor)):
            args, kwargs = tree_map_only(Tensor, self.faked, (args, kwargs))
        out = self.fake.dispatch(func, (FakeTensor,), args, kwargs)
        for tensor in leaves((out,)):
            if isinstance(tensor, FakeTensor) and tensor.fake_device.type == "cuda":
                self.memory.hold(tensor.untyped_storage())
        return out

    def faked(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU beside fake ones."""
        if isinstance(tensor, FakeTensor):
            return tensor
        with self.fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)

    def count(self, func: Any, given: list[Tensor], args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        name = func.overloadpacket.__name__
        storages = set(map(_storage, given))
        made = any(isinstance(one, Tensor) and _storage(one) not in storages for one in leaves((out,)))
        if (made or func._schema.is_mutable) and not name.startswith(("empty", "new_empty")):
            self.launches[name] += 1
        if func in COPIES:
            come = [one for one in given if not isinstance(one, FakeTensor)]
            if any(waits(args, kwargs) or not getattr(one, "pinned", False) for one in come):
                self.uploads[place()] += 1

    def land(self, tensor: Tensor, blocking: bool) -> Tensor:
        """A copy on the CPU is real."""
        if not isinstance(tensor, FakeTensor) or tensor.device.type == "cuda":
            return tensor
        if blocking:
            self.wait("copied to the CPU")
        return untouched(tensor)

    def wait(self, what: str) -> None:
        self.waits[f"{place()} {what}"] += 1

    def item(self, args: tuple, _: dict[str, Any]) -> bool | float | int:
        self.wait("read")
        dtype = args[0].dtype
        return True if dtype == torch.bool else 0.0 if dtype.is_floating_point else 0

    def masked(self, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """How many are chosen by a mask is known to the GPU alone: here one."""
        if any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]):
            self.wait("asked how many are chosen")
            args = args[0], [part for index in args[1] for part in self.some(index)]
        out = self.run(aten.index.Tensor, args, kwargs)
        self.count(aten.index.Tensor, [args[0]], args, kwargs, out)
        return out

    def some(self, index: Tensor | None) -> list[Tensor | None]:
        """In place of a mask an index into each of its dimensions."""
        if index is None or index.dtype != torch.bool:
            return [index]
        return [self.run(aten.new_zeros.default, (index, (1,)), {"dtype": torch.int64}) for _ in index.shape]

    def nonzero(self, args: tuple, _: dict[str, Any]) -> Tensor:
        self.wait("asked how many are not zero")
        return self.run(aten.new_zeros.default, (args[0], (1, args[0].ndim)), {"dtype": torch.int64})


def untouched(tensor: FakeTensor) -> Tensor:
    """Zeros, or True, of its shape, strides and dtype; memory that nobody writes to is never taken."""
    size = tensor.untyped_storage().nbytes()
    if size < SMALL:
        flat = torch.zeros(size, dtype=torch.uint8).view(tensor.dtype)
    else:
        flat = torch.frombuffer(mmap(-1, size, access=ACCESS_COPY), dtype=tensor.dtype)
    flat = flat.logical_not_() if tensor.dtype == torch.bool else flat
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


READ = {
    aten._local_scalar_dense: FakeCuda.item,
    aten.index: FakeCuda.masked,
    aten.nonzero: FakeCuda.nonzero,
}


def composite(func: Any) -> bool:
    """Whether CUDA has no kernel for it."""
    return func.overloadpacket.__name__ not in NORMS and func._can_decompose()


def waits(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the CPU waits for a copy."""
    return not (kwargs.get("non_blocking") or args[2:3] == (True,))


def check_generator(func: Any, kwargs: dict[str, Any]) -> None:
    """Take the generator out; RuntimeError, as CUDA has it, for one of the CPU."""
    generator = kwargs.get("generator")
    if generator is not None:
        if not of_cuda(generator):
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")
        kwargs["generator"] = None


def check_dtypes(func: Any, given: list[Tensor]) -> None:
    if func.overloadpacket.__name__ in ONE_DTYPE:
        found = {one.dtype for one in given if one.is_floating_point()}
        if len(found) > 1:
            raise RuntimeError(f"{func}: expected tensors of the same dtype, but got {sorted(map(str, found))}")


def leaves(values: Iterable[Any]) -> Iterator[Any]:
    """Values, and what is in lists and tuples among them."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from leaves(value)
        else:
            yield value


def place() -> str:
    """FILE:LINE of ours that is being executed."""
    frame = sys._getframe(2)
    while frame.f_back is not None and _foreign(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _foreign(file: str) -> bool:
    return "site-packages" in file or "fake_cuda" in file or "/lib/python" in file


def _on_cuda(value: object) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, FakeTensor)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata

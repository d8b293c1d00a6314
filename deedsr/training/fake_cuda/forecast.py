"""The memory that a training step will need on a GPU, counted without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig
from torch import Tensor, nn

from deedsr.data.batch import Batch
from deedsr.training.again import Again
from deedsr.training.command import plain
from deedsr.training.fake_cuda.device import ENDLESS, fake_cuda
from deedsr.training.fake_cuda.mode import FakeCuda
from deedsr.training.run import Run

GIB = 2**30
STEPS = 2
"""The optimizer's state is there from the first one's end on."""


@dataclass(frozen=True)
class Need:
    """Bytes, of each device. average: of the weights. allocated: of all tensors together, at most, with the others in
    it; reserved: what PyTorch's allocator takes from the device for them, before it is short of memory. gathered: the
    largest two of the model's blocks, which are whole on a device where it is split: the one at work and the next.

    kernels, waits: no bytes, but how many the last batch launches, and how often the CPU waits for the device in it.
    """

    parameters: int
    gradients: int
    optimizer: int
    average: int
    allocated: int
    reserved: int
    gathered: int = 0
    kernels: int = 0
    waits: int = 0

    @property
    def activations(self) -> int:
        """What is neither of these: of the forward and backward pass, at the peak."""
        return self.allocated - self.parameters - self.gradients - self.optimizer - self.average

    def on(self, devices: int, split: bool) -> Need:
        """On each of several devices. split: the parameters and all that belongs to them; otherwise gradients are sent
        from buckets, a second copy.
        """
        if devices == 1:
            return self
        if not split:
            return replace(self, allocated=self.allocated + self.gradients, reserved=self.reserved + self.gradients)
        kept = {name: getattr(self, name) for name in ("parameters", "gradients", "optimizer", "average")}
        parts = {name: size // devices for name, size in kept.items()}
        more = sum(parts.values()) - sum(kept.values()) + self.gathered
        return replace(self, **parts, allocated=self.allocated + more, reserved=self.reserved + more)

    def gigabytes(self) -> dict[str, float]:
        """GiB by name."""
        names = (field.name for field in fields(self) if field.name not in ("kernels", "waits"))
        found = {name: getattr(self, name) for name in names}
        return {name: size / GIB for name, size in {**found, "activations": self.activations}.items()}


def forecast(cfg: DictConfig, make: Callable[[], tuple[Run, Batch]], batch: int) -> Need:
    """What a step of the run needs that `make` gives, with one sample of its `batch`, on one device.

    cfg: of it counts `trainer`. make: is called where there is a fake GPU, so that a large model never lies on the CPU.
    """
    words = plain(cfg.trainer)
    parts = min(words.get("accumulate_grad_batches", 1), STEPS)
    words |= {"accelerator": "gpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": False}
    words |= {"accumulate_grad_batches": parts, "fast_dev_run": STEPS * parts, "enable_progress_bar": False}
    with fake_cuda(ENDLESS) as gpu:
        run, sample = make()
        counts = Counts(gpu)
        trainer = hydra.utils.instantiate(words, callbacks=[counts], _convert_="all")
        trainer.fit(run, Again([sample], batch))
        return Need(
            size(run.parameters()) + size(run.buffers()),
            size(parameter for parameter in run.parameters() if parameter.requires_grad),
            size(held(trainer.optimizers[0].state)),
            size(run.average.tensors.values()) if run.average is not None else 0,
            gpu.memory.peak_allocated,
            gpu.memory.peak_reserved,
            gathered(run.model.blocks()) if hasattr(run, "model") else 0,
            *counts.of_the_last,
        )


class Counts(pl.Callback):
    """of_the_last: kernels that the last batch launched, and how often the CPU waited for the device meanwhile."""

    def __init__(self, gpu: FakeCuda) -> None:
        self.gpu = gpu

    def now(self) -> tuple[int, int]:
        return self.gpu.launches.total(), self.gpu.waits.total() + self.gpu.uploads.total()

    def on_train_batch_start(self, *_: Any) -> None:
        self.before = self.now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.of_the_last = [now - before for now, before in zip(self.now(), self.before, strict=True)]


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def held(state: Any) -> Iterable[Tensor]:
    """The tensors in nested values, but for single numbers."""
    if isinstance(state, Tensor):
        return [state] if state.numel() > 1 else []
    return [tensor for value in state.values() for tensor in held(value)] if isinstance(state, dict) else []


def gathered(blocks: Iterable[nn.Module]) -> int:
    """Bytes of the two largest of a model's blocks: the one at work, and the next, that is fetched meanwhile."""
    return sum(sorted((size(block.parameters()) for block in blocks), reverse=True)[:2])

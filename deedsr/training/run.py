"""The LightningModule that all runs are made of: its randomness, checkpoints, averaged weights, and NaN guard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from deedsr import weights
from deedsr.data.batch import Batch
from deedsr.devices import Fetched
from deedsr.ema import Average
from deedsr.models.card import KEY
from deedsr.randomness import seeded

BAD_BATCH = "bad_batch.safetensors"


class Broken(ValueError):
    """Numbers that are none have come up: the state isn't worth keeping."""


@dataclass(frozen=True)
class Moment:
    """A batch, and the numbers that its randomness is made of."""

    batch: Batch
    origin: dict[str, int]


class Run(pl.LightningModule):
    """A run whose randomness is a pure function of (seed, batch number, rank); frozen parts stay out of checkpoints.

    A checkpoint is always that of the last whole step, whenever it is written: what a step changes before its update,
    as the running means of BatchNorm, is kept until the step is `whole`.

    updating: whether the optimizer is at work, so that the parameters are of no step. record: what checkpoints are to
    say of the run, see `deedsr.training.record`. anew: whether the optimizer starts without the state of a checkpoint.
    """

    average: Average | None = None
    whole, updating = True, False
    asked: tuple[Moment, Fetched] | None = None
    record: dict[str, Any] | None = None
    anew = False

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.strict_loading = False  # checkpoints hold the trained part alone; `check` is strict about that

    def generator(self, stream: int, alike: bool = False) -> torch.Generator:
        """For the present batch on this rank; each `stream` is independent of the others.

        alike: the same on all ranks, for what decides how often the network is asked: with sharded parameters all ranks
        ask it together.
        """
        rank = 0 if alike else self.global_rank
        return generator(self.seed, self.trainer.fit_loop.total_batch_idx, rank, stream)

    def pictures(self, batch: Any, count: int) -> dict[str, tuple[Tensor, int]]:
        """Of `count` samples of a batch, by name: pictures (N, 3, H, W) in [0, 1] for a grid of so many columns."""
        return {}

    def saved(self) -> set[str]:
        """Names of the tensors that checkpoints hold; all others are rebuilt from elsewhere."""
        raise NotImplementedError

    def on_train_start(self) -> None:
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        self.moving = sorted(self.saved() - trained)
        self.progress = self.trainer.fit_loop.state_dict()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.batch = batch
        if self.whole:
            self.whole = False
            self.kept = _cloned({name: attrgetter(name)(self).detach() for name in self.moving})

    def on_train_batch_end(self, *_: Any) -> None:
        if self.whole:
            self.progress = self.trainer.fit_loop.state_dict()

    @torch.no_grad()
    def undo(self) -> None:
        """Put back what the present step has moved, where it won't come to its update."""
        if not self.whole:
            for name, tensor in self.kept.items():
                attrgetter(name)(self).copy_(tensor)

    def on_before_backward(self, loss: Tensor) -> None:
        """A GPU's loss is looked at when it has come: at the next one's, while the GPU has that to do."""
        self.settle()
        self.asked = self.moment(), Fetched(loss)
        if self.asked[1].there:
            self.settle()

    def on_train_end(self) -> None:
        self.settle()

    def settle(self) -> None:
        """Raise Broken where the last loss that is on its way is no number."""
        if self.asked is not None:
            (moment, loss), self.asked = self.asked, None
            if not loss.get().isfinite():
                raise self.broken(f"the loss is {loss.get().item()}", moment)

    def moment(self) -> Moment:
        """The present one."""
        number = self.trainer.fit_loop.total_batch_idx
        origin = {"seed": self.seed, "step": self.global_step, "batch": number, "rank": self.global_rank}
        return Moment(self.batch, origin)

    def broken(self, what: str, moment: Moment | None = None) -> Broken:
        """The error for numbers that are none; keeps the batch of that moment, or of the present one, in a file."""
        moment = moment or self.moment()
        file = Path(self.trainer.default_root_dir) / BAD_BATCH
        return Broken(
            f"{what} at step {moment.origin['step']}: take a lower learning rate, trainer.precision=32-true, or other "
            f"photographs (this batch is in {weights.save(file, moment.batch.tensors(), moment.origin)}); with "
            "resume=changed that goes on from the last checkpoint"
        )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.updating = True

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update()  # here, because on_train_batch_end comes only after a checkpoint of this step
        self.updating, self.whole = False, True

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self.settle()
        saved = self.saved()
        state = {name: value for name, value in checkpoint["state_dict"].items() if name in saved}
        if not _finite(state.values()):
            raise self.broken("a weight is NaN or inf")
        if not self.whole:
            state |= self.kept
            checkpoint["loops"]["fit_loop"] = self.progress
        checkpoint["state_dict"] = state
        if self.average is not None:
            checkpoint["average"] = self.average.state_dict()
        if self.record is not None:
            checkpoint[KEY] = self.record
        checkpoint["sharded"] = isinstance(self.trainer.strategy, ModelParallelStrategy)

    def check(self, checkpoint: dict, trainer: pl.Trainer, file: Path) -> None:
        """Raise ValueError where `checkpoint`, read from `file`, is not of such a run."""
        rebuilt = self.state_dict().keys() - self.saved()
        weights.load_strict(self, checkpoint["state_dict"], file, allow_missing=rebuilt)
        sharded = checkpoint.get("sharded", False)
        if sharded != isinstance(trainer.strategy, ModelParallelStrategy):
            raise ValueError(
                f"{file}: its optimizer's state is {'' if sharded else 'not '}that of a model_parallel "
                "strategy: go on with the trainer.strategy of before, or start another run with init=FOLDER"
            )

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        if self.anew:
            for optimizer in checkpoint["optimizer_states"]:
                optimizer["state"] = {}
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])


def _cloned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, made by one call for each dtype."""
    copies = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
    for dtype in {tensor.dtype for tensor in tensors.values()}:
        names = [name for name, tensor in tensors.items() if tensor.dtype == dtype]
        torch._foreach_copy_([copies[name] for name in names], [tensors[name] for name in names])
    return copies


def _finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all are numbers; a GPU is waited for once."""
    flags = [tensor.isfinite().all() for tensor in tensors]
    return all(
        bool(torch.stack([flag for flag in flags if flag.device == device]).all())
        for device in {flag.device for flag in flags}
    )


def generator(seed: int, batch: int, rank: int, stream: int) -> torch.Generator:
    """For the batch number `batch` of a run on `rank`."""
    return seeded(seed, batch, rank, 0, stream)  # five numbers; a crop's generator has four


def pixels(batch: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → float32 in [0, 1]; what is that already stays as it is."""
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch


def in_bytes(pictures: Tensor) -> Tensor:
    """Inverse of `pixels`, rounded."""
    return (255 * pictures).round().to(torch.uint8)

"""The LightningModule of stage 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from deedsr.data.photos import seeded
from deedsr.degradation import Mixture, Recipe
from deedsr.encoder.momentum import MomentumContrast
from stage1.views import Cut, Positives, degrade

OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


class Milestones:
    """The factor of the learning rate: a linear warm-up, then times `gamma` at each milestone.

    Args:
        milestones: when the rate falls, in `unit`s.
        unit: ``steps``, or ``epochs`` (one: as many crops as there are photographs).
        gamma: what it is multiplied by.
        warmup: steps over which it rises from 0.
    """

    def __init__(
        self, milestones: Sequence[float], unit: Literal["steps", "epochs"], gamma: float = 0.1, warmup: int = 0
    ) -> None:
        if unit not in ("steps", "epochs"):
            raise ValueError(f"schedule.unit must be steps or epochs, got {unit!r}")
        self.milestones, self.unit, self.gamma, self.warmup = sorted(milestones), unit, gamma, warmup

    def factor(self, step: int, epoch: int) -> float:
        """The factor at `step`, with `epoch` steps an epoch."""
        length = epoch if self.unit == "epochs" else 1
        passed = sum(step >= milestone * length for milestone in self.milestones)
        return min(1.0, (step + 1) / (self.warmup + 1)) * self.gamma**passed


class DegradationLearner(pl.LightningModule):
    """Degrades crops on the device and trains a `MomentumContrast` on pairs of patches that share a degradation.

    A batch is uint8 (B, 3, S, S). Everything random is a pure function of (seed, step, rank, sample).

    Args:
        contrast: encoder, key encoder and queue.
        optimizer: makes the optimizer of the trained parameters.
        schedule: of the learning rate.
        recipe: what the degradations are drawn from, or the name of its level.
        positives: which two patches count as the same, see `stage1.views.degrade`.
        warmup: with `same_degradation`, the first steps in which query and key are of the same picture all the same:
            from random weights the other task alone often collapses.
        sides: LR pixels of the patches; each step draws one for the queries and one for the keys. None: the whole
            quadrants, a quarter of a picture each.
        repeat: steps after which crops and degradations come again, cut elsewhere; their degraded pictures are kept in
            memory (at most 6·B·(S/4)² bytes a step). None: each step degrades anew.
        shuffle: exchange the keys between ranks and BatchNorm groups.
        seed: of the degradations.
    """

    def __init__(
        self,
        contrast: MomentumContrast,
        optimizer: OptimizerFactory,
        schedule: Milestones,
        recipe: Recipe | Mixture | str,
        positives: Positives,
        warmup: int = 0,
        sides: Sequence[int] | None = None,
        repeat: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.contrast, self.optimizer, self.schedule = contrast, optimizer, schedule
        self.recipe = Recipe.level(recipe) if isinstance(recipe, str) else recipe
        self.positives, self.warmup, self.sides, self.repeat = positives, warmup, sides, repeat
        self.shuffle, self.seed = shuffle, seed
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def pictures(self, batch: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The degraded pictures of a step, kept or new, each (B, 3, S/4, S/4) in [0, 1]."""
        turn = step % self.repeat if self.repeat else step
        if turn in self.kept:
            first, second = (picture.to(self.device).float() / 255 for picture in self.kept[turn])
            return first, second
        with torch.autocast(batch.device.type, enabled=False):
            first, second = degrade(batch.float() / 255, self.recipe, self.positives, self.seed, turn, self.global_rank)
        if self.repeat:
            small = (first * 255).round().byte().cpu()
            self.kept[turn] = (small, small if second is first else (second * 255).round().byte().cpu())
        return first, second

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """One batch uint8 (B, 3, S, S) -> the InfoNCE loss."""
        step = self.global_step
        first, second = self.pictures(batch, step)
        cut = Cut.draw(len(batch), self.sides, self.seed, step, self.global_rank)
        query, key = cut.patches(first, 0), cut.patches(first if step < self.warmup else second, 1)
        exchange = seeded(self.seed, step, 0, 0, 5) if self.shuffle else None  # the same on all ranks
        contrast = self.contrast(query, key, exchange)
        self.log("train/loss", contrast.loss.detach(), prog_bar=True)
        self.log("train/accuracy", contrast.accuracy, prog_bar=True)
        return contrast.loss

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer of the query network and its schedule, stepped after every batch."""
        optimizer = self.optimizer(p for p in self.contrast.parameters() if p.requires_grad)
        epoch = self.trainer.datamodule.epoch
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.factor(step, epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

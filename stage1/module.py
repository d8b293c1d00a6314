"""The LightningModule of stage 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from deedsr.data.photos import seeded
from deedsr.degradation import Degradation, Mixture, Recipe
from deedsr.encoder.momentum import MomentumContrast
from stage1.parameters import Reading
from stage1.views import Positives, cut, degrade, quadrants

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

    A batch is HR crops, uint8 (B, 3, S, S), or made already, see `stage1.pool`. Everything random is a pure function of
    (seed, step, rank, sample).

    Args:
        contrast: encoder, key encoder and queue.
        optimizer: makes the optimizer of the trained parameters.
        schedule: of the learning rate.
        recipe: what the degradations are drawn from, or the name of its level.
        positives: which two patches count as the same, see `stage1.views.views`.
        parameters: weight of reading the drawn parameters from the vector; the contrast's is 1. 0: contrast alone.
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
        parameters: float = 0.0,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.contrast = contrast.to(memory_format=torch.channels_last)
        self.optimizer, self.schedule = optimizer, schedule
        self.recipe = Recipe.level(recipe) if isinstance(recipe, str) else recipe
        self.reading = Reading(contrast.encoder.dimension, self.recipe) if parameters else None
        self.positives, self.parameters_weight = positives, parameters
        self.shuffle, self.seed = shuffle, seed

    @torch.no_grad()
    def patches(self, batch: Tensor | dict[str, Any], step: int) -> tuple[Tensor, Tensor, Degradation]:
        """Queries and keys, (B, 3, h, w) each, in [0, 1], and what was done to both."""
        if isinstance(batch, dict):
            query, key = (batch[name].float() / 255 for name in ("query", "key"))
            return query, key, Degradation.from_state(batch["degradation"])
        numbers = (self.seed, step, self.global_rank)
        with torch.autocast(batch.device.type, enabled=False):
            pairs = degrade(batch.float() / 255, self.recipe, self.positives, *numbers)
        chosen = quadrants(len(batch), seeded(*numbers, 0, 3))
        return cut(pairs.first, chosen[:, 0]), cut(pairs.second, chosen[:, 1]), pairs.degradation

    def training_step(self, batch: Tensor | dict[str, Any], batch_idx: int) -> Tensor:
        """One batch -> the InfoNCE loss and, weighted, the error in reading the parameters."""
        step = self.global_step
        query, key, degradation = self.patches(batch, step)
        exchange = seeded(self.seed, step, 0, 0, 5) if self.shuffle else None  # the same on all ranks
        contrast, vectors = self.contrast(query, key, exchange)
        self.log("train/loss", contrast.loss.detach(), prog_bar=True)
        self.log("train/accuracy", contrast.accuracy, prog_bar=True)
        if self.reading is None:
            return contrast.loss
        error = self.reading(vectors, degradation)
        self.log("train/parameters", error.detach(), prog_bar=True)
        return contrast.loss + self.parameters_weight * error

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer of all that is trained and its schedule, stepped after every batch."""
        optimizer = self.optimizer(p for p in self.parameters() if p.requires_grad)
        epoch = self.trainer.datamodule.epoch
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.factor(step, epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

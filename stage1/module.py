"""The LightningModule of stage 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deedsr.data.batch import Crops
from deedsr.degradation import Mixture, Recipe
from deedsr.training.optimizer import scheduled
from deedsr.training.run import Run, pixels
from stage1.momentum import MomentumContrast
from stage1.parameters import Reading
from stage1.views import Patches, Positives, cut, degrade, quadrants


class DegradationLearner(Run):
    """Degrades crops on the device and trains a `MomentumContrast` on pairs of patches that share a degradation.

    A batch is HR `Crops`, or `Patches` that were made already, see `stage1.pool`.

    optimizer: see `deedsr.training.optimizer.scheduled`. recipe: what the degradations are drawn from. positives: which
    two patches count as the same, see `stage1.views.degrade`. parameters: weight of reading the drawn parameters from
    the vector; the contrast's is 1; 0: contrast alone. shuffle: exchange the keys between ranks and BatchNorm groups.
    """

    def __init__(
        self,
        contrast: MomentumContrast,
        optimizer: Mapping[str, Any],
        steps: int,
        recipe: Recipe | Mixture,
        positives: Positives,
        parameters: float = 0.0,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.contrast = contrast.to(memory_format=torch.channels_last)
        self.optimizer_config, self.steps = optimizer, steps
        self.recipe = recipe
        self.reading = Reading(contrast.encoder.dimension, self.recipe) if parameters else None
        self.positives, self.parameters_weight = positives, parameters
        self.shuffle = shuffle

    def saved(self) -> set[str]:
        return set(self.state_dict())

    @torch.no_grad()
    def patches(self, batch: Crops | Patches) -> Patches:
        """Queries and keys in [0, 1], and what was done to both."""
        if isinstance(batch, Patches):
            return replace(batch, query=pixels(batch.query), key=pixels(batch.key))
        numbers = (self.seed, self.global_step, self.global_rank)
        with torch.autocast(batch.hr.device.type, enabled=False):
            pairs = degrade(pixels(batch.hr), self.recipe, self.positives, *numbers, given=batch)
        chosen = quadrants(len(batch.hr), self.generator(3))
        first, second = cut(pairs.first, chosen[:, 0]), cut(pairs.second, chosen[:, 1])
        return Patches(first, second, pairs.degradation, pairs.paired)

    def pictures(self, batch: Crops | Patches, count: int) -> dict[str, tuple[Tensor, int]]:
        """Queries, each with its key beside it: what the degradation made of the photographs."""
        made = self.patches(batch)
        return {"degraded": (torch.stack([made.query[:count], made.key[:count]], 1).flatten(0, 1), 2)}

    def training_step(self, batch: Crops | Patches) -> Tensor:
        """One batch -> the InfoNCE loss and, weighted, the error in reading the parameters."""
        made = self.patches(batch)
        exchange = self.generator(5, alike=True) if self.shuffle else None
        contrast, vectors = self.contrast(made.query, made.key, exchange)
        self.log("train/loss", contrast.loss.detach())
        self.log("train/accuracy", contrast.accuracy)
        if self.reading is None:
            return contrast.loss
        error = self.reading(vectors, made.degradation, made.paired)
        self.log("train/parameters", error.detach())
        return contrast.loss + self.parameters_weight * error

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer of all that is trained and its schedule, stepped after every batch."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return scheduled(trained, steps=self.steps, epoch=self.trainer.datamodule.epoch, **self.optimizer_config)

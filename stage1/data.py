"""The photographs of stage 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from deedsr.data.photos import PhotoCrops, list_photos


class RepeatedCrops(PhotoCrops):
    """`PhotoCrops` that come again after `repeat` steps, then as empty tensors: their degraded pictures were kept."""

    repeat: int | None = None

    def crop(self, step: int, sample: int) -> Tensor:
        """Crop number `sample` of the batch of `step` on this rank."""
        if self.repeat is None:
            return super().crop(step, sample)
        if step >= self.start_step + self.repeat:
            return torch.empty(3, 0, 0, dtype=torch.uint8)
        return super().crop(step % self.repeat, sample)


class Photographs(pl.LightningDataModule):
    """An endless stream of HR crops, uint8 (batch, 3, crop, crop), that goes on where a run was broken off.

    Args:
        roots: folders of photographs.
        crop: side of the crops in pixels.
        batch: crops a step on each device.
        repeat: steps after which the crops come again, see `RepeatedCrops`.
        seed: of the crops.
        split: takes only the photographs of this split, where a table beside the folder names it.
        workers: processes that decode.
        cache: keep the decoded photographs in memory, 3 bytes a pixel in each worker.
    """

    def __init__(
        self,
        roots: Sequence[str],
        crop: int,
        batch: int,
        repeat: int | None = None,
        seed: int = 0,
        split: str | None = None,
        workers: int = 0,
        cache: bool = False,
    ) -> None:
        super().__init__()
        if crop % 16:
            raise ValueError(f"crop must be a multiple of 16, so that its quadrants can be degraded, got {crop}")
        if repeat is not None and repeat < 1:
            raise ValueError(f"repeat must be at least 1 step, or null, got {repeat}")
        self.files = list_photos([roots] if isinstance(roots, str) else roots, split)
        self.crop, self.batch, self.repeat, self.seed = crop, batch, repeat, seed
        self.workers, self.cache = workers, cache

    @property
    def epoch(self) -> int:
        """Steps until as many crops were seen as there are photographs."""
        return math.ceil(len(self.files) / (self.batch * self.trainer.world_size))

    def train_dataloader(self) -> DataLoader:
        """The batches of this rank from the trainer's step on."""
        trainer = self.trainer
        crops = RepeatedCrops(
            self.files,
            self.crop,
            self.seed,
            self.batch,
            rank=trainer.global_rank,
            start_step=trainer.global_step,
            cache=self.cache,
        )
        crops.repeat = self.repeat
        return DataLoader(
            crops,
            batch_size=self.batch,
            num_workers=self.workers,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.workers > 0,
        )

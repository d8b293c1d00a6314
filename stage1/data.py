"""The photographs of stage 1."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from deedsr.data.flaws import distinct
from deedsr.data.photos import PhotoCrops, Root, list_photos

log = logging.getLogger(__name__)


class Photographs(pl.LightningDataModule):
    """An endless stream of HR crops, uint8 (batch, 3, crop, crop), that goes on where a run was broken off.

    Duplicates are left out, corrupt photographs replaced, small ones enlarged; the log says so once, at the end.

    Args:
        roots: photographs: folders, shards or lists, see `deedsr.data.photos.list_photos`.
        crop: side of the crops in pixels.
        batch: crops a step on each device.
        seed: of the crops.
        split: takes only the photographs of this split, where a table beside the folder names it.
        workers: processes that decode.
        cache: keep the decoded photographs in memory, 3 bytes a pixel in each worker.
    """

    def __init__(
        self,
        roots: Root | Sequence[Root],
        crop: int,
        batch: int,
        seed: int = 0,
        split: str | None = None,
        workers: int = 0,
        cache: bool = False,
    ) -> None:
        super().__init__()
        if crop % 16:
            raise ValueError(f"crop must be a multiple of 16, so that its quadrants can be degraded, got {crop}")
        self.files, self.duplicates = distinct(list_photos(roots, split))
        self.crop, self.batch, self.seed = crop, batch, seed
        self.workers, self.cache = workers, cache
        self.crops: PhotoCrops | None = None

    @property
    def epoch(self) -> int:
        """Steps until as many crops were seen as there are photographs."""
        return math.ceil(len(self.files) / (self.batch * self.trainer.world_size))

    def train_dataloader(self) -> DataLoader:
        """The batches of this rank from the trainer's step on."""
        trainer = self.trainer
        crops = self.crops = PhotoCrops(
            self.files,
            self.crop,
            self.seed,
            self.batch,
            rank=trainer.global_rank,
            start_step=trainer.global_step,
            cache=self.cache,
        )
        return DataLoader(
            crops,
            batch_size=self.batch,
            num_workers=self.workers,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.workers > 0,
        )

    def teardown(self, stage: str) -> None:
        """At the end of a run: what was wrong with the photographs that any rank has met since its start."""
        if self.crops is None:
            return
        flaws, strategy = self.crops.flaws, self.trainer.strategy
        flaws.marks = strategy.reduce(flaws.marks.to(strategy.root_device), reduce_op="max").cpu()
        if self.trainer.is_global_zero and (found := flaws.report(self.duplicates, self.crop)):
            log.warning(found)

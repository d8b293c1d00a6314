"""The batches of a run: a stream that goes on where the run was broken off, and photographs as such a stream."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from deedsr.data.flaws import distinct
from deedsr.data.photos import PhotoCrops, Root, TextOf, list_photos
from deedsr.data.stream import Stream

log = logging.getLogger(__name__)


class Batches(pl.LightningDataModule, ABC):
    """Batches of `batch` samples to each device; `workers` processes make them (0: the run's)."""

    def __init__(self, batch: int, workers: int = 0) -> None:
        super().__init__()
        self.batch, self.workers = batch, workers

    @abstractmethod
    def __len__(self) -> int:
        """Samples until one comes again, as far as that is known: photographs, or stored samples."""

    @abstractmethod
    def stream(self, rank: int, ranks: int, start: int) -> Stream:
        """The samples of one of `ranks` processes from its batch number `start` on."""

    @property
    def epoch(self) -> int:
        """Steps until all ranks together have seen as many samples as there are."""
        return math.ceil(len(self) / (self.batch * self.trainer.world_size))

    def train_dataloader(self) -> DataLoader:
        """The batches of this rank from the trainer's step on."""
        trainer = self.trainer
        start = trainer.global_step * trainer.accumulate_grad_batches
        stream = self.stream(trainer.global_rank, trainer.world_size, start)
        return stream.loader(self.workers, trainer.strategy.root_device.type == "cuda")


class Photographs(Batches):
    """Random HR crops of photographs, uint8 (batch, 3, crop, crop), with their texts if there are some.

    Duplicates are left out, corrupt photographs replaced, small ones enlarged; the log says so once, at the end.

    roots, split: see `deedsr.data.photos.list_photos`. crop: side in pixels. seed: of the crops. cache: keep the
    decoded photographs in memory, 3 bytes a pixel in each worker. text, enlarge: see `deedsr.data.photos.PhotoCrops`.
    """

    def __init__(
        self,
        roots: Root | Iterable[Root],
        crop: int,
        batch: int,
        seed: int = 0,
        split: str | None = None,
        workers: int = 0,
        cache: bool = False,
        text: TextOf | None = None,
        enlarge: float = 1.0,
    ) -> None:
        super().__init__(batch, workers)
        self.files, self.duplicates = distinct(list_photos(roots, split))
        self.crop, self.seed, self.cache, self.text, self.enlarge = crop, seed, cache, text, enlarge
        self.crops: PhotoCrops | None = None

    def __len__(self) -> int:
        return len(self.files)

    def stream(self, rank: int, ranks: int, start: int) -> PhotoCrops:
        self.crops = PhotoCrops(
            self.files, self.crop, self.seed, self.batch, rank, start, self.cache, self.text, self.enlarge
        )
        return self.crops

    def teardown(self, stage: str) -> None:
        """At the end of a run: what was wrong with the photographs that any rank has met since its start."""
        if self.crops is None:
            return
        flaws, strategy = self.crops.flaws, self.trainer.strategy
        flaws.marks = strategy.reduce(flaws.marks.to(strategy.root_device), reduce_op="max").cpu()
        if self.trainer.is_global_zero and (found := flaws.report(self.duplicates, self.crop)):
            log.warning(found)

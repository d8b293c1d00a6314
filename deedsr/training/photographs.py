"""The batches of a run: a stream that goes on where the run was broken off, and photographs as such a stream."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from deedsr.data.flaws import distinct
from deedsr.data.pair_crops import MixedCrops, Pair, PairCrops, list_pairs
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

    Duplicates are left out, corrupt photographs replaced, small ones enlarged; the log says so once, at the end. Where
    there are pairs, a share of the crops is of them, all of them without photographs, and has its LR with it; what is
    wrong with pairs the log says at the start, see `deedsr.data.pair_crops.list_pairs`.

    roots, split: see `deedsr.data.photos.list_photos`. crop: side in pixels. seed: of the crops. cache: keep the
    decoded photographs in memory, 3 bytes a pixel in each worker. text, enlarge: see `deedsr.data.photos.PhotoCrops`.
    pairs: folders of them. pair_share: 0 to 1. shifted: whether those are taken, too, whose LR is shifted. other:
    whether `Crops.other` is needed. Raises ValueError for another share, and what can't be trained on.
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
        pairs: str | Path | Sequence[str | Path] = (),
        pair_share: float = 0.3,
        shifted: bool = False,
        other: bool = False,
    ) -> None:
        super().__init__(batch, workers)
        self.files, self.duplicates = distinct(list_photos(roots, split))
        self.crop, self.seed, self.cache, self.text, self.enlarge = crop, seed, cache, text, enlarge
        self.crops: PhotoCrops | None = None
        self.pairs, self.share, self.other = _listed(pairs, pair_share, crop, split, shifted), pair_share, other

    def __len__(self) -> int:
        return len(self.files) + sum(map(len, self.pairs))

    def stream(self, rank: int, ranks: int, start: int) -> PhotoCrops | PairCrops | MixedCrops:
        numbers = (self.crop, self.seed, self.batch, rank, start, self.cache, self.text)
        if self.files or not self.pairs:
            self.crops = PhotoCrops(self.files, *numbers, self.enlarge)
        if not self.pairs:
            assert self.crops is not None
            return self.crops
        pairs = PairCrops(self.pairs, *numbers, self.other)
        return pairs if self.crops is None else MixedCrops(self.crops, pairs, self.share)

    def teardown(self, stage: str) -> None:
        """At the end of a run: what was wrong with the photographs that any rank has met since its start."""
        if self.crops is None:
            return
        flaws, strategy = self.crops.flaws, self.trainer.strategy
        flaws.marks = strategy.reduce(flaws.marks.to(strategy.root_device), reduce_op="max").cpu()
        if self.trainer.is_global_zero and (found := flaws.report(self.duplicates, self.crop)):
            log.warning(found)


def _listed(
    folders: str | Path | Sequence[str | Path], share: float, crop: int, split: str | None, shifted: bool
) -> list[list[Pair]]:
    """The pairs of each folder, after the log was told of them; none for a share of 0."""
    if not 0 <= share <= 1:
        raise ValueError(f"data.pair_share is {share}; it must be at least 0 and at most 1")
    if not share:
        return []
    found = []
    for folder in [folders] if isinstance(folders, str | Path) else folders:
        pairs, lines = list_pairs(folder, crop, split, shifted)
        found.append(pairs)
        for line in lines:
            log.info(line)
    return found

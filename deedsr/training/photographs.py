"""The batches of a run: a stream that goes on where the run was broken off, and photographs as such a stream."""

from __future__ import annotations

import hashlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from deedsr.data.batch import Batch
from deedsr.data.flaws import distinct, size
from deedsr.data.pair_crops import MixedCrops, PairCrops
from deedsr.data.pair_list import Pair, PairList, list_pairs
from deedsr.data.photos import Photo, PhotoCrops, Root, TextOf, list_photos
from deedsr.data.stream import Stream

T = TypeVar("T", Pair, Photo)

FEW = 4
"""Fewer pictures to validate on say little."""

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

    def said(self) -> str:
        """What they are, for people."""
        return f"{len(self)} samples that were made before"

    @property
    @abstractmethod
    def sources(self) -> Sequence[Photo]:
        """The files that samples are made of, in order."""

    @cached_property
    def fingerprint(self) -> str:
        """A digest of what is trained on: names and sizes of the files, in order, wherever they lie."""
        digest = hashlib.sha256()
        for file in self.sources:
            digest.update(f"{file.name}\0{size(file)}\0".encode())
        return digest.hexdigest()[:16]

    @property
    def epoch(self) -> int:
        """Steps until all ranks together have seen as many samples as there are."""
        return math.ceil(len(self) / (self.batch * self.trainer.world_size))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)

    def train_dataloader(self) -> DataLoader:
        """The batches of this rank, from the one on that the trainer has come to."""
        trainer = self.trainer
        start = trainer.fit_loop.total_batch_idx + 1
        stream = self.stream(trainer.global_rank, trainer.world_size, start)
        return stream.loader(self.workers, trainer.strategy.root_device.type == "cuda")


class Photographs(Batches):
    """Random HR crops of photographs, uint8 (batch, 3, crop, crop), with their texts if there are some.

    Duplicates are left out, corrupt photographs replaced, small ones enlarged; the log says so once, at the end. Where
    there are pairs, a share of the crops is of them, all of them without photographs, and has its LR with it; what is
    wrong with pairs the log says at the start, see `deedsr.data.pair_list.list_pairs`; `doubts` keeps it of those that
    are taken nevertheless, `unlike` those of them that show two things. `held_pairs`, or where there are no pairs
    `held_photos`, are what is held back.

    roots, split: see `deedsr.data.photos.list_photos`. crop: side in pixels. seed: of the crops. cache: keep the
    decoded photographs in memory, 3 bytes a pixel in each worker. text, enlarge: see `deedsr.data.photos.PhotoCrops`.
    pairs: folders of them. pair_share: 0 to 1. shifted: whether those are taken, too, whose LR is shifted or shows
    something else. other: whether `Crops.other` is needed. held_back: share of the pairs, or photographs, that is not
    trained on. min_edges: see `deedsr.data.photos.PhotoCrops`. Raises ValueError for another share, and what can't be
    trained on.
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
        pairs: Root | Sequence[Root] = (),
        pair_share: float = 0.3,
        shifted: bool = False,
        other: bool = False,
        held_back: float = 0.0,
        min_edges: float | None = None,
    ) -> None:
        super().__init__(batch, workers)
        self.files, self.duplicates = distinct(list_photos(roots, split))
        self.crop, self.seed, self.cache, self.text, self.enlarge = crop, seed, cache, text, enlarge
        self.min_edges = min_edges
        self.crops: PhotoCrops | None = None
        found = _listed(pairs, pair_share, crop, split, shifted)
        self.pairs, self.share, self.other = [part.pairs for part in found], pair_share, other
        self.doubts = [doubt for part in found for doubt in part.doubts]
        self.unlike = [pair for part in found for pair in part.unlike]
        self.held_pairs: list[Pair] = []
        self.held_photos: list[Photo] = []
        self._hold_back(held_back)

    def _hold_back(self, share: float) -> None:
        """Take a `share` of each folder's pairs, or of the photographs, from what is trained on; the log is told."""
        if not share:
            return
        if self.pairs:
            among = len(self) - len(self.files)
            held = self.held_pairs = [pair for folder in self.pairs for pair in chosen(folder, share)]
            self.pairs = [[pair for pair in folder if pair not in held] for folder in self.pairs]
            log.info("held back to validate on: %s", _told([pair.name for pair in held], among, "pairs", share))
            return
        among, photos = len(self.files), chosen(self.files, share)
        self.held_photos, self.files = photos, [photo for photo in self.files if photo not in photos]
        log.info("held back to validate on: %s", _told([*map(_stem, photos)], among, "photographs", share))

    def __len__(self) -> int:
        return len(self.files) + sum(map(len, self.pairs))

    def said(self) -> str:
        pairs = sum(map(len, self.pairs))
        return f"{len(self.files)} photographs" + f" and {pairs} pairs" * (pairs > 0) + f", crops of {self.crop}²"

    @property
    def sources(self) -> list[Photo]:
        return [*self.files, *(file for pairs in self.pairs for pair in pairs for file in (pair.lr, pair.hr))]

    def stream(self, rank: int, ranks: int, start: int) -> PhotoCrops | PairCrops | MixedCrops:
        numbers = (self.crop, self.seed, self.batch, rank, start, self.cache, self.text)
        if self.files or not self.pairs:
            self.crops = PhotoCrops(self.files, *numbers, self.enlarge, self.min_edges)
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


def chosen(found: Sequence[T], share: float) -> list[T]:
    """A `share` of what is `found`, by the stems of its files, always the same; at least two where there are four.

    Raises ValueError for a share that is none, and of a single one: there would be nothing to train on.
    """
    if not 0 <= share < 1:
        raise ValueError(f"data.held_back is {share}; it must be at least 0 and below 1")
    if len(found) < 2:
        raise ValueError(f"of {len(found)} none can be held back to validate on: give more, or data.held_back=0")
    count = max(1, min(max(2, round(share * len(found))), len(found) // 2))
    return sorted(found, key=lambda one: hashlib.sha256(_stem(one).encode()).digest())[:count]


def _stem(file: Pair | Photo) -> str:
    return file.name if isinstance(file, Pair) else file.stem


def _told(names: Sequence[str], among: int, what: str, share: float) -> str:
    more = f", more than the share of {share:g} that is asked for" * (len(names) > round(share * among))
    few = f"; so few say little, give more {what}" * (len(names) < FEW)
    return f"{len(names)} of {among} {what}, {_some(names)}{more}{few}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")


def _listed(
    folders: Root | Sequence[Root], share: float, crop: int, split: str | None, shifted: bool
) -> list[PairList]:
    """The pairs of each folder, after the log was told of them; none for a share of 0."""
    if not 0 <= share <= 1:
        raise ValueError(f"data.pair_share is {share}; it must be at least 0 and at most 1")
    if not share:
        return []
    found = [
        list_pairs(folder, crop, split, shifted)
        for folder in ([folders] if isinstance(folders, str | Path | Mapping) else folders)
    ]
    for line in (line for part in found for line in part.lines):
        log.info(line)
    return found

"""Training from samples that were made once: the shards of a cache, see `stage2.cache`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from deedsr import weights

log = logging.getLogger(__name__)


def numbered(folder: Path, index: int) -> Path:
    """The shard `index` of a cache; all hold as many samples as the first."""
    return folder / f"samples-{index:06d}.safetensors"


def check(file: Path, wanted: Mapping[str, Any]) -> None:
    """Raise ValueError where the shard `file` was not made of what is `wanted`."""
    stored = weights.header(file)
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{file}: its samples were made with {name}={stored.get(name)}, not {value}: give the run that {name}, "
                "or make another cache with `python -m stage2.cache`"
            )


class CachedSamples(IterableDataset):
    """Samples from shards, one after another, without end: rank r's batch m begins at number (m·ranks + r)·batch."""

    def __init__(self, files: list[Path], batch: int, ranks: int, rank: int, start: int) -> None:
        self.files, self.batch, self.ranks, self.rank, self.start = files, batch, ranks, rank, start
        with safe_open(files[0], "pt") as stored:
            self.names, self.each = list(stored.keys()), stored.get_slice("lr").get_shape()[0]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.start + first  # whole batches go to one worker, as in PhotoCrops
        while True:
            begin = (step * self.ranks + self.rank) * self.batch
            for number in range(begin, begin + self.batch):
                yield self.sample(number % (self.each * len(self.files)))
            step += stride

    def sample(self, number: int) -> dict[str, Tensor]:
        shard, row = divmod(number, self.each)
        with safe_open(self.files[shard], "pt") as stored:
            return {name: stored.get_slice(name)[row] for name in self.names}


class Cached(pl.LightningDataModule):
    """Batches of the samples in a cache; the stream starts at the trainer's current step.

    origin: what the samples must have been made of. pictures: whether the HR crops are needed too.
    Raises ValueError for a folder that holds no samples, lacks some, or holds those of another run.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any], batch: int, workers: int, pictures: bool) -> None:
        super().__init__()
        self.batch, self.workers = batch, workers
        self.files = sorted(folder.glob("samples-*.safetensors"))
        missing = [file for index in range(len(self.files) or 1) if not (file := numbered(folder, index)).is_file()]
        if missing:
            raise ValueError(f"{missing[0]}: missing; make it with `python -m stage2.cache cache={folder}`")
        first = weights.header(self.files[0])
        for file in self.files:
            check(file, {**origin, "batch": first.get("batch"), "samples": first.get("samples")})
        dataset = CachedSamples(self.files, self.batch, 1, 0, 0)
        if pictures and "hr" not in dataset.names:
            raise ValueError(f"{folder}: made without HR crops, which objective.fidelity needs; make another cache")
        log.info("%s: %d samples", folder, dataset.each * len(self.files))

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        start = trainer.global_step * trainer.accumulate_grad_batches
        dataset = CachedSamples(self.files, self.batch, trainer.world_size, trainer.global_rank, start)
        return DataLoader(dataset, self.batch, num_workers=self.workers, persistent_workers=self.workers > 0)

"""What stage 2 learns from, made of crops: as a batch, and stored in the shards of a cache, see `stage2.cache`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from deedsr import weights
from deedsr.data.batch import Batch
from deedsr.data.stream import Stream
from deedsr.training.photographs import Batches
from deedsr.training.shards import check, find, length

PREFIX = "samples"

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Samples(Batch):
    """LR images (B, 3, S/4, S/4), and the latents of HR, `z`, and of the up-sampled LR, `z_lr`.

    lr: uint8, or where the recipe has more than 8 bits, in [0, 1]; the images may show more than the latents, see
    `stage2.vector.Vector`. hr: the crops that they were made of, where a loss looks at pictures. tokens, pooled: as in
    `Crops`.
    """

    lr: Tensor
    z: Tensor
    z_lr: Tensor
    hr: Tensor | None = None
    tokens: Tensor | None = None
    pooled: Tensor | None = None


class CachedSamples(Stream):
    """Samples from shards, one after another, without end: rank r's batch m begins at number (m·ranks + r)·batch."""

    def __init__(self, files: list[Path], batch: int, ranks: int = 1, rank: int = 0, start: int = 0) -> None:
        super().__init__(batch, start)
        self.files, self.ranks, self.rank = files, ranks, rank
        self.each = length(files[0], "lr")

    def sample(self, step: int, number: int) -> Samples:
        """The same for every run over the same files."""
        place = (step * self.ranks + self.rank) * self.batch + number
        shard, row = divmod(place % (self.each * len(self.files)), self.each)
        with safe_open(self.files[shard], "pt") as stored:
            names = {field.name for field in fields(Samples)} & set(stored.keys())
            return Samples(**{name: stored.get_slice(name)[row] for name in names})


class Cached(Batches):
    """Batches of the samples in a cache.

    origin: what the samples must have been made of. pictures: whether the HR crops are needed too.
    Raises ValueError for a folder that holds no samples, lacks some, or holds those of another run.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any], batch: int, workers: int, pictures: bool) -> None:
        super().__init__(batch, workers)
        command = f"python -m stage2.cache cache={folder}"
        self.files = find(folder, PREFIX, command)
        first = weights.header(self.files[0])
        made_with = {**origin, **{name: first.get(name) for name in ("batch", "samples")}}
        for file in self.files:
            check(file, made_with, command)
        if pictures and CachedSamples(self.files, batch).sample(0, 0).hr is None:
            raise ValueError(f"{folder}: made without HR crops, which objective.fidelity needs; make another cache")
        log.info("%s: %d samples", folder, len(self))

    def __len__(self) -> int:
        return length(self.files[0], "lr") * len(self.files)

    @property
    def sources(self) -> list[Path]:
        return self.files

    def stream(self, rank: int, ranks: int, start: int) -> CachedSamples:
        return CachedSamples(self.files, self.batch, ranks, rank, start)

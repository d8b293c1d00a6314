"""Training from pairs that were made once: the shards of a pool, see `stage1.pool`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors import safe_open
from torch import Tensor

from deedsr.data.stream import Stream
from deedsr.degradation import Degradation
from deedsr.randomness import seeded
from deedsr.training.command import plain
from deedsr.training.photographs import Batches
from deedsr.training.shards import check, find, length
from stage1.views import Patches, cut, quadrants

PREFIX = "pairs"


def origin(cfg: DictConfig) -> dict[str, Any]:
    """What pairs are made of besides the photographs."""
    return {name: plain(cfg)[name] for name in ("recipe", "crop")}


class PoolRows(Stream):
    """`Patches` from shards; sample i of step s on rank r is a pure function of (seed, s, r, i).

    Samples 2i and 2i + 1 are neighbours in the pool: the key of the first shows the picture of the second's query.
    """

    def __init__(self, files: list[Path], positives: str, batch: int, seed: int, rank: int = 0, start: int = 0) -> None:
        super().__init__(batch, start)
        self.files, self.positives, self.seed, self.rank = files, positives, seed, rank
        self.sizes = [length(file, "first") for file in files]

    def sample(self, step: int, number: int) -> Patches:
        """Two quadrants of a pair, uint8 (3, h/2, w/2), and one row of the degradation's fields."""
        shared = seeded(self.seed, step, self.rank, number // 2)
        row = int(torch.randint(sum(self.sizes) // 2, (), generator=shared)) * 2 + number % 2
        generator = seeded(self.seed, step, self.rank, number)
        turn = int(torch.randint(8, (), generator=generator))
        places = quadrants(1, generator)
        shard = 0
        while row >= self.sizes[shard]:
            row -= self.sizes[shard]
            shard += 1
        second = "second" if self.positives == "same_degradation" else "first"
        with safe_open(self.files[shard], "pt") as stored:
            pictures = [stored.get_slice(name)[row : row + 1] for name in ("first", second)]
            names = {field.name for field in fields(Degradation)}
            paired = stored.get_slice("paired")[row] if "paired" in stored.keys() else None  # noqa: SIM118
            if "degradation.nearest" not in stored.keys():  # noqa: SIM118 - a pool of before there was a choice
                names.remove("nearest")
            degradation = {name: stored.get_slice(f"degradation.{name}")[row] for name in names}
            degradation.setdefault("nearest", torch.tensor(False))
        query, key = (turned(cut(picture, places[:, side])[0], turn) for side, picture in enumerate(pictures))
        return Patches(query, key, Degradation(**degradation), paired)


def turned(patch: Tensor, number: int) -> Tensor:
    """(3, h, w) in one of the 8 positions of a square, 0 … 7; the last four swap height and width."""
    patch = patch.transpose(1, 2) if number & 4 else patch
    return patch.flip([axis for axis, bit in ((1, 1), (2, 2)) if number & bit]).contiguous()


class Pool(Batches):
    """Batches of made pairs.

    Raises ValueError for a folder without shards, or with those of another crop or recipe (by what `recipe=` says).
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg.batch, cfg.data.workers)
        self.positives, self.seed = cfg.positives, cfg.seed
        command = f"python -m stage1.pool pool={cfg.pool}"
        self.files = find(Path(cfg.pool), PREFIX, command)
        for file in self.files:
            check(file, origin(cfg), command)

    def __len__(self) -> int:
        return sum(length(file, "first") for file in self.files)

    @property
    def sources(self) -> list[Path]:
        return self.files

    def stream(self, rank: int, ranks: int, start: int) -> PoolRows:
        return PoolRows(self.files, self.positives, self.batch, self.seed, rank, start)

"""Pairs of degraded pictures made once, for machines on which degrading takes longer than learning.

    python -m stage1.pool data.roots=[PHOTOS] pool=FOLDER pairs=7680
    python -m stage1.train data.roots=[PHOTOS] pool=FOLDER

Training cuts other quadrants out of the pictures and turns and mirrors them anew each time.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from deedsr import weights
from deedsr.data.flaws import distinct
from deedsr.data.photos import PhotoCrops, list_photos, seeded
from deedsr.degradation import Recipe
from stage1.views import cut, degrade, quadrants

BATCH = 16
"""Crops that are degraded together."""

log = logging.getLogger(__name__)


def origin(cfg: DictConfig) -> dict[str, Any]:
    """What pairs are made of besides the photographs."""
    return {name: OmegaConf.to_container(cfg)[name] for name in ("recipe", "crop")}


def make(cfg: DictConfig) -> Path:
    """Writes the shards that are missing; returns their folder. Raises ValueError for what can't be used."""
    if cfg.shard % BATCH or cfg.pairs % cfg.shard:
        raise ValueError(f"pairs={cfg.pairs} must be a multiple of shard={cfg.shard}, and that of {BATCH}")
    files, duplicates = distinct(list_photos(cfg.data.roots, cfg.data.split))
    recipe = Recipe.level(cfg.recipe) if isinstance(cfg.recipe, str) else instantiate(cfg.recipe)
    crops = PhotoCrops(files, cfg.crop, cfg.seed, BATCH, cache=cfg.data.cache)
    header = {**origin(cfg), "seed": cfg.seed, "shard": cfg.shard}
    for number in range(cfg.pairs // cfg.shard):
        path = Path(cfg.pool) / f"pairs-{number:06d}.safetensors"
        if path.is_file():
            check(path, header)
            continue
        rows = []
        for step in range(number * cfg.shard // BATCH, (number + 1) * cfg.shard // BATCH):
            hr = torch.stack([crops.crop(step, sample) for sample in range(BATCH)]).to(cfg.device).float() / 255
            made = degrade(hr, recipe, "same_degradation", cfg.seed, step, 0)
            pictures = {"first": made.first, "second": made.second}
            rows.append({name: (value * 255).round().byte() for name, value in pictures.items()})
            rows[-1].update({f"degradation.{name}": value for name, value in made.degradation.state().items()})
        weights.save(path, {name: torch.cat([row[name].cpu() for row in rows]) for name in rows[0]}, header)
        log.info("%s: %d pairs", path, cfg.shard)
    if found := crops.flaws.report(duplicates, cfg.crop):
        log.warning(found)
    return Path(cfg.pool)


def check(file: Path, words: dict[str, Any]) -> None:
    """Raises ValueError where a shard was made with other words."""
    stored = weights.header(file)
    for name, value in words.items():
        if stored.get(name) != value:
            raise ValueError(f"{file}: was made with {name}={stored.get(name)}, not {value}")


class PoolRows(IterableDataset):
    """Queries and keys from shards; sample i of step s on rank r is a pure function of (seed, s, r, i)."""

    def __init__(self, files: list[Path], positives: str, batch: int, seed: int, rank: int, start: int) -> None:
        self.files, self.positives, self.batch = files, positives, batch
        self.seed, self.rank, self.start = seed, rank, start
        self.sizes = [length(file) for file in files]

    def sample(self, step: int, number: int) -> dict[str, Any]:
        """``query`` and ``key``, uint8 (3, h/2, w/2), and ``degradation``, one row of its fields."""
        generator = seeded(self.seed, step, self.rank, number)
        row, turn = (int(torch.randint(n, (), generator=generator)) for n in (sum(self.sizes), 8))
        places = quadrants(1, generator)
        shard = 0
        while row >= self.sizes[shard]:
            row -= self.sizes[shard]
            shard += 1
        second = "second" if self.positives == "same_degradation" else "first"
        with safe_open(self.files[shard], "pt") as stored:
            pictures = [stored.get_slice(name)[row : row + 1] for name in ("first", second)]
            names = [name for name in stored.keys() if name.startswith("degradation.")]  # noqa: SIM118
            degradation = {name.removeprefix("degradation."): stored.get_slice(name)[row] for name in names}
        patches = [turned(cut(picture, places[:, column])[0], turn) for column, picture in enumerate(pictures)]
        return {"query": patches[0], "key": patches[1], "degradation": degradation}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.start + first  # whole batches go to one worker, as in PhotoCrops
        while True:
            yield from (self.sample(step, number) for number in range(self.batch))
            step += stride


def length(file: Path) -> int:
    """How many pairs a shard holds."""
    with safe_open(file, "pt") as stored:
        return stored.get_slice("first").get_shape()[0]


def turned(patch: Tensor, number: int) -> Tensor:
    """(3, h, w) in one of the 8 positions of a square, 0 … 7; the last four swap height and width."""
    patch = patch.transpose(1, 2) if number & 4 else patch
    return patch.flip([axis for axis, bit in ((1, 1), (2, 2)) if number & bit]).contiguous()


class Pool(pl.LightningDataModule):
    """Batches of made pairs; the stream starts at the trainer's current step.

    Raises ValueError for a folder without shards, or with those of another recipe or crop.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.files = sorted(Path(cfg.pool).glob("pairs-*.safetensors"))
        if not self.files:
            raise ValueError(f"pool={cfg.pool}: holds no pairs; make them with `python -m stage1.pool pool={cfg.pool}`")
        for file in self.files:
            check(file, origin(cfg))
        self.pairs = sum(map(length, self.files))

    @property
    def epoch(self) -> int:
        """Steps until as many queries were seen as there are pairs."""
        return math.ceil(self.pairs / (self.cfg.batch * self.trainer.world_size))

    def train_dataloader(self) -> DataLoader:
        """The batches of this rank from the trainer's step on."""
        cfg, trainer = self.cfg, self.trainer
        rows = PoolRows(self.files, cfg.positives, cfg.batch, cfg.seed, trainer.global_rank, trainer.global_step)
        return DataLoader(rows, cfg.batch, num_workers=cfg.data.workers, persistent_workers=cfg.data.workers > 0)


@hydra.main(config_path="../conf", config_name="pool", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """The command line."""
    try:
        make(cfg)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

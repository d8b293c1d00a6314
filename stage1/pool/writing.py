"""Makes a pool: pairs of degraded pictures in shards."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.batch import Crops
from deedsr.training.pace import Pace
from deedsr.training.photographs import Photographs
from deedsr.training.recipe import recipe
from deedsr.training.run import in_bytes, pixels
from deedsr.training.shards import check, numbered
from stage1.pool.pairs import PREFIX, origin
from stage1.views import Pairs, degrade

BATCH = 16
"""Crops that are degraded together."""

log = logging.getLogger(__name__)


def make_pool(cfg: DictConfig) -> Path:
    """Writes the shards that are missing; returns their folder. Raises ValueError for what can't be used."""
    if cfg.shard % BATCH or cfg.pairs % cfg.shard:
        raise ValueError(f"pairs={cfg.pairs} must be a multiple of shard={cfg.shard}, and that of {BATCH}")
    photos = Photographs(crop=cfg.crop, batch=BATCH, seed=cfg.seed, other=True, **cfg.data)
    degradations = recipe(cfg.recipe)
    crops = photos.stream(0, 1, 0)
    header = {**origin(cfg), "seed": cfg.seed, "shard": cfg.shard}
    if photos.pairs:
        header["pair_share"] = cfg.data.pair_share
    pace = Pace(cfg.pairs, "pairs")
    for number in range(cfg.pairs // cfg.shard):
        path = numbered(Path(cfg.pool), PREFIX, number)
        if path.is_file():
            check(path, header, f"python -m stage1.pool pool={cfg.pool}")
            continue
        rows = []
        for step in range(number * cfg.shard // BATCH, (number + 1) * cfg.shard // BATCH):
            batch = Crops.stack([crops.sample(step, sample) for sample in range(BATCH)]).to(cfg.device)
            made = degrade(pixels(batch.hr), degradations, "same_degradation", cfg.seed, step, 0, given=batch)
            first, second = made.first, made.second
            if degradations.eight_bits:
                first, second = map(in_bytes, (first, second))
            rows.append(Pairs(first, second, made.degradation, made.paired).tensors())
            pace.at((step + 1) * BATCH)
        weights.save(path, {name: torch.cat([row[name].cpu() for row in rows]) for name in rows[0]}, header)
        log.info("%s: %d pairs", path, cfg.shard)
    pace.close()
    if photos.crops is not None and (found := photos.crops.flaws.report(photos.duplicates, cfg.crop)):
        log.warning(found)
    return Path(cfg.pool)

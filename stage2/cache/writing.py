"""Makes a cache: the samples of a run of stage 2 in shards."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.batch import Crops
from deedsr.data.flaws import Flaws
from deedsr.training.fit import check as check_run
from deedsr.training.pace import Pace
from deedsr.training.run import generator
from deedsr.training.shards import check, numbered
from stage2.cache.samples import PREFIX, Samples
from stage2.from_config import origin, photographs, restoration_run
from stage2.module import DEGRADATION, RestorationRun

log = logging.getLogger(__name__)


def make_cache(cfg: DictConfig) -> Path:
    """Write the shards that are missing; returns their folder."""
    folder = Path(cfg.cache)
    if cfg.batches % cfg.shard:
        raise ValueError(f"batches={cfg.batches} must be a multiple of shard={cfg.shard}")
    check_run(cfg)
    words = cfg.trainer
    fabric = Fabric(
        accelerator=words.accelerator, devices=words.devices, num_nodes=words.num_nodes, precision=words.precision
    )
    fabric.launch()
    photos = photographs(cfg)
    flaws = Flaws(photos.files)
    run = restoration_run(cfg).to(fabric.device)
    header = {**origin(cfg), "batch": cfg.batch, "samples": cfg.shard * cfg.batch}
    shards = range(fabric.global_rank, cfg.batches // cfg.shard, fabric.world_size)
    pace = Pace(len(shards) * cfg.shard, "batches", bar=fabric.is_global_zero)
    for place, index in enumerate(shards):
        file = numbered(folder, PREFIX, index)
        if file.is_file():
            check(file, header, f"python -m stage2.cache cache={folder}")
            continue
        first = index * cfg.shard
        crops = photos.stream(0, 1, first)
        batches = islice(crops.loader(cfg.data.workers), cfg.shard)
        with fabric.autocast():
            made = []
            for at, batch in enumerate(batches):
                made.append(samples(run, fabric.to_device(batch), first + at).tensors())
                pace.at(place * cfg.shard + at + 1)
        weights.save(file, {name: torch.cat([part[name] for part in made]) for name in made[0]}, header)
        log.info("%s: %d samples", file, header["samples"])
        if photos.crops is not None:
            flaws.marks = flaws.marks.maximum(photos.crops.flaws.marks)
    pace.close()
    if found := flaws.report(photos.duplicates, photos.crop):
        log.warning(found)
    return folder


def samples(run: RestorationRun, batch: Crops, number: int) -> Samples:
    """What `run` makes of the batch `number`, on the CPU; the HR crops only where its objective looks at them."""
    made = run.samples(batch, generator(run.seed, number, 0, DEGRADATION)).to("cpu")
    return replace(made, hr=None) if run.objective.fidelity is None else made

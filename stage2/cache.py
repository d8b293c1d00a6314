"""Make the samples of a run once: crops, their degradations, and the latents of both, in safetensors shards.

    python -m stage2.cache data.roots=[PHOTOS] cache=FOLDER batches=1000      # more words as for stage2.train
    python -m stage2.train data.roots=[] cache=FOLDER

The samples are those that the run with the same words would make by itself on one device, in the same order; after the
last one they come again, with other noise at other times. Several devices (trainer.devices=8) share the work, and the
same command goes on where one was broken off.
"""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path

import hydra
import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from deedsr import weights
from deedsr.data.flaws import Flaws
from deedsr.data.photos import PhotoCrops
from stage2.module import RestorationRun
from stage2.run import Batch, Crops, command, generator
from stage2.samples import check, numbered
from stage2.train import build, origin, texts

log = logging.getLogger(__name__)


def make(cfg: DictConfig) -> Path:
    """Write the shards that are missing; returns their folder."""
    folder = Path(cfg.cache)
    if cfg.batches % cfg.shard:
        raise ValueError(f"batches={cfg.batches} must be a multiple of shard={cfg.shard}")
    words = cfg.trainer
    fabric = Fabric(
        accelerator=words.accelerator, devices=words.devices, num_nodes=words.num_nodes, precision=words.precision
    )
    fabric.launch()
    photos = Crops(cfg.data, cfg.crop, cfg.batch, cfg.seed)
    flaws = Flaws(photos.files)
    run = build(cfg).to(fabric.device)
    header = {**origin(cfg), "batch": cfg.batch, "samples": cfg.shard * cfg.batch}
    for index in range(fabric.global_rank, cfg.batches // cfg.shard, fabric.world_size):
        file = numbered(folder, index)
        if file.is_file():
            check(file, header)
            continue
        first, beside = index * cfg.shard, texts(cfg)
        options = {"start_step": first, "cache": cfg.data.cache, "beside": beside, "enlarge": cfg.enlarge}
        crops = PhotoCrops(photos.files, cfg.crop, cfg.seed, cfg.batch, **options)
        batches = islice(DataLoader(crops, cfg.batch, num_workers=cfg.data.workers), cfg.shard)
        with fabric.autocast():
            made = [samples(run, fabric.to_device(batch), first + at) for at, batch in enumerate(batches)]
        weights.save(file, {name: torch.cat([part[name] for part in made]) for name in made[0]}, header)
        log.info("%s: %d samples", file, header["samples"])
        flaws.marks = flaws.marks.maximum(crops.flaws.marks)
    if found := flaws.report(photos.duplicates, cfg.crop):
        log.warning(found)
    return folder


def samples(run: RestorationRun, batch: Batch, number: int) -> dict[str, Tensor]:
    """What `run` makes of the batch `number`, on the CPU; the HR crops only where its objective looks at them."""
    made = run.made(batch, generator(run.seed, number, 0, 1))
    if run.objective.fidelity is None:
        del made["hr"]
    return {name: tensor.cpu() for name, tensor in made.items()}


@hydra.main(version_base="1.3", config_path="../conf", config_name="cache")
def main(cfg: DictConfig) -> None:
    command(make, cfg)


if __name__ == "__main__":
    main()

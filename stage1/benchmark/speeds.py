"""How fast stage 1 is, part by part."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import median

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from deedsr.data.photos import PhotoCrops
from deedsr.degradation import Mixture, Recipe, apply
from deedsr.files import write_json
from deedsr.randomness import seeded
from stage1.from_config import batches, degradation_learner, photographs


@dataclass(frozen=True)
class Speeds:
    """What was measured; images are HR crops of `crop` pixels, rates are medians, in images a second.

    degradation: the recipe on the device, nothing else. per_image: the same recipe with basicsr on the CPU, image by
    image in `workers` processes. ratio: the first by the second, the median over rounds that time both. loader:
    decoding and cropping in `workers` processes, nothing else. step: the whole training step, data included. waiting:
    the share of the time of steps in which the device waits for data.
    """

    device: str
    threads: int
    workers: int
    crop: int
    batch: int
    degradation: float
    per_image: float
    ratio: float
    loader: float
    step: float
    waiting: float

    def table(self) -> str:
        """The rates as a Markdown table, with what they were measured on."""
        way = f"{self.workers} workers" if self.workers else "the main process"
        rows = {
            f"degradation on {self.device}": f"{self.degradation:.2f} images/s",
            f"degradation image by image with basicsr in {way}": f"{self.per_image:.2f} images/s",
            "ratio of the two": f"{self.ratio:.2f}",
            f"decoding and cropping in {way}": f"{self.loader:.2f} images/s",
            "training step": f"{self.step:.2f} images/s",
            "share of it in which the device waits for data": f"{self.waiting:.1%}",
        }
        lines = [f"| {name} | {value} |" for name, value in rows.items()]
        title = f"| {self.crop}² crops, batches of {self.batch}, {self.threads} threads | |"
        return "\n".join([title, "|---|---|", *lines]) + "\n"


class Stopwatch(pl.Callback):
    """Seconds of each step, and of the wait for its data, in which the device has nothing to do."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.waits: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.last = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        self.waits.append(time.perf_counter() - self.last)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        _wait_for(trainer.strategy.root_device)
        now = time.perf_counter()
        self.steps.append(now - self.last)
        self.last = now


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _seconds(work: Callable[[], object], warmup: int, steps: int, device: torch.device) -> list[float]:
    """Of each of `steps` calls, the first `warmup` not counted."""
    times = []
    for _ in range(warmup + steps):
        _wait_for(device)
        begin = time.perf_counter()
        work()
        _wait_for(device)
        times.append(time.perf_counter() - begin)
    return times[warmup:]


def _loading(loader: DataLoader, warmup: int, steps: int) -> list[float]:
    """Seconds of a batch; `steps` times one batch of each worker is timed, as their batches come in bursts."""
    together = max(1, loader.num_workers)
    stream: Iterator[object] = iter(loader)
    times = _seconds(lambda: list(islice(stream, together)), warmup, steps, torch.device("cpu"))
    return [seconds / together for seconds in times]


def measure(cfg: DictConfig) -> Speeds:
    """Times the run that `cfg` describes, on one device.

    Raises ValueError for photographs or numbers that can't be used.
    """
    times, batch = cfg.benchmark, cfg.batch
    if cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1:
        raise ValueError("a benchmark is of one device: trainer.devices=1 trainer.num_nodes=1")
    watch = Stopwatch()
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[watch],
        max_steps=times.warmup + times.steps,
        max_epochs=-1,
    )
    device = trainer.strategy.root_device
    module = degradation_learner(cfg)
    photos = photographs(cfg)
    data = batches(cfg) if cfg.pool else photos
    stream = PhotoCrops(photos.files, cfg.crop, cfg.seed, batch)
    crops = torch.stack([stream.crop(0, number) for number in range(batch)])

    ours, theirs = _degradations(crops, module.recipe, device, cfg)
    loading = _loading(stream.loader(photos.workers), times.warmup, times.steps)
    trainer.fit(module, datamodule=data)
    steps, waits = watch.steps[times.warmup :], watch.waits[times.warmup :]
    return Speeds(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        workers=photos.workers,
        crop=cfg.crop,
        batch=batch,
        degradation=batch / median(ours),
        per_image=batch / median(theirs),
        ratio=median(slow / fast for fast, slow in zip(ours, theirs, strict=True)),
        loader=batch / median(loading),
        step=batch / median(steps),
        waiting=sum(waits) / sum(steps),
    )


def _degradations(
    crops: Tensor, recipe: Recipe | Mixture, device: torch.device, cfg: DictConfig
) -> tuple[list[float], list[float]]:
    """Median seconds of a batch on the device, and image by image, of each round of both."""
    from stage1.benchmark.per_image import PerImage  # where there is no basicsr the command says so in one line

    hr, number = crops.to(device).float() / 255, iter(range(sys.maxsize))
    times, ours, theirs = cfg.benchmark, [], []

    def batched() -> Tensor:
        return apply(hr, recipe.sample(seeded(cfg.seed, next(number)), len(hr)))

    for _ in range(times.rounds):
        ours.append(median(_seconds(batched, times.warmup, times.steps, device)))
        loader = DataLoader(PerImage(crops, recipe), len(crops), num_workers=cfg.data.workers)
        theirs.append(median(_loading(loader, times.warmup, times.steps)))
    return ours, theirs


def speeds_table(cfg: DictConfig) -> str:
    """The table; writes JSON where `output` names a file."""
    speeds = measure(cfg)
    if cfg.output:
        write_json(cfg.output, asdict(speeds))
    return speeds.table()

"""What a run says: at its start what will happen, after a few steps how long it takes, and on its way how far it is."""

from __future__ import annotations

import logging
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from deedsr.devices import peak_memory
from deedsr.training.command import plain
from deedsr.training.pace import Pace, duration

FIRST = 20  # steps after which the run says how long it will take, or as many as …
SECONDS = 60.0  # … fit in here
SHOWN = ("loss", "accuracy", "parameters", "mse", "perceptual", "l1")  # of what is logged, with the progress

log = logging.getLogger(__name__)


class Progress(pl.Callback):
    """Says all of that for the run of a configuration whose files go to `output`. bar: whether a terminal shows one."""

    def __init__(self, cfg: DictConfig, output: Path, bar: bool) -> None:
        self.cfg, self.output, self.bar = cfg, output, bar

    def on_train_start(self, trainer: pl.Trainer, run: Any) -> None:
        if not trainer.is_global_zero:
            return
        for name, text in start(self.cfg, self.output, trainer, run).items():
            log.info("%-12s %s", name, text)
        self.pace = Pace(int(trainer.max_steps), "steps", trainer.global_step, self.bar)
        self.told = False

    def on_train_batch_end(self, trainer: pl.Trainer, run: pl.LightningModule, *_: Any) -> None:
        if not trainer.is_global_zero or trainer.global_step == self.pace.done:
            return
        self.pace.at(trainer.global_step, partial(_numbers, trainer))
        taken, seconds = self.pace.done - self.pace.first, time.monotonic() - self.pace.begun
        if not self.told and (taken >= FIRST or seconds >= SECONDS or self.pace.done == self.pace.total):
            self.told = True
            memory = peak_memory(trainer.strategy.root_device) / 1e9
            log.info(
                "%d steps took %s: %s left; peak memory %.1f GB", taken, duration(seconds), self.pace.left(), memory
            )

    def on_train_end(self, trainer: pl.Trainer, run: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.pace.close()

    def on_exception(self, trainer: pl.Trainer, run: pl.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "pace"):
            self.pace.close()


def start(cfg: DictConfig, output: Path, trainer: pl.Trainer, run: Any) -> dict[str, str]:
    """What a run is about to do, by name."""
    data, device = trainer.datamodule, trainer.strategy.root_device
    kind = f"{device.type}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    ranks, accumulated = trainer.world_size, trainer.accumulate_grad_batches
    first, steps = trainer.global_step, int(trainer.max_steps)
    return {
        "model": _model(cfg),
        "trained": ", ".join(f"{name} {_millions(count)}" for name, count in trained(run).items()),
        "in all": f"{_millions(sum(parameter.numel() for parameter in run.parameters()))} parameters",
        "data": data.said(),
        "recipe": str(cfg.get("recipe")),
        "batch": f"{data.batch * ranks * accumulated} in all: {data.batch} on each of {ranks}, {accumulated} times",
        "steps": f"{steps}, a checkpoint every {cfg.checkpoint_every}; an epoch is {data.epoch}",
        "optimizer": ", ".join(f"{name} {value}" for name, value in _optimizer(cfg, trainer).items()),
        "device": f"{kind}; precision {trainer.precision}",
        "output": str(output),
        "begins": f"goes on after step {first} of {steps}" if first else "fresh, at step 0",
    }


def _numbers(trainer: pl.Trainer) -> dict[str, Any]:
    """What goes with the progress; a GPU is waited for here, and not at every step, as Lightning's own bar does."""
    found = {name.removeprefix("train/"): value for name, value in trainer.callback_metrics.items()}
    return {name: f"{float(found[name]):.3g}" for name in SHOWN if name in found}


def trained(run: torch.nn.Module) -> dict[str, int]:
    """Trained parameters by part."""
    counts: Counter[str] = Counter()
    for name, parameter in run.named_parameters():
        if parameter.requires_grad:
            counts[name.removeprefix("model.").split(".")[0]] += parameter.numel()
    return dict(counts)


def _model(cfg: DictConfig) -> str:
    words = plain(cfg.get("model"))
    if "base" in words:
        begun = f", begun as {cfg.init}" if cfg.get("init") else ""
        return f"{words['system']} of size {words['size']} on {words['base']}{begun}"
    if words:
        return f"that of {cfg.init}"
    return f"size {cfg.encoder.size if 'encoder' in cfg else cfg.size}"


def _optimizer(cfg: DictConfig, trainer: pl.Trainer) -> dict[str, Any]:
    group = trainer.optimizers[0].param_groups[0]
    rate = {"lr": f"{group['initial_lr']:g}", "weight decay": f"{group['weight_decay']:g}"}
    return {"kind": type(trainer.optimizers[0]).__name__, **rate}


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 1e5 else f"{count / 1e3:.1f} thousand"

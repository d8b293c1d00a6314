"""What is kept of a run beside its losses: rates, and pictures of what it learns from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import LearningRateMonitor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torchvision.utils import make_grid

from deedsr.devices import peak_memory
from deedsr.training.command import plain
from deedsr.training.loggers import log_picture, log_words


def watching(cfg: DictConfig) -> list[pl.Callback]:
    """What logs how the run of a configuration goes, where it has a logger."""
    if not cfg.get("logger"):
        return []
    pictures = [Pictures(**cfg.pictures)] if cfg.get("pictures") else []
    return [LearningRateMonitor("step"), Numbers(plain(cfg)), *pictures]


class Numbers(pl.Callback):
    """Logs the configuration, and as often as the trainer logs all else the norm of the gradient before clipping,
    samples a second of all devices together, and the peak of memory.
    """

    def __init__(self, words: Mapping[str, Any]) -> None:
        self.words = words

    def setup(self, trainer: pl.Trainer, run: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                log_words(logger, self.words)

    def on_train_start(self, trainer: pl.Trainer, run: pl.LightningModule) -> None:
        self.since, self.step = time.perf_counter(), trainer.global_step

    def on_before_optimizer_step(self, trainer: pl.Trainer, run: pl.LightningModule, optimizer: Optimizer) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            gradients = [parameter.grad for parameter in run.parameters() if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            run.log("train/gradient_norm", norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def on_train_batch_end(self, trainer: pl.Trainer, run: pl.LightningModule, *_: Any) -> None:
        steps = trainer.global_step - self.step
        if trainer.global_step % trainer.log_every_n_steps or not steps:
            return
        samples = steps * trainer.accumulate_grad_batches * trainer.datamodule.batch * trainer.world_size
        run.log("train/samples_per_second", samples / (time.perf_counter() - self.since))
        run.log("train/peak_gigabytes", peak_memory(trainer.strategy.root_device) / 1e9)
        self.since, self.step = time.perf_counter(), trainer.global_step


class Pictures(pl.Callback):
    """Every `every` steps, the first included, logs what `Run.pictures` shows of `count` samples of that step."""

    def __init__(self, every: int, count: int) -> None:
        self.every, self.count, self.shown = every, count, -1

    def on_train_batch_start(self, trainer: pl.Trainer, run: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step % self.every or step == self.shown or not trainer.loggers or trainer.fast_dev_run:
            return
        self.shown = step
        for name, (pictures, columns) in run.pictures(batch, self.count).items():  # on every rank, as the loss
            if trainer.is_global_zero:
                grid = make_grid(pictures.float().cpu(), columns)
                for logger in trainer.loggers:
                    log_picture(logger, f"pictures/{name}", grid, step)

"""What the runs of stage 2 share: the photographs of a step, a trainer from the configuration, and resuming."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from torch.utils.data import DataLoader

from deedsr.data.photos import PhotoCrops, list_photos

log = logging.getLogger(__name__)


class Crops(pl.LightningDataModule):
    """Batches of uint8 HR crops (B, 3, size, size); the stream starts at the trainer's current step."""

    def __init__(self, data: DictConfig, size: int, batch: int, seed: int) -> None:
        super().__init__()
        self.data, self.size, self.batch, self.seed = data, size, batch, seed

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        crops = PhotoCrops(
            list_photos(self.data.roots, self.data.split),
            self.size,
            self.seed,
            self.batch,
            trainer.global_rank,
            trainer.global_step * trainer.accumulate_grad_batches,
            self.data.cache,
        )
        return DataLoader(crops, self.batch, num_workers=self.data.workers, persistent_workers=self.data.workers > 0)


def fit(
    cfg: DictConfig,
    module: pl.LightningModule,
    crops: Crops,
    output: Path,
    steps: int,
    callbacks: Sequence[Callback] = (),
) -> pl.Trainer:
    """Train `module` until `steps`, going on from ``output/last.ckpt`` if there is one; leaves that file at the end."""
    checkpoint = output / "last.ckpt"
    saver = ModelCheckpoint(
        output,
        "last",
        every_n_train_steps=cfg.checkpoint_every,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
    trainer: pl.Trainer = hydra.utils.instantiate(
        cfg.trainer,
        logger=hydra.utils.instantiate(cfg.logger, save_dir=str(output)) if cfg.logger else False,
        callbacks=[saver, *([LearningRateMonitor("step")] if cfg.logger else []), *callbacks],
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=str(output),
        use_distributed_sampler=False,
    )
    if checkpoint.is_file():
        log.info("going on from %s", checkpoint)
        trainer.fit(module, crops, ckpt_path=str(checkpoint), weights_only=True)
    else:
        trainer.fit(module, crops)
    if trainer.global_step >= steps:
        trainer.save_checkpoint(checkpoint)
    return trainer


def pixels(batch: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, H, W) → float32 in [0, 1]."""
    return batch.float() / 255


def adamw(
    parameters: list[torch.nn.Parameter],
    lr: float,
    warmup: int,
    steps: int,
    weight_decay: float = 0.01,
    schedule: str = "cosine",
) -> dict:
    """AdamW with linear warm-up over `warmup` steps, then ``constant`` or a ``cosine`` down to zero at `steps`."""
    if schedule not in ("cosine", "constant"):
        raise ValueError(f"unknown optimizer.schedule {schedule!r}; there are: cosine, constant")
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(warmup, 1))
        return rise if schedule == "constant" else rise * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))

    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}

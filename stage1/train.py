"""Trains the degradation learner: ``python -m stage1.train data.roots=[FOLDER]``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from deedsr import weights
from deedsr.encoder.momentum import MomentumContrast
from stage1.data import Photographs
from stage1.module import DegradationLearner
from stage1.pool import Pool
from stage1.probing import Probing

log = logging.getLogger(__name__)


class WholeCheckpoints(TorchCheckpointIO):
    """Gives a checkpoint its name when it is whole: one that is cut off never takes the place of the last."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        part = f"{path}.part"
        super().save_checkpoint(checkpoint, part, storage_options)
        os.replace(part, path)


class EncoderFile(pl.Callback):
    """Writes ``encoder.safetensors`` beside each checkpoint: what stage 2 takes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Writes the query encoder, without the head."""
        if trainer.is_global_zero:
            encoder = pl_module.contrast.encoder
            weights.save(self.path, encoder.state_dict(), encoder.config())


def build(cfg: DictConfig) -> DegradationLearner:
    """The module of a configuration, initialised from its seed."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    contrast = MomentumContrast(instantiate(cfg.encoder), **cfg.contrast)
    if cfg.compile:
        for network in (contrast.encoder, contrast.key_encoder):
            network.compile()  # in place: names in checkpoints stay
    return DegradationLearner(
        contrast=contrast,
        optimizer=instantiate(cfg.optimizer),
        schedule=instantiate(cfg.schedule),
        recipe=cfg.recipe if isinstance(cfg.recipe, str) else instantiate(cfg.recipe),
        positives=cfg.positives,
        parameters=cfg.parameters,
        shuffle=cfg.shuffle,
        seed=cfg.seed,
    )


def make_trainer(cfg: DictConfig, output: Path, encoder: Path) -> pl.Trainer:
    """The trainer of a configuration, with its log, its checkpoint and the encoder's file in `output`.

    Raises ValueError for accumulated gradients: negatives come from the queue, which moves with every batch.
    """
    if cfg.trainer.accumulate_grad_batches != 1:
        raise ValueError("trainer.accumulate_grad_batches must be 1 in stage 1; take a larger batch or more devices")
    checkpoint = ModelCheckpoint(
        output,
        "last",
        every_n_train_steps=cfg.checkpoint_every,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
    callbacks = [checkpoint, EncoderFile(encoder)]
    logger = instantiate(cfg.logger, save_dir=str(output)) if cfg.logger else False
    if logger:
        callbacks.append(LearningRateMonitor("step"))
    if cfg.probe.every is not None:
        callbacks.append(Probing(cfg.data.roots, cfg.probe, cfg.seed))
    return instantiate(
        cfg.trainer,
        logger=logger,
        plugins=[WholeCheckpoints()],
        callbacks=callbacks,
        max_steps=cfg.steps,
        max_epochs=-1,
        default_root_dir=str(output),
        use_distributed_sampler=False,
    )


def train(cfg: DictConfig) -> Path:
    """Runs, or goes on with, the run that `cfg` describes; returns the path of its ``encoder.safetensors``.

    A run goes on from ``last.ckpt`` in its output folder to the bit; one that has taken all its steps is left alone.
    Raises ValueError for photographs or numbers that can't be used.
    """
    output = Path(cfg.output)
    last, encoder = output / "last.ckpt", output / "encoder.safetensors"
    if last.is_file():
        done = weights.load_checkpoint(last)["global_step"]
        if done >= cfg.steps and encoder.is_file():
            log.info("%s: finished, %d steps; a number above steps=%d goes on", output, done, cfg.steps)
            return encoder
        log.info("%s: goes on after step %d", output, done)
    data = Pool(cfg) if cfg.pool else Photographs(crop=cfg.crop, batch=cfg.batch, seed=cfg.seed, **cfg.data)
    module = build(cfg)
    trainer = make_trainer(cfg, output, encoder)
    trainer.fit(module, datamodule=data, ckpt_path=last if last.is_file() else None, weights_only=True)
    if trainer.global_step % cfg.checkpoint_every or not encoder.is_file():
        trainer.save_checkpoint(last, weights_only=False)
    return encoder


@hydra.main(config_path="../conf", config_name="stage1", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """The command line."""
    launched = HydraConfig.get()
    if launched.mode is RunMode.MULTIRUN:
        cfg.output = launched.runtime.output_dir
    try:
        train(cfg)
    except (ValueError, InstantiationException) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

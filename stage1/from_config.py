"""A run of stage 1, from its configuration: its parts, and training with them."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from deedsr import weights
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.folder import load_encoder
from deedsr.models.deedsr.sizes import model_size
from deedsr.training.command import plain
from deedsr.training.fit import finished, fit
from deedsr.training.photographs import Batches, Photographs
from deedsr.training.recipe import recipe
from stage1.module import DegradationLearner
from stage1.momentum import MomentumContrast
from stage1.pool.pairs import Pool
from stage1.probe.while_training import Probing


def encoder(cfg: DictConfig) -> DegradationEncoder:
    """That of a model's size, with other numbers where the configuration has some, or the one in the file `cfg.init`.

    Raises ValueError for a file whose encoder has other numbers than the configuration says.
    """
    overrides = {"encoder": plain(cfg.encoder.overrides)}
    numbers = model_size(cfg.encoder.size, overrides, ("encoder",)).encoder
    if cfg.init is None:
        return DegradationEncoder(**numbers)
    given = load_encoder(Path(cfg.init))
    there = given.config()
    if differ := [
        f"{name}={there[name]}, not {numbers.get(name)}" for name in there if there[name] != numbers.get(name)
    ]:
        raise ValueError(f"{cfg.init}: has {'; '.join(differ)}; let encoder.size and encoder.overrides say so")
    return given


def degradation_learner(cfg: DictConfig) -> DegradationLearner:
    """The module of a configuration, initialised from its seed."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    contrast = MomentumContrast(encoder(cfg), **cfg.contrast)
    if cfg.compile:
        for network in (contrast.encoder, contrast.key_encoder):
            network.compile()  # in place: names in checkpoints stay
    return DegradationLearner(
        contrast=contrast,
        optimizer=cfg.optimizer,
        steps=cfg.steps,
        recipe=recipe(cfg.recipe),
        positives=cfg.positives,
        parameters=cfg.parameters,
        shuffle=cfg.shuffle,
        seed=cfg.seed,
    )


def photographs(cfg: DictConfig) -> Photographs:
    """The photographs of a configuration.

    Raises ValueError for crops whose quadrants can't be degraded, and for pairs of a single folder alone.
    """
    if cfg.crop % 16:
        raise ValueError(f"crop must be a multiple of 16, so that its quadrants can be degraded, got {cfg.crop}")
    other = cfg.positives == "same_degradation"
    found = Photographs(crop=cfg.crop, batch=cfg.batch, seed=cfg.seed, other=other, **cfg.data)
    if other and len(found.pairs) == 1 and (not found.files or found.share == 1):
        raise ValueError(
            f"{cfg.data.pairs[0]}: a folder of pairs counts as one degradation, and one can't be told from others: "
            "give data.roots, or another folder, too"
        )
    return found


def batches(cfg: DictConfig) -> Batches:
    """What a configuration trains on: photographs, or pairs that were made of them."""
    return Pool(cfg) if cfg.pool else photographs(cfg)


class EncoderFile(pl.Callback):
    """Writes ``encoder.safetensors`` beside each checkpoint: what stage 2 takes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Writes the query encoder, without the head."""
        if trainer.is_global_zero:
            encoder = pl_module.contrast.encoder
            weights.save(self.path, encoder.state_dict(), encoder.config())


def train(cfg: DictConfig) -> Path:
    """Runs, or goes on with, the run that `cfg` describes; returns the path of its ``encoder.safetensors``.

    A run goes on from ``last.ckpt`` in its output folder to the bit; one that has taken all its steps is left alone.
    Raises ValueError for photographs or numbers that can't be used, as accumulated gradients: negatives come from the
    queue, which moves with every batch.
    """
    output = Path(cfg.output)
    encoder = output / "encoder.safetensors"
    if cfg.trainer.accumulate_grad_batches != 1:
        raise ValueError("trainer.accumulate_grad_batches must be 1 in stage 1; take a larger batch or more devices")
    data = batches(cfg)
    if finished(cfg, data, output, cfg.steps, encoder):
        return encoder
    callbacks: list[pl.Callback] = [EncoderFile(encoder)]
    if cfg.probe.every is not None:
        callbacks.append(Probing(cfg.data.roots, cfg.probe, cfg.seed))
    fit(cfg, degradation_learner(cfg), data, output, cfg.steps, callbacks, encoder)
    return encoder

"""The parts of a run of stage 1, from its configuration."""

from __future__ import annotations

import pytorch_lightning as pl
from omegaconf import DictConfig

from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.sizes import model_size
from deedsr.training.command import plain
from deedsr.training.photographs import Batches, Photographs
from deedsr.training.recipe import recipe
from stage1.module import DegradationLearner
from stage1.momentum import MomentumContrast
from stage1.pool.pairs import Pool


def encoder(cfg: DictConfig) -> DegradationEncoder:
    """That of a model's size, with other numbers where the configuration has some."""
    overrides = {"encoder": plain(cfg.encoder.overrides)}
    return DegradationEncoder(**model_size(cfg.encoder.size, overrides, ("encoder",)).encoder)


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
    """The photographs of a configuration; ValueError for crops whose quadrants can't be degraded."""
    if cfg.crop % 16:
        raise ValueError(f"crop must be a multiple of 16, so that its quadrants can be degraded, got {cfg.crop}")
    other = cfg.positives == "same_degradation"
    return Photographs(crop=cfg.crop, batch=cfg.batch, seed=cfg.seed, other=other, **cfg.data)


def batches(cfg: DictConfig) -> Batches:
    """What a configuration trains on: photographs, or pairs that were made of them."""
    return Pool(cfg) if cfg.pool else photographs(cfg)

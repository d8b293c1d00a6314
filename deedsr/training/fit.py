"""Training itself: trainer, log and checkpoints of a run, and going on where it was broken off."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from deedsr import weights
from deedsr.training.command import plain
from deedsr.training.photographs import Batches
from deedsr.training.run import Run

LAST = "last.ckpt"

REFUSED = {
    "max_steps": "say steps=…",
    **dict.fromkeys(("max_epochs", "min_epochs"), "a run counts steps, say steps=…"),
    "logger": "say logger=…",
    "default_root_dir": "say output=…",
    "enable_checkpointing": "a run always keeps its last step; +trainer.fast_dev_run=true tries one and writes nothing",
    **dict.fromkeys(
        ("limit_train_batches", "overfit_batches", "reload_dataloaders_every_n_epochs", "use_distributed_sampler"),
        "samples come without end, each rank's its own; fewer photographs are another data.roots",
    ),
    **dict.fromkeys(
        ("val_check_interval", "check_val_every_n_epoch", "limit_val_batches", "num_sanity_val_steps"),
        "say how often and how many in validation=…",
    ),
}
"""Words of the trainer that a run can't heed, and what to say instead."""

log = logging.getLogger(__name__)


class WholeCheckpoints(TorchCheckpointIO):
    """Gives a checkpoint its name when it is whole: one that is cut off never takes the place of the last."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        part = f"{path}.part"  # always the same: what a killed run leaves is written over by the next
        super().save_checkpoint(checkpoint, part, storage_options)
        os.replace(part, path)


def make_trainer(cfg: DictConfig, output: Path, steps: int, callbacks: Sequence[Callback] = ()) -> pl.Trainer:
    """The trainer of a configuration; its log and its checkpoint are in `output`.

    It has `callbacks`, those of ``cfg.callbacks``, and those of ``cfg.trainer.callbacks``. Raises ValueError for words
    of ``cfg.trainer`` that a run can't heed.
    """
    words = plain(cfg.trainer)
    for name in words.keys() & REFUSED.keys():
        raise ValueError(f"trainer.{name}={words[name]} can't be heeded here: {REFUSED[name]}")
    saver = ModelCheckpoint(
        output,
        "last",
        every_n_train_steps=cfg.checkpoint_every,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
    given = [*plain(cfg.callbacks).values(), *_several(words.pop("callbacks", None))]
    plugins = [hydra.utils.instantiate(one) for one in _several(words.pop("plugins", None))]
    return hydra.utils.instantiate(
        words,
        logger=hydra.utils.instantiate(cfg.logger, save_dir=str(output)) if cfg.logger else False,
        plugins=[WholeCheckpoints(), *plugins],
        callbacks=[
            saver,
            *([LearningRateMonitor("step")] if cfg.logger else []),
            *callbacks,
            *map(hydra.utils.instantiate, given),
        ],
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=str(output),
        use_distributed_sampler=False,
    )


def _several(words: Any) -> list[Any]:
    """What is given as a list, alone, or not at all."""
    return [] if words is None else words if isinstance(words, list) else [words]


def fit(
    cfg: DictConfig, module: Run, data: Batches, output: Path, steps: int, callbacks: Sequence[Callback] = ()
) -> pl.Trainer:
    """Train `module` until `steps`, going on from ``output/last.ckpt`` if there is one; leaves that file at the end.

    The configuration is kept beside it as ``config.yaml``.
    """
    checkpoint = output / LAST
    trainer = make_trainer(cfg, output, steps, callbacks)
    if trainer.is_global_zero:
        output.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    if checkpoint.is_file():
        stored = weights.load_checkpoint(checkpoint)
        module.check(stored, trainer, checkpoint)
        log.info("going on after step %d of %s", stored["global_step"], checkpoint)
        del stored
        trainer.fit(module, data, ckpt_path=str(checkpoint), weights_only=True)
    else:
        trainer.fit(module, data)
    if trainer.global_step >= steps:
        trainer.save_checkpoint(checkpoint, weights_only=False)
    return trainer


def finished(output: Path, steps: int, result: Path) -> bool:
    """Whether the run in `output` has taken its `steps` and left `result`, so that there is nothing to do."""
    if not (result.is_file() and (output / LAST).is_file()):
        return False
    done = weights.load_checkpoint(output / LAST)["global_step"]
    if done >= steps:
        log.info("%s: finished, %d steps; give more steps to go on", output, done)
    return done >= steps

"""Probes while stage 1 trains: what the encoder has learned by now, in the run's log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from torch import nn

from stage1.probe.crops import make_exam, splits
from stage1.probe.exam import Exam, probe


class Probing(pl.Callback):
    """Logs ``probe/blur``, ``probe/noise`` … (`stage1.probe.exam.probe`) of the query encoder.

    It draws from generators of its own and leaves the encoder as it was: the run's weights stay the same to the bit.
    Only the first rank probes.

    roots: photographs, see `deedsr.data.photos.list_photos`; read at the first probe. settings: `every`, in steps;
    `crop`, and `split` and `crops` of `fit` and `test`, as in ``conf/probe.yaml``. seed: of crops and degradations,
    which are the same each time.
    """

    def __init__(self, roots: Any, settings: DictConfig, seed: int = 0) -> None:
        splits(roots, settings.fit.split, settings.test.split)
        self.roots, self.settings, self.seed = roots, settings, seed
        self.exam: Exam | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Probes after every `every` steps."""
        if trainer.global_step % self.settings.every or not trainer.is_global_zero:
            return
        if self.exam is None:
            self.exam = make_exam(self.roots, self.settings, pl_module.recipe, self.seed)
        encoder = pl_module.contrast.encoder
        with evaluating(encoder):
            found = probe(encoder, self.exam, pl_module.device)
        del found["photos"]
        for logger in trainer.loggers:
            logger.log_metrics({f"probe/{name}": value for name, value in found.items()}, trainer.global_step)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode, and afterwards each part in its own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training

"""Training itself: trainer, log and checkpoints of a run, and going on where it was broken off."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ProgressBar

from deedsr import weights
from deedsr.training.command import plain
from deedsr.training.loggers import make_logger
from deedsr.training.photographs import Batches
from deedsr.training.progress import Progress
from deedsr.training.run import Run
from deedsr.training.saving import TIME, Saving, WholeCheckpoints, exit_status, requeue
from deedsr.training.watching import watching

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


def make_trainer(cfg: DictConfig, output: Path, steps: int, callbacks: Sequence[Callback] = ()) -> pl.Trainer:
    """The trainer of a configuration; its log is in `output`.

    It has `callbacks`, those of ``cfg.callbacks``, and those of ``cfg.trainer.callbacks``. Raises ValueError for words
    of ``cfg.trainer`` that a run can't heed.
    """
    words = plain(cfg.trainer)
    for name in words.keys() & REFUSED.keys():
        raise ValueError(f"trainer.{name}={words[name]} can't be heeded here: {REFUSED[name]}")
    theirs = [*plain(cfg.callbacks).values(), *_several(words.pop("callbacks", None))]
    given = [hydra.utils.instantiate(one) for one in theirs]
    bar, words["enable_progress_bar"] = words["enable_progress_bar"], any(isinstance(one, ProgressBar) for one in given)
    progress = Progress(cfg, output, bar and not words["enable_progress_bar"])
    plugins = [hydra.utils.instantiate(one) for one in _several(words.pop("plugins", None))]
    return hydra.utils.instantiate(
        words,
        logger=make_logger(cfg.get("logger"), output) or False,
        plugins=[WholeCheckpoints(), *plugins],
        callbacks=[
            progress,
            *watching(cfg),
            *callbacks,
            *given,
        ],
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=str(output),
        use_distributed_sampler=False,
        _convert_="all",
    )


def _several(words: Any) -> list[Any]:
    """What is given as a list, alone, or not at all."""
    return [] if words is None else words if isinstance(words, list) else [words]


def fit(
    cfg: DictConfig,
    module: Run,
    data: Batches,
    output: Path,
    steps: int,
    callbacks: Sequence[Callback] = (),
    result: Path | None = None,
) -> pl.Trainer:
    """Train `module` until `steps`, going on from ``output/last.ckpt`` if there is one; leaves its last step there.

    The configuration is kept beside it as ``config.yaml``. result: what `callbacks` write beside each checkpoint, for
    the last line. A run that is told to stop early returns; one that a signal ends exits with 128 plus its number.
    """
    checkpoint = output / LAST
    saving = Saving(checkpoint, cfg.checkpoint_every)
    trainer = make_trainer(cfg, output, steps, [*callbacks, saving])
    dry = trainer.fast_dev_run
    if trainer.is_global_zero and not dry:
        output.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    going_on = checkpoint.is_file() and not dry
    if going_on:
        stored = weights.load_checkpoint(checkpoint)
        module.check(stored, trainer, checkpoint)
        saving.saved = stored["global_step"]
        log.info("going on after step %d of %s", saving.saved, checkpoint)
        del stored
    done = going_on and saving.saved >= steps
    try:
        trainer.fit(module, data, ckpt_path=str(checkpoint) if going_on else None, weights_only=True)
        if done:
            trainer.save_checkpoint(checkpoint, weights_only=False)  # brings back what is written beside it
    except BaseException as error:
        tell(trainer, saving, steps, type(error).__name__, result)
        raise
    tell(trainer, saving, steps, saving.why(trainer), result)
    if saving.signal:
        requeue(trainer, saving.signal)
        sys.exit(exit_status(trainer, saving.signal))
    return trainer


def tell(trainer: pl.Trainer, saving: Saving, steps: int, why: str, result: Path | None) -> None:
    """The last line of a run: how many steps it has taken, where they are, and how to go on."""
    if not trainer.is_global_zero:
        return
    places = " and ".join(str(place) for place in (saving.file, result) if place)
    if trainer.fast_dev_run:
        log.info("fast_dev_run: %d of %d steps were tried; nothing is written", trainer.global_step, steps)
    elif saving.saved >= steps:
        log.info("all %d steps are taken: they are in %s", steps, places)
    elif saving.saved:
        how = f" with a longer {TIME}" if why == TIME else ""
        log.info("%s: %d of %d steps are in %s; the same command goes on%s", why, saving.saved, steps, places, how)
    else:
        log.info("%s: none of %d steps is saved; the same command begins anew", why, steps)


def finished(output: Path, steps: int, result: Path) -> bool:
    """Whether the run in `output` has taken its `steps` and left `result`, so that there is nothing to do."""
    if not (result.is_file() and (output / LAST).is_file()):
        return False
    done = weights.load_checkpoint(output / LAST)["global_step"]
    if done >= steps:
        log.info("%s: finished, %d steps; give more steps to go on", output, done)
    return done >= steps

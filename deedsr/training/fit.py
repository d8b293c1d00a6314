"""Training itself: trainer, log and checkpoints of a run, and going on where it was broken off."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ProgressBar

from deedsr import weights
from deedsr.devices import check_compiler, pick_device
from deedsr.training.command import plain
from deedsr.training.loggers import make_logger
from deedsr.training.optimizer import KINDS, SCHEDULES, UNITS, known
from deedsr.training.photographs import Batches
from deedsr.training.progress import Progress
from deedsr.training.record import LAST, Start, move_aside, say, start, write
from deedsr.training.run import Run
from deedsr.training.saving import PATIENCE, TIME, Saving, WholeCheckpoints, exit_status
from deedsr.training.watching import watching

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

COUNTS = (
    *("steps", "autoencoder.steps", "denoiser.steps", "checkpoint_every"),
    *("pictures.every", "probe.every", "trainer.log_every_n_steps"),
)
"""Words that count steps, at least one."""

PRECISIONS = ("32", "32-true", "bf16", "bf16-mixed", "16", "16-mixed")
"""Those in which parameters are float32."""

log = logging.getLogger(__name__)


def check(cfg: DictConfig) -> None:
    """Raise ValueError for what no run can heed: counts, words of optimizer and trainer, no GPU, no compiler."""
    for name in COUNTS:
        value = OmegaConf.select(cfg, name)
        if value is not None and not (isinstance(value, int | float) and value >= 1):
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, choice in {"kind": KINDS, "schedule": SCHEDULES, "unit": UNITS}.items():
        if name in (cfg.get("optimizer") or {}):
            known(name, cfg.optimizer[name], choice)
    words = plain(cfg.trainer)
    for name in words.keys() & REFUSED.keys():
        raise ValueError(f"trainer.{name}={words[name]} can't be heeded here: {REFUSED[name]}")
    if str(words["precision"]) not in PRECISIONS:
        raise ValueError(
            f"trainer.precision={words['precision']} can't be had: what is trained stays in float32. Say bf16-mixed, "
            "and in stage 2 frozen_dtype=bfloat16, which stores the frozen parts in bfloat16"
        )
    if sharded(cfg) and (cfg.get("optimizer") or {}).get("kind") == "8bit":
        raise ValueError(
            "optimizer.kind=8bit can't be had with a model_parallel strategy: bitsandbytes takes no parameter that is "
            "split; say optimizer.kind=fused, whose state is split among the GPUs too, or trainer=gpu"
        )
    if words["accelerator"] in ("gpu", "cuda") and not torch.accelerator.is_available():
        raise ValueError("this machine has no GPU that torch can use: say trainer=cpu, or install a torch for its GPU")
    asked = cfg.get("compile")
    if asked is True or (isinstance(asked, DictConfig) and asked.get("backend", "inductor") == "inductor"):
        check_compiler(pick_device("cpu" if words["accelerator"] == "cpu" else "auto"))


def make_trainer(cfg: DictConfig, output: Path, steps: int, callbacks: Sequence[Callback] = ()) -> pl.Trainer:
    """The trainer of a configuration; its log is in `output`.

    It has `callbacks`, those of ``cfg.callbacks``, and those of ``cfg.trainer.callbacks``. Raises ValueError as
    `check` does.
    """
    check(cfg)
    words = plain(cfg.trainer)
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
        val_check_interval=1,  # with the next word: callbacks of Lightning follow validation, as no epoch ends
        check_val_every_n_epoch=None,
        default_root_dir=str(output),
        use_distributed_sampler=False,
        _convert_="all",
    )


def sharded(cfg: DictConfig) -> bool:
    """Whether the run of a configuration splits its parameters among GPUs."""
    return "ModelParallelStrategy" in str(cfg.trainer.get("strategy"))


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
    """Train `module` until `steps`, from where the run in `output` was, see `start`; leaves its last step there.

    Its record is beside it, and within it. result: what `callbacks` write beside each checkpoint, for the last line. A
    run that is told to stop early returns; one that a signal ends exits with 128 plus its number.
    """
    own = output / LAST
    saving = Saving(own, cfg.checkpoint_every)
    trainer = make_trainer(cfg, output, steps, [*callbacks, saving])
    now = None if trainer.fast_dev_run else begin(cfg, module, data, output, trainer)
    checkpoint = now.checkpoint if now else None
    if now and checkpoint is not None:
        saving.saved = now.step if checkpoint == own else -1
    done = saving.saved >= steps
    try:
        trainer.fit(module, data, ckpt_path=None if checkpoint is None else str(checkpoint), weights_only=True)
        if done:
            saving.saved = -1  # what is written beside it may be lost
        saving.save(trainer)
    except BaseException as error:
        interrupted = isinstance(error.__context__, KeyboardInterrupt)  # which Lightning makes an exit with 1
        tell(trainer, saving, steps, "SIGINT" if interrupted else type(error).__name__, result)
        if interrupted:
            sys.exit(exit_status(trainer, signal.SIGINT))
        raise
    tell(trainer, saving, steps, saving.why(trainer), result)
    if saving.signal:
        saving.requeue(trainer)
        sys.exit(exit_status(trainer, saving.signal))
    return trainer


def begin(cfg: DictConfig, module: Run, data: Batches, output: Path, trainer: pl.Trainer) -> Start:
    """Make all ready for a start, and return how it is. Raises ValueError where it does not fit.

    With ``resume=never`` the run of before is moved aside, after all that can be refused.
    """
    now = start(cfg, data, output)
    module.record, module.anew = now.record, now.anew
    if now.checkpoint is not None:
        module.check(weights.load_checkpoint(now.checkpoint), trainer, now.checkpoint)
    if cfg.resume == "never" and (output / LAST).is_file():
        move_aside(output)
    if now.checkpoint is not None:
        changes = now.record["starts"][-1]["changes"]
        say(f"going on after step {now.step} of {now.checkpoint}" + (f" with {', '.join(changes)}" if changes else ""))
    if trainer.is_global_zero:
        write(now.record, output)
    return now


def tell(trainer: pl.Trainer, saving: Saving, steps: int, why: str, result: Path | None) -> None:
    """The last line of a run: how many steps it has taken, where they are, and how to go on."""
    if not trainer.is_global_zero:
        return
    places = " and ".join(str(place) for place in (saving.file, result) if place)
    if trainer.fast_dev_run:
        log.info("fast_dev_run: %d of %d steps were tried; nothing is written", trainer.global_step, steps)
    elif saving.saved >= steps:
        log.info("all %d steps are taken: they are in %s", saving.saved, places)
    elif saving.saved:
        how = f" with a longer {why}" if why in (TIME, PATIENCE) else ""
        log.info("%s: %d of %d steps are in %s; the same command goes on%s", why, saving.saved, steps, places, how)
    else:
        log.info("%s: none of %d steps is saved; the same command begins anew", why, steps)


def finished(cfg: DictConfig, data: Batches, output: Path, steps: int, result: Path) -> bool:
    """Whether the run of a configuration has taken its `steps` and left `result`, so that there is nothing to do.

    Raises ValueError where what is in `output` is another run, or is to go on otherwise and has no step left, and for
    what no run can heed, see `check`.
    """
    check(cfg)
    if cfg.resume == "never" or cfg.trainer.get("fast_dev_run") or not (output / LAST).is_file():
        return False
    now = start(cfg, data, output)
    if now.step < steps:
        return False
    if now.changed:
        raise ValueError(f"{output} has taken its {now.step} steps: give more steps for what is changed to count")
    if result.is_file():
        more = f", more than the {steps} asked for" if now.step > steps else ""
        say(f"{output}: finished, {now.step} steps{more}; give more steps to go on")
    return result.is_file()

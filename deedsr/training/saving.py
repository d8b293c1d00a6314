"""What a run leaves however it ends: its last whole step."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, Timer
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import ModelParallelStrategy

from deedsr.training.run import Broken

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Those that end a run after its step; Windows lacks the last."""
TOLD = 1000
"""Above all numbers of signals: a callback has said that the run shall end."""

TIME, PATIENCE = "trainer.max_time", "early_stopping.patience"
"""What ends a run in time, which counts all starts together, and where it gets no better."""

log = logging.getLogger(__name__)


class WholeCheckpoints(TorchCheckpointIO):
    """Gives a checkpoint its name when it is whole: one that is cut off never takes the place of the last."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        part = f"{path}.part"  # always the same: what a killed run leaves is written over by the next
        super().save_checkpoint(checkpoint, part, storage_options)
        os.replace(part, path)


class Saving(Checkpoint):
    """Saves a run to `file` every `every` steps and at its end, whichever that is; `saved` is the step in the file.

    A signal (`SIGNALS`, or what SLURM's environment requeues at) is heeded at the end of a step by all ranks together,
    and so is a callback that sets ``trainer.should_stop``: gradients that are being accumulated become a step first. A
    second SIGINT interrupts at once. `signal` is the number of the one that has ended the run, or 0.
    """

    def __init__(self, file: Path, every: int, saved: int = 0) -> None:
        self.file, self.every, self.saved = file, every, saved
        self.signal, self.heard, self.told = 0, 0, False
        self.slurm: int | None = None
        self.requeues = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes Lightning's place at queueing a job of SLURM again: it would write a checkpoint beside `file`."""
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            self.slurm, self.requeues = environment.requeue_signal, environment.auto_requeue
            environment.auto_requeue = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes Lightning's place at the signals; at the end Lightning puts back what there was before."""
        numbers = {getattr(signal, name) for name in SIGNALS if hasattr(signal, name)}
        if self.slurm is not None:
            numbers.add(self.slurm)
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                signal.signal(number, self.hear)

    def hear(self, number: int, frame: object) -> None:
        """A signal has come: it is only noted."""
        if self.heard == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.heard = number

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.told |= trainer.should_stop
        trainer.should_stop = False
        if not pl_module.whole:
            return
        reason = agreed(trainer, self.heard or TOLD * self.told)
        if reason:
            self.signal = reason % TOLD
            trainer.should_stop = True
        if self.signal:
            trainer.fit_loop.epoch_loop.min_steps = None  # a signal doesn't wait for them
        if reason or trainer.global_step % self.every == 0 or trainer.global_step >= trainer.max_steps:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """For a stop that came after the batch's end."""
        self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes the file, unless it holds this step already; all ranks together."""
        if trainer.global_step != self.saved and not trainer.fast_dev_run:
            trainer.save_checkpoint(self.file, weights_only=False)
            self.saved = trainer.global_step

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Saves alone, as other ranks may be waiting elsewhere: not what is in pieces on them, or may be no number."""
        if isinstance(exception, Broken) or trainer.global_step == self.saved or trainer.fast_dev_run:
            return
        lost = "within an update" if pl_module.updating else ""
        if isinstance(trainer.strategy, ModelParallelStrategy):
            lost = "where no rank has the whole model"
        if lost:
            log.error(
                "what came after step %d is lost: this happened %s; a smaller checkpoint_every=… loses less",
                self.saved,
                lost,
            )
        elif trainer.is_global_zero:
            pl_module.undo()
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, self.file)
            self.saved = trainer.global_step

    def why(self, trainer: pl.Trainer) -> str:
        """What has ended a run before its last step."""
        if self.signal:
            return signal.Signals(self.signal).name
        timers = (one for one in trainer.callbacks if isinstance(one, Timer))
        if any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers):
            return TIME
        if any(one.wait_count >= one.patience for one in trainer.early_stopping_callbacks):
            return PATIENCE
        return "a callback"

    def requeue(self, trainer: pl.Trainer) -> None:
        """Puts a job of SLURM into the queue again where the signal that has ended the run asks for that."""
        if not (self.requeues and self.signal == self.slurm and trainer.is_global_zero):
            return
        job, array = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_JOB_ID")
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
        try:
            subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            log.error("job %s is not queued again: %s", job, (getattr(error, "stderr", None) or str(error)).strip())
        else:
            log.info("job %s is queued again", job)


def agreed(trainer: pl.Trainer, reason: int) -> int:
    """The largest `reason` of all ranks."""
    if trainer.world_size == 1:
        return reason
    return int(trainer.strategy.reduce(torch.tensor(reason, device=trainer.strategy.root_device), reduce_op="max"))


def exit_status(trainer: pl.Trainer, number: int) -> int:
    """Of a process that the signal `number` has ended: 128 and more, as a shell says it.

    Not of the ranks that the first one has started: Lightning would kill it for that while it is still at work.
    """
    started = isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
    return 0 if started and not trainer.is_global_zero else 128 + number

"""Validation while stage 2 trains: the restorer and the evaluator that users have, on a few fixed pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from deedsr.diffusion.sampler import Settings
from deedsr.metrics import sheet, table
from deedsr.metrics.evaluation import Evaluator, Report
from deedsr.metrics.outputs import Sample
from deedsr.options import Options
from deedsr.restorer import Restorer
from deedsr.training.loggers import log_picture
from stage2.measuring import PROTOCOL, Row, Samples, colours, means, restored
from stage2.module import RestorationRun

log = logging.getLogger(__name__)


@dataclass
class Tracked:
    """The rows so far, and the losses since the last of them."""

    rows: list[Row] = field(default_factory=list)
    loss: Tensor | float = 0.0
    steps: int = 0


class Validation(pl.Callback):
    """Every `every` steps, and where `start` is given before the first: restores `samples` with the averaged weights.

    The mean of each metric and of the colours, see `Row`, becomes one of Lightning's, ``val/NAME``, and who waits for
    one hears of it: `followers`, the trainer's early stopping and its checkpoints. Logged as well are the table, and
    a line of pictures for each sample: up-sampled input, output, ground truth. A checkpoint holds the rows.

    start: how the model that the run starts from samples. measured: says what is measured; rows of something else are
    not gone on with. Raises ValueError for samples that are not four times apart, and no number of steps.
    """

    def __init__(
        self,
        samples: Samples,
        every: int,
        metrics: Sequence[str],
        start: Settings | None = None,
        followers: Sequence[pl.Callback] = (),
        measured: str = "",
    ) -> None:
        if every < 1:
            raise ValueError(f"validation.every={every}: give a number of steps, at least 1")
        for sample in samples.values():
            sample.check(Options())
        self.samples, self.every, self.metrics, self.start = samples, every, list(metrics), start
        self.followers, self.measured, self.tracked = followers, measured, Tracked()
        self.step_loss: Tensor | float = 0.0
        self.evaluator: Evaluator | None = None

    def state_dict(self) -> dict[str, Any]:
        rows = [vars(row) for row in self.tracked.rows]
        tracked = {"rows": rows, "loss": float(self.tracked.loss), "steps": self.tracked.steps}
        return {**tracked, "measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rows = [Row(**row) for row in state_dict["rows"]]
        if rows and state_dict.get("measured", self.measured) != self.measured:
            log.info(
                "what validation measures is other than before: its table begins anew after step %d", rows[-1].step
            )
            rows = []
        self.tracked = Tracked(rows, state_dict["loss"], state_dict["steps"])

    def on_train_start(self, trainer: pl.Trainer, run: RestorationRun) -> None:
        if self.tracked.rows:
            self._publish(trainer, self.tracked.rows[-1])
            if any(one.wait_count >= one.patience for one in trainer.early_stopping_callbacks):
                trainer.should_stop = True  # that is where the run has ended
        elif trainer.global_step == 0 and self.start is not None:
            with sampling(run, self.start):
                self.validate(trainer, run)

    def on_train_batch_end(
        self, trainer: pl.Trainer, run: RestorationRun, outputs: Any, batch: object, batch_idx: int
    ) -> None:
        self.step_loss += outputs["loss"].detach().double()  # of a part of the step, by as many parts
        if not run.whole:
            return
        self.tracked.loss, self.step_loss = self.tracked.loss + self.step_loss, 0.0
        self.tracked.steps += 1
        if trainer.global_step % self.every == 0:
            self.validate(trainer, run)

    def validate(self, trainer: pl.Trainer, run: RestorationRun) -> None:
        """Measure now, and tell everyone."""
        outputs = self._restored(trainer, run)
        tracked, row, report = self.tracked, None, None
        if trainer.is_global_zero:
            self.evaluator = self.evaluator or Evaluator(PROTOCOL, self.metrics)
            report = self.evaluator.run(outputs, len(outputs), extra_rows=not tracked.rows)
            loss = float(tracked.loss) / tracked.steps if tracked.steps else None
            row = Row(trainer.global_step, means(report), colours(outputs), loss)
        row = trainer.strategy.broadcast(row)
        self.tracked = Tracked([*tracked.rows, row])
        self._publish(trainer, row)
        if report is not None:
            self._log(trainer, row, report, outputs)
        for callback in (*self.followers, *trainer.early_stopping_callbacks, *trainer.checkpoint_callbacks):
            callback.on_validation_end(trainer, run)

    def _restored(self, trainer: pl.Trainer, run: RestorationRun) -> list[Sample]:
        """On every rank: sharded parameters are gathered by all together."""
        with run.averaged(), trainer.precision_plugin.forward_context():
            try:
                return restored(Restorer(run.model, Options()), self.samples)
            except ValueError as error:  # NaN or inf
                raise run.broken(f"validating failed ({error})") from None

    def _publish(self, trainer: pl.Trainer, row: Row) -> None:
        found = {f"val/{name}": torch.tensor(value) for name, value in row.values().items()}
        trainer.callback_metrics.update(found)

    def _log(self, trainer: pl.Trainer, row: Row, report: Report, outputs: Sequence[Sample]) -> None:
        for logger in [] if trainer.fast_dev_run else trainer.loggers:
            logger.log_metrics({f"val/{name}": value for name, value in row.values().items()}, row.step)
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("val/table", table.to_markdown(report), row.step)
            for sample in outputs:
                log_picture(logger, f"val/{sample.stem}", sheet.line(sample), row.step)


@contextmanager
def sampling(run: RestorationRun, settings: Settings) -> Iterator[None]:
    """Within the context the model of `run` samples otherwise."""
    model, own = run.model, run.model.defaults
    model.defaults = settings
    try:
        yield
    finally:
        model.defaults = own

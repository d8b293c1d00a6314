"""The best of a run by what validation measured: its model folder, and a card with all rows and a verdict."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from deedsr import weights
from deedsr.files import write_text
from deedsr.metrics.catalogue import select
from deedsr.models import TrainableModel
from deedsr.models.card import CARD
from deedsr.models.system import ADAPTER
from deedsr.training.photographs import FEW
from stage2.measuring import COLOURS, PROTOCOL, Row, heads
from stage2.module import RestorationRun
from stage2.validation import Validation

PREFIX = "val/"
GAIN = 0.001
"""Of the start's value: what is less shows in no table."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What a run is of, for its card. start: what it begins with. defaults: how that samples, of its header.

    doubts: what is known to be wrong with its pairs. lr: its learning rate. pictures: so many it is validated on. void:
    whether these show two things, so that no step counts as better than the start.
    """

    start: str | None
    defaults: dict[str, Any] | None
    data: str
    doubts: Sequence[str]
    lr: float
    pictures: int
    void: bool = False


class Best(pl.Callback):
    """Keeps the best row's model as a folder, with a card: all rows, and a verdict, which is logged at the end.

    monitor: the metric that decides, ``val/NAME``. The first of equals is the best, and the start the equal of what is
    better by less than `GAIN`, so that a run that never beats what it starts from leaves that.
    """

    def __init__(
        self, folder: Path, monitor: str, trainable: TrainableModel, validation: Validation, origin: Origin
    ) -> None:
        self.folder, self.monitor, self.trainable = folder, monitor, trainable
        self.validation, self.origin = validation, origin

    @property
    def rows(self) -> list[Row]:
        return self.validation.tracked.rows

    def on_validation_end(self, trainer: pl.Trainer, run: RestorationRun) -> None:
        if self.monitor.removeprefix(PREFIX) not in self.rows[-1].values():
            why = self.validation.evaluator.unavailable if self.validation.evaluator else {}
            reason = "; ".join(why.values()) or f"there are {', '.join(self.rows[-1].values())}"
            raise ValueError(f"checkpoint.monitor={self.monitor} was not measured: {reason}")
        if trainer.fast_dev_run:
            return
        row = best_of(self.rows, self.monitor, self.origin.void)
        if row is self.rows[-1]:
            tensors = run.average.whole()
            if trainer.is_global_zero:
                self._save(row, tensors)
        if trainer.is_global_zero:
            write_text(self.folder / CARD, card(self.rows, self.monitor, self.origin))
            log.info("validation: %s", line(row=self.rows[-1], monitor=self.monitor))

    def _save(self, row: Row, tensors: dict[str, Any]) -> None:
        self.trainable.save(self.folder, tensors)
        if row.step == 0 and self.origin.defaults is not None:  # it is to sample as it did, not as the run's model does
            stored = weights.load(self.folder / ADAPTER)
            weights.save(self.folder / ADAPTER, stored.tensors, {**stored.config, "defaults": self.origin.defaults})

    def on_train_end(self, trainer: pl.Trainer, run: RestorationRun) -> None:
        if trainer.is_global_zero and self.rows and not trainer.fast_dev_run:
            log.info("%s; it is in %s", verdict(self.rows, self.monitor, self.origin), self.folder)


def mode(monitor: str) -> str:
    """``min`` or ``max``: where a metric ``val/NAME`` is better. Raises ValueError for one that is not known."""
    if not monitor.startswith(PREFIX):
        raise ValueError(f"checkpoint.monitor={monitor}: give a metric of validation, as {PREFIX}lpips or {PREFIX}psnr")
    name = monitor.removeprefix(PREFIX)
    return "min" if select(PROTOCOL, [name])[name].better == "lower" else "max"


def best_of(rows: Sequence[Row], monitor: str, void: bool = False) -> Row:
    """The first row that no other is better than; the start where none is by `GAIN`, or what was measured is `void`."""
    if void:
        return rows[0]
    name, choose = monitor.removeprefix(PREFIX), min if mode(monitor) == "min" else max
    best = choose(rows, key=lambda row: row.values()[name])
    was, now = rows[0].values()[name], best.values()[name]
    return rows[0] if rows[0].step == 0 and abs(now - was) < GAIN * abs(was) else best


def line(row: Row, monitor: str) -> str:
    """A row for the log."""
    name = monitor.removeprefix(PREFIX)
    colour = ", ".join(f"{row.colours[one]:+.1f}" for one in COLOURS)
    where = "the start" if row.step == 0 else f"step {row.step}"
    return f"{where}: {name} {row.values()[name]:.4f}; colour {colour}, contrast {row.colours['contrast']:.2f}"


def verdict(rows: Sequence[Row], monitor: str, origin: Origin) -> str:
    """What came out of a run, in a sentence, and where it is not better than its start, why and what to do."""
    name = monitor.removeprefix(PREFIX)
    first, best = rows[0], best_of(rows, monitor, origin.void)
    was, now = first.values()[name], best.values()[name]
    if first.step > 0 or best is not first:
        change = f", {abs(now - was) / abs(was):.1%} better than the start's {was:.4f}" if first.step == 0 else ""
        return f"the best is of step {best.step}: {name} {now:.4f}{change}"
    if len(rows) == 1:
        return f"the result is the start: nothing else was validated yet ({name} {was:.4f})"
    if origin.void:
        return f"the result is the start: pairs that show two things can't tell what is better; {advice(rows, origin)}"
    later = best_of(rows[1:], monitor)
    by = f" by {GAIN:.1%}" * (best_of([later, first], monitor) is later)
    return (
        f"the result is the start: no step was better than it{by} ({name} {was:.4f}; at best "
        f"{later.values()[name]:.4f} afterwards, step {later.step}); {advice(rows, origin)}"
    )


def advice(rows: Sequence[Row], origin: Origin) -> str:
    """Why training brought nothing, by what was measured, and what to do about it."""
    few = f"too few pictures to validate on, {origin.pictures}, to tell: give more; " * (origin.pictures < FEW)
    return few + reason(rows, origin)


def reason(rows: Sequence[Row], origin: Origin) -> str:
    """The likeliest of them, were there enough pictures."""
    if origin.doubts:
        return f"{'; '.join(origin.doubts)}: mend or leave out such pairs, data.shifted=false does"
    losses = [row.loss for row in rows[1:] if row.loss is not None]
    if len(losses) > 1 and losses[-1] < 0.99 * losses[0]:
        return (
            f"the loss fell in training, from {losses[0]:.3f} to {losses[-1]:.3f}, and not on what was held back: too "
            "few pictures, or others than those that were held back; give more"
        )
    rose = f"from {losses[0]:.3f} to {losses[-1]:.3f}" if len(losses) > 1 else "in so few steps"
    return (
        f"the loss did not fall in training either ({rose}): too high a learning rate, try "
        f"optimizer.lr={origin.lr / 4:.1g}, or pictures that there is nothing to learn from"
    )


def card(rows: Sequence[Row], monitor: str, origin: Origin) -> str:
    """A model card in Markdown."""
    best = best_of(rows, monitor, origin.void)
    names, said = list(rows[0].metrics), verdict(rows, monitor, origin)
    columns = ["step", *heads(names), "loss in training"]
    lines = [
        "# A model trained further",
        "",
        f"Start: `{origin.start}`. Data: {origin.data}. {said[0].upper() + said[1:]}.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(_cells(row, names, row is best))} |" for row in rows),
        "",
        "In bold what this folder holds. Step 0 is the start, as it was. Means over the pictures to validate on; red, "
        "green and blue: restored less ground truth, in 255ths; contrast: standard deviation, of ground truth 1.",
        "",
        "Use it: `deedsr restore PICTURES --model FOLDER`",
    ]
    return "\n".join(lines) + "\n"


def _cells(row: Row, names: Sequence[str], best: bool) -> list[str]:
    step = "0, the start" if row.step == 0 else str(row.step)
    loss = "–" if row.loss is None else f"{row.loss:.3f}"
    return [f"**{step}**" if best else step, *row.cells(names), loss]

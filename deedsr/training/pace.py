"""How far a long job is: a bar on a terminal, and elsewhere one line a minute in the log."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINE = 60.0  # seconds from one line to the next
LOOK = 1.0  # from one look at the bar's numbers to the next: asking for them may keep a GPU waiting

log = logging.getLogger(__name__)


class Pace:
    """Of `total` things called `what`, of which `done` are done already. bar: whether a terminal shows a bar."""

    def __init__(self, total: int, what: str, done: int = 0, bar: bool = True) -> None:
        self.total, self.what, self.first, self.done = total, what, done, done
        self.begun = self.said = time.monotonic()
        self.looked = -math.inf
        shown = bar and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, unit=f" {what}", dynamic_ncols=True) if shown else None

    def at(self, done: int, numbers: Callable[[], dict[str, Any]] = dict) -> None:
        """Say that `done` are done; `numbers`, which go with it, are asked for only where they are shown."""
        self.done, now = done, time.monotonic()
        if self.bar is not None:
            if now - self.looked >= LOOK or done == self.total:
                self.looked = now
                self.bar.set_postfix(numbers(), refresh=False)
            self.bar.update(done - self.bar.n)
        elif now - self.said >= LINE:
            self.said = now
            more = "".join(f", {name} {value}" for name, value in numbers().items())
            log.info("%d of %d %s (%d %%), %s left%s", done, self.total, self.what, self.share, self.left(), more)

    @property
    def share(self) -> int:
        """Per cent."""
        return 100 * self.done // max(self.total, 1)

    def left(self) -> str:
        """The time that the rest takes at the pace so far."""
        each = (time.monotonic() - self.begun) / max(self.done - self.first, 1)
        return duration(each * (self.total - self.done))

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def paced(items: Collection[T], what: str) -> Iterator[T]:
    """`items`, one after another, while a `Pace` says how far they are."""
    pace = Pace(len(items), what)
    try:
        for number, item in enumerate(items):
            pace.at(number)
            yield item
            pace.at(number + 1)
    finally:
        pace.close()


def duration(seconds: float) -> str:
    """As people say it: 40 s, 5 min, 3 h 20 min, 4 d 6 h."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

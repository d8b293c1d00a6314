"""Many files through the restorer, one after another: what is done already, what is not kept, what fails."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deedsr.files import explain, one_line, sha256
from deedsr.jobs import AS_USUAL, STDIO, Job, Outcome, Plan, Saving, failure
from deedsr.ledger import CHANGED, OURS, Ledger
from deedsr.pictures.formats import FORMATS, check_fits, format_of

if TYPE_CHECKING:
    from deedsr.pictures.picture import Picture
    from deedsr.restorer import Restorer

T = TypeVar("T")


def prepare(folder: Path) -> None:
    """Make the output folder. Raises ValueError if it can't be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        raise ValueError(f"{folder}: can't be made there; choose another folder with `output`") from None
    except OSError as error:
        raise ValueError(explain(error, folder)) from None
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ValueError(f"{folder}: no permission to write there; choose another folder with `output`")


def restore_all(
    plan: Plan,
    make_restorer: Callable[[], Restorer],
    overwrite: bool,
    report: Callable[[Outcome], None],
    progress: Callable[[float, int], None],
    saving: Saving = AS_USUAL,
    ledger: Ledger | None = None,
) -> list[Outcome]:
    """Do the jobs of a plan; a file that fails is reported and the rest go on.

    An output that is there is kept, but for one that `ledger` knows as made with other settings or of another input.
    make_restorer: called at the first picture that needs it. report: called with every outcome, in order, also from
    another thread. progress: called with the number of pictures done, of any fraction, and of those to do.
    """
    there = {} if overwrite else _there(plan.jobs, ledger)
    todo = [job for job in plan.jobs if job.target not in there]
    kept = (
        Outcome(job.source, job.target, "kept", notes=there[job.target]) for job in plan.jobs if job.target in there
    )
    outcomes = [*plan.failed, *kept]
    for outcome in outcomes:
        report(outcome)

    def settled(outcome: Outcome) -> None:
        outcomes.append(outcome)
        report(outcome)

    restorer = None
    with closing(Writer(settled, saving, ledger)) as writer:
        for number, job in enumerate(todo):

            def within(part: float, done: int = number) -> None:
                progress(done + part, len(todo))

            within(0)
            restorer = restorer or make_restorer()
            writer.restore(job, restorer, within)
    progress(len(todo), len(todo))
    return outcomes


def _there(jobs: list[Job], ledger: Ledger | None) -> dict[Path, tuple[str, ...]]:
    """The outputs that are there and stay, each with what is to be said of it."""
    found = [job for job in jobs if job.made]
    if ledger is None:
        return {job.target: () for job in found}
    other = "is there, but not as these options made it of this input; it is kept: `overwrite` makes it anew"
    states = zip(found, ledger.states(found), strict=True)
    return {
        job.target: (f"{job.target}: {other}",) if state == CHANGED else () for job, state in states if state != OURS
    }


@dataclass(frozen=True)
class _Made:
    """What a job became, to be written as the name `target` says. source: hash of its input, for the ledger.

    notes: what was not kept of the input, and what else is to be said.
    """

    picture: Picture
    target: Path
    source: str
    notes: tuple[str, ...]


class Writer:
    """Restores one job after another; what one becomes is written while the next is restored.

    report: called with each outcome, in order, from another thread. ledger: where those that are done are noted, in the
    file of `rank`.
    """

    def __init__(
        self, report: Callable[[Outcome], None], saving: Saving = AS_USUAL, ledger: Ledger | None = None, rank: int = 0
    ) -> None:
        self.report, self.saving, self.ledger, self.rank = report, saving, ledger, rank
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def restore(self, job: Job, restorer: Restorer, progress: Callable[[float], None] | None = None) -> None:
        """Restore a picture, and have it written once the one before is; what a user can mend becomes its outcome.

        progress: called with the fraction done. Raises RuntimeError for what is no lack of memory.
        """
        start = time.perf_counter()
        made = _attempt(job, restorer, partial(_restored, job, restorer, progress, self.ledger is not None))
        seconds = time.perf_counter() - start
        self._wait()
        self._writing = self._thread.submit(self._settle, job, restorer, made, seconds)

    def close(self) -> None:
        """Return when all is written."""
        self._thread.shutdown()
        self._wait()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _settle(self, job: Job, restorer: Restorer, made: _Made | str, seconds: float) -> None:
        """Write a picture, if there is one, and tell its outcome."""
        start = time.perf_counter()
        if isinstance(made, str):
            self.report(failure(job.source, made, job.target, seconds))
            return
        lost = _attempt(job, restorer, partial(_write, job, made, self.saving))
        seconds += time.perf_counter() - start
        if isinstance(lost, str):
            self.report(failure(job.source, lost, job.target, seconds))
            return
        if self.ledger is not None and made.source and job.made:
            with suppress(OSError):  # without a note the output is kept
                self.ledger.add(job, made.source, self.rank)
        notes = tuple(one_line(f"{job.source}: {note}") for note in (*made.notes, *lost))
        self.report(Outcome(job.source, job.target, "restored", seconds, notes=notes))


def _attempt(job: Job, restorer: Restorer, work: Callable[[], T]) -> T | str:
    """What `work` gives, or one line for what a user can mend. Raises RuntimeError for what is no lack of memory."""
    try:
        return work()
    except OSError as error:
        source = error.filename == str(job.source)
        return explain(error, job.source if source else job.target, reading=source)
    except ValueError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        from deedsr.devices import lacks_memory

        if not lacks_memory(error):
            raise
        return _less_memory(restorer)


def _less_memory(restorer: Restorer) -> str:
    """What to do where there is not enough memory."""
    smaller = (restorer.layout.tile or 512) // 2
    if smaller >= 128:
        return f"not enough memory; use smaller tiles, `tile={smaller}`"
    return f"not enough memory, even for tiles of {restorer.layout.tile} pixels; free some, or crop the picture"


def _restored(job: Job, restorer: Restorer, progress: Callable[[float], None] | None, hashed: bool) -> _Made:
    """Restore one picture that its output can hold. hashed: whether its input's hash is wanted."""
    from deedsr.pictures.picture import from_bytes, read

    stdin, stdout = job.source == STDIO, job.target == STDIO
    for name, stream, needed in (("input", sys.stdin, stdin), ("output", sys.stdout, stdout)):
        if needed and stream is None:
            raise ValueError(f"{STDIO}: standard {name} is closed; leave it open, or name a file")
    source = sha256(job.source) if hashed and job.stored else ""
    picture = from_bytes(sys.stdin.buffer.read(), STDIO) if stdin else read(job.source, job.frame)
    own = next((suffix for suffix, kind in FORMATS.items() if kind.name == picture.format), ".png")
    target = Path(f"-{job.extension or own}") if stdout else job.target
    check_fits(target, *restorer.options.output_size(*picture.size), picture.transparent)
    if not stdout:
        prepare(target.parent)
    most = restorer.groups.most
    restored = restorer(picture, progress, job.source)
    fewer = [f"too little memory for more than {restorer.groups.most} of its tiles at a time"] * (
        restorer.groups.most != most
    )
    return _Made(restored, target, source, (*picture.notes, *fewer))


def _write(job: Job, made: _Made, saving: Saving) -> list[str]:
    """Write one picture to its file, and say what of it that could not hold."""
    from deedsr.pictures.picture import encode

    picture = made.picture.stripped() if saving.strip else made.picture
    if job.target == STDIO:
        content, lost = encode(picture, format_of(made.target), saving.quality)
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return lost
    lost = picture.save(made.target, saving.quality)
    if saving.keep_times and job.source != STDIO:
        status = job.source.stat()
        os.utime(made.target, ns=(status.st_atime_ns, status.st_mtime_ns))
    return lost

"""Many files through the restorer, one after another: what is done already, what is not kept, what fails."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deedsr.files import explain, one_line, sha256
from deedsr.jobs import AS_USUAL, STDIO, Job, Outcome, Plan, Saving, failure
from deedsr.ledger import CHANGED, OURS, Ledger
from deedsr.pictures.formats import FORMATS, check_fits, format_of

if TYPE_CHECKING:
    from deedsr.restorer import Restorer


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
    make_restorer: called at the first picture that needs it. report: called with every outcome. progress: called with
    the number of pictures done, of any fraction, and of those to do.
    """
    there = {} if overwrite else _there(plan.jobs, ledger)
    todo = [job for job in plan.jobs if job.target not in there]
    kept = (
        Outcome(job.source, job.target, "kept", notes=there[job.target]) for job in plan.jobs if job.target in there
    )
    outcomes = [*plan.failed, *kept]
    for outcome in outcomes:
        report(outcome)
    settled, restorer = len(outcomes), None

    def within(part: float) -> None:
        progress(len(outcomes) - settled + part, len(todo))

    for job in todo:
        within(0)
        restorer = restorer or make_restorer()
        source = "" if ledger is None or not job.stored else sha256(job.source)
        outcomes.append(attempt(job, restorer, within, saving))
        if ledger is not None and source and job.made and outcomes[-1].error is None:
            with suppress(OSError):  # without a note the output is kept
                ledger.add(job, source, rank=0)
        report(outcomes[-1])
    within(0)
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


def attempt(
    job: Job,
    restorer: Restorer,
    progress: Callable[[float], None] | None = None,
    saving: Saving = AS_USUAL,
) -> Outcome:
    """Restore one picture to its file; what a user can mend becomes the outcome's error.

    progress: called with the fraction done. Raises RuntimeError for what is no lack of memory.
    """
    start = time.perf_counter()
    try:
        notes = _restore(job, restorer, progress, saving)
    except OSError as error:
        source = error.filename == str(job.source)
        message = explain(error, job.source if source else job.target, reading=source)
    except ValueError as error:
        message = str(error)
    except (MemoryError, RuntimeError) as error:
        from deedsr.devices import lacks_memory

        if not lacks_memory(error):
            raise
        message = _less_memory(restorer)
    else:
        notes = tuple(one_line(f"{job.source}: {note}") for note in notes)
        return Outcome(job.source, job.target, "restored", time.perf_counter() - start, notes=notes)
    return failure(job.source, message, job.target, time.perf_counter() - start)


def _less_memory(restorer: Restorer) -> str:
    """What to do where there is not enough memory."""
    smaller = (restorer.layout.tile or 512) // 2
    if smaller >= 128:
        return f"not enough memory; use smaller tiles, `tile={smaller}`"
    return f"not enough memory, even for tiles of {restorer.layout.tile} pixels; free some, or crop the picture"


def _restore(job: Job, restorer: Restorer, progress: Callable[[float], None] | None, saving: Saving) -> tuple[str, ...]:
    """Restore one picture to its file, and say what was not kept of it."""
    from deedsr.pictures.picture import encode, from_bytes, read

    stdin, stdout = job.source == STDIO, job.target == STDIO
    for name, stream, needed in (("input", sys.stdin, stdin), ("output", sys.stdout, stdout)):
        if needed and stream is None:
            raise ValueError(f"{STDIO}: standard {name} is closed; leave it open, or name a file")
    picture = from_bytes(sys.stdin.buffer.read(), STDIO) if stdin else read(job.source, job.frame)
    own = next((suffix for suffix, kind in FORMATS.items() if kind.name == picture.format), ".png")
    target = Path(f"-{job.extension or own}") if stdout else job.target
    check_fits(target, *restorer.options.output_size(*picture.size), picture.transparent)
    if not stdout:
        prepare(target.parent)
    restored = restorer(picture, progress, job.source)
    if saving.strip:
        restored = restored.stripped()
    if stdout:
        content, lost = encode(restored, format_of(target), saving.quality)
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        lost = restored.save(target, saving.quality)
        if saving.keep_times and not stdin:
            status = job.source.stat()
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    return (*picture.notes, *lost)

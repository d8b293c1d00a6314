"""Many files through the restorer: which input becomes which output, what is done already, what fails."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deedsr.pictures.formats import FOREIGN, FORMATS, check_fits, format_of

if TYPE_CHECKING:
    from deedsr.restorer import Restorer


@dataclass(frozen=True)
class Job:
    """One input and the output that it becomes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    status: ``restored``, ``kept`` (its output was there) or ``failed``. seconds: that restoring took. error: one line
    that names the file, what is wrong and the way out.
    """

    source: Path
    target: Path | None
    status: str
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Plan:
    """Jobs in order, and the inputs that can't become one."""

    jobs: list[Job]
    failed: list[Outcome]


@dataclass(frozen=True)
class _Input:
    """A picture to restore."""

    path: Path
    folder: Path  # where its output lies, relative to the output folder
    named: bool  # by the user, not found in a folder


def make_plan(inputs: Sequence[Path], output: Path, suffix: str = "", ext: str | None = None) -> Plan:
    """Plan outputs ``STEM + suffix + ext`` for files and folders (with their subfolders, which are mirrored).

    output: a folder; or a file name, for a single input file. ext: with or without dot; the input's where None. A
    picture in a folder that is another one's output is passed over, and so is the output folder. Raises ValueError if
    two inputs map to one output, an output is an input, or the names make no sense.
    """
    extension = _extension(ext)
    if os.sep in suffix or "/" in suffix:
        raise ValueError(f"suffix {suffix!r} holds a slash; folders go into `output`")
    found, failed = _find(inputs, output)
    if _is_file_name(output, inputs, extension):
        return _checked([Job(single.path, output) for single in found], found, failed, suffix="")
    jobs = []
    for single in found:
        target = output / single.folder / f"{single.path.stem}{suffix}{extension or single.path.suffix}"
        try:
            format_of(target)
        except ValueError:
            kind = single.path.suffix or "files without extension"
            failed.append(_failed(single.path, f"can't write {kind}; use `ext='png'`"))
        else:
            jobs.append(Job(single.path, target))
    return _checked(jobs, found, failed, suffix)


def _extension(ext: str | None) -> str | None:
    """`ext` with its dot. Raises ValueError for one that can't be written."""
    if ext is None:
        return None
    extension = "." + ext.removeprefix(".")
    if extension.lower() not in FORMATS:
        raise ValueError(f"can't write {ext!r} files; choose `ext` from {', '.join(key[1:] for key in FORMATS)}")
    return extension


def _is_file_name(output: Path, inputs: Sequence[Path], extension: str | None) -> bool:
    """Whether `output` names a file: one input file, and an extension of pictures."""
    suffix = output.suffix.lower()
    if output.is_dir() or suffix not in {*FORMATS, *FOREIGN}:
        return False
    if len(inputs) != 1 or inputs[0].is_dir():
        raise ValueError(f"`output` {output} names one picture, but there may be several inputs; give a folder")
    format_of(output)
    if extension is not None and extension.lower() != suffix:
        raise ValueError(f"`output` {output} and `ext` {extension[1:]} contradict each other; leave one out")
    return True


def _find(inputs: Sequence[Path], output: Path) -> tuple[list[_Input], list[Outcome]]:
    """The pictures that `inputs` name or hold, each once, and those of `inputs` that give none."""
    found: dict[Path, _Input] = {}
    failed = []
    for path in inputs:
        pictures: list[_Input] = []
        if path.is_dir():
            pictures = list(_walk(path, output))
            if not pictures:
                failed.append(_failed(path, f"no pictures in this folder ({', '.join(FORMATS)})"))
        elif path.exists():
            pictures = [_Input(path, Path(), named=True)]
        else:
            failed.append(_failed(path, "no such file or folder; check the name"))
        for single in pictures:
            found.setdefault(single.path.resolve(), single)
    return list(found.values()), failed


def _walk(folder: Path, output: Path) -> Iterable[_Input]:
    """Pictures below a folder in order of their names, but not hidden ones and not below the output folder."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(name for name in folders if name[0] != "." and (here / name).resolve() != output.resolve())
        for name in sorted(names):
            if name[0] != "." and Path(name).suffix.lower() in FORMATS:
                yield _Input(here / name, here.relative_to(folder), named=False)


def _checked(jobs: list[Job], found: list[_Input], failed: list[Outcome], suffix: str) -> Plan:
    """Refuse outputs that collide; drop pictures found in a folder that are another job's output."""
    inputs = {single.path.resolve(): single for single in found}
    targets: dict[str, Job] = {}
    for job in jobs:
        other = targets.setdefault(os.path.normcase(job.target.resolve()), job)
        if other is not job:
            both = f"{other.source} and {job.source} would both become {job.target}"
            raise ValueError(f"{both}; rename one or give it another `output`")
    outputs = set()
    for job in jobs:
        place = job.target.resolve()
        hit = inputs.get(place)
        if hit is None:
            continue
        if hit.named or not suffix or place == job.source.resolve():
            loss = f"{job.source} would be written over the input {hit.path}"
            raise ValueError(f"{loss}; give `suffix` or another `output`")
        outputs.add(place)
    return Plan([job for job in jobs if job.source.resolve() not in outputs], failed)


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
) -> list[Outcome]:
    """Do the jobs of a plan; a file that fails is reported and the rest go on.

    make_restorer: called at the first picture that needs it. report: called with every outcome. progress: called with
    the number of pictures done, of any fraction, and of those to do.
    """
    kept = {job.target for job in plan.jobs if job.target.is_file() and not overwrite}
    todo = [job for job in plan.jobs if job.target not in kept]
    outcomes = [*plan.failed, *(Outcome(job.source, job.target, "kept") for job in plan.jobs if job.target in kept)]
    for outcome in outcomes:
        report(outcome)
    settled, restorer = len(outcomes), None

    def within(part: float) -> None:
        progress(len(outcomes) - settled + part, len(todo))

    for job in todo:
        within(0)
        restorer = restorer or make_restorer()
        outcomes.append(attempt(job, restorer, within))
        report(outcomes[-1])
    within(0)
    return outcomes


def attempt(job: Job, restorer: Restorer, progress: Callable[[float], None] | None = None) -> Outcome:
    """Restore one picture to its file; what a user can mend becomes the outcome's error.

    progress: called with the fraction done. Raises RuntimeError for what is no lack of memory.
    """
    start = time.perf_counter()
    try:
        _restore(job, restorer, progress)
    except OSError as error:
        message = explain(error, job.source if error.filename == str(job.source) else job.target)
    except (ValueError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        message = str(error) if isinstance(error, ValueError) else "not enough memory; use smaller tiles, `tile=256`"
    else:
        return Outcome(job.source, job.target, "restored", time.perf_counter() - start)
    return _failed(job.source, message, job.target, time.perf_counter() - start)


def _failed(source: Path, message: str, target: Path | None = None, seconds: float = 0.0) -> Outcome:
    """The outcome of an input that can't be restored; `message` gets its name, if it begins with none."""
    if not message.startswith((f"{source}:", f"{target}:")):
        message = f"{source}: {message}"
    return Outcome(source, target, "failed", seconds, " ".join(message.split()))


def _restore(job: Job, restorer: Restorer, progress: Callable[[float], None] | None) -> None:
    from deedsr.pictures.picture import read

    picture = read(job.source)
    check_fits(job.target, *restorer.options.output_size(*picture.size), picture.transparent)
    prepare(job.target.parent)
    restorer(picture, progress).save(job.target)


_REASONS = {
    errno.ENOENT: "no such file; check the name",
    errno.EISDIR: "is a folder, not a file; choose another name",
    errno.ENOTDIR: "part of this path is a file, not a folder; choose another folder with `output`",
    errno.EEXIST: "is a file, not a folder; choose another folder with `output`",
    errno.ENOSPC: "the disk is full; free some space or choose another folder with `output`",
    errno.EDQUOT: "your share of the disk is used up; free some space or choose another folder with `output`",
    errno.EFBIG: "the file may not become so large here; choose another folder with `output`",
    errno.EACCES: "no permission; change it, or choose another folder with `output`",
    errno.EPERM: "no permission; change it, or choose another folder with `output`",
    errno.EROFS: "the disk can only be read; choose another folder with `output`",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def explain(error: OSError, path: Path) -> str:
    """One line for an error of the operating system: the path, what is wrong and the way out."""
    reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}; choose another folder with `output`")
    return f"{path}: {reason}"

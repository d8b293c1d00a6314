"""Which input becomes which output, and what became of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deedsr.files import one_line
from deedsr.pictures.formats import FORMATS, INSTALL, PICTURES, UNREADABLE, format_of
from deedsr.pictures.found import Found, FoundPicture, find

STDIO = Path("-")
"""As an input standard input, as an output standard output."""
LONGEST = 255  # bytes of a name, on the file systems that people use


@dataclass(frozen=True)
class Job:
    """One input and the output that it becomes.

    frame: number from 0 of a picture in a file of several; None for the first. extension: of the format of what goes to
    standard output; None for the input's.
    """

    source: Path
    target: Path
    frame: int | None = None
    extension: str | None = None

    @property
    def made(self) -> bool:
        """Whether its output is a file, and there."""
        return self.target != STDIO and self.target.is_file()

    @property
    def stored(self) -> bool:
        """Whether its input is a file, and there."""
        return self.source != STDIO and self.source.is_file()


@dataclass(frozen=True)
class Saving:
    """How outputs are written.

    quality: 1 … 100 of lossy formats; None leaves it to them. strip: without metadata, but for the colour profile.
    keep_times: with the input's times of change and access. Raises ValueError for a quality out of range.
    """

    quality: int | None = None
    strip: bool = False
    keep_times: bool = False

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}; choose a number from 1 to 100")


AS_USUAL = Saving()


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    status: ``restored``, ``kept`` (its output was there) or ``failed``. seconds: that restoring took. error: one line
    that names the file, what is wrong and the way out. notes: what was not kept of it, a line each with its name.
    """

    source: Path
    target: Path | None
    status: str
    seconds: float = 0.0
    error: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Jobs in order, the inputs that can't become one, and how many files in the folders are no pictures."""

    jobs: list[Job]
    failed: list[Outcome]
    others: int = 0


def make_plan(
    inputs: Sequence[Path],
    output: Path,
    suffix: str = "",
    ext: str | None = None,
    recursive: bool = True,
    frames: bool = False,
) -> Plan:
    """Plan outputs ``STEM + suffix + ext`` for files and folders (with their subfolders, which are mirrored).

    output: a folder; or a file name, for a single input file; or `STDIO`. ext: with or without dot; the input's where
    None. recursive: whether subfolders count. frames: of a file with several pictures each becomes an output, as
    ``STEM-1``; else the first alone. A picture in a folder that is another one's output is passed over, and so is the
    output folder. An input whose output is another's, or an input, fails. Raises ValueError if the names make no sense.
    """
    extension = _extension(ext)
    if os.sep in suffix or "/" in suffix:
        raise ValueError(f"suffix {suffix!r} holds a slash; folders go into `output`")
    single = STDIO in (output, *inputs) or _is_file_name(output, inputs, extension)
    if single and (len(inputs) != 1 or inputs[0].is_dir()):
        raise ValueError(f"`output` {output} takes one picture, but there may be several inputs; give a folder")
    if STDIO in inputs:
        if output != STDIO and not _is_file_name(output, inputs, extension):
            raise ValueError("what comes from standard input has no name; give `output` a picture's name, or -")
        found = Found([FoundPicture(STDIO, Path(), named=True)])
    else:
        found = find(inputs, recursive, output)
    failed = [failure(place, fault) for place, fault in found.faults]
    jobs: list[Job] = []
    for one in found.pictures:
        target = output / one.folder / f"{one.path.stem}{suffix}{extension or one.path.suffix}"
        for job in _jobs(one, output if single else target, frames, extension):
            fault = _fault(job)
            if fault is None:
                jobs.append(job)
            else:
                failed.append(failure(one.path, fault))
    return _checked(jobs, found, failed, "" if single else suffix)


def _jobs(one: FoundPicture, target: Path, frames: bool, extension: str | None) -> list[Job]:
    """What an input becomes: with `frames` an output for each picture in the file."""
    count = 1
    if frames and one.path != STDIO and target != STDIO:
        from deedsr.pictures.picture import frame_count

        try:
            count = frame_count(one.path)
        except (OSError, ValueError):
            count = 1  # reading it again says why
    if count == 1:
        return [Job(one.path, target, extension=extension)]
    names = (target.with_name(f"{target.stem}-{number + 1}{target.suffix}") for number in range(count))
    return [Job(one.path, name, number) for number, name in enumerate(names)]


def _fault(job: Job) -> str | None:
    """Why a job can't be done, as far as its names say."""
    if job.source.suffix.lower() in UNREADABLE:
        return f"can't read {job.source.suffix} files; convert it to PNG first"
    if job.target == STDIO:
        return None
    kind = job.target.suffix
    if kind.lower() not in FORMATS:
        return f"can't write {kind or 'files without extension'}; use `ext='png'`"
    if not FORMATS[kind.lower()].here:
        return f"{kind} files need more: {INSTALL}; or use `ext='png'`"
    if len(os.fsencode(job.target.name)) > LONGEST:
        return f"its output's name is longer than {LONGEST} bytes; choose a shorter one"
    return None


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
    if output.is_dir() or suffix not in PICTURES:
        return False
    format_of(output)
    if extension is not None and extension.lower() != suffix:
        raise ValueError(f"`output` {output} and `ext` {extension[1:]} contradict each other; leave one out")
    return True


def _checked(jobs: list[Job], found: Found, failed: list[Outcome], suffix: str) -> Plan:
    """Fail jobs whose outputs collide; drop pictures found in a folder that are another job's output."""
    inputs = {os.path.realpath(one.path): one for one in found.pictures}
    targets: dict[str, Job] = {}
    good, outputs = [], set()
    for job in jobs:
        place = os.path.realpath(job.target)
        other, hit = targets.setdefault(os.path.normcase(place), job), inputs.get(place)
        if job.target == STDIO:
            good.append(job)
        elif other is not job:
            loss = f"would become {job.target}, as {other.source} does"
            failed.append(failure(job.source, f"{loss}; rename one or give it another `output`"))
        elif hit is not None and (hit.named or not suffix or place == os.path.realpath(job.source)):
            loss = f"would be written over the input {hit.path}"
            failed.append(failure(job.source, f"{loss}; give `suffix` or another `output`"))
        else:
            good.append(job)
            outputs |= {place} if hit is not None else set()
    return Plan([job for job in good if os.path.realpath(job.source) not in outputs], failed, found.others)


def failure(source: Path, message: str, target: Path | None = None, seconds: float = 0.0) -> Outcome:
    """The outcome of an input that can't be restored; `message` gets its name, if it begins with none."""
    if not message.startswith((f"{source}:", f"{target}:")):
        message = f"{source}: {message}"
    return Outcome(source, target, "failed", seconds, one_line(message))

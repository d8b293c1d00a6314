"""Files and folders: what is in them, such as appear whole or not at all, and what is said where one fails.

Of the standard streams as well, and of what libraries say.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO, cast


def visible(folder: Path) -> list[Path]:
    """All files in `folder` and in folders in it, in order, but for hidden ones and those in hidden folders."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(2**24):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def hushed(level: int, warn: bool = False) -> Iterator[None]:
    """Log nothing of `level` and below, and warn of nothing, unless `warn`, until the context ends."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        with warnings.catch_warnings():
            if not warn:
                warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, which takes its place where the context ends without an error.

    The folder is made where it is missing. Several processes may do this for one path: the last one stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path, "part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _beside(path: Path, kind: str) -> Path:
    """A hidden name beside `path`, of this process alone, and short: `path`'s own may be as long as names can be."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{digest}.{os.getpid()}.{kind}")


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, values: object) -> None:
    """Write plain `values` as an indented JSON file, whole or not at all."""
    write_text(path, json.dumps(values, indent=2) + "\n")


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, which takes its place where the context ends without an error.

    Raises ValueError if `folder` holds anything already, or is where a disk is mounted: nothing can take its place.
    """
    folder = Path(folder).resolve()  # what a link leads to, as the link itself can't be replaced by a folder
    if os.path.ismount(folder):
        raise ValueError(f"{folder}: is where a disk is mounted; name a folder inside it")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder}: exists already; remove it or name another folder")
    part = _beside(folder, "tmp")
    part.mkdir(parents=True)
    try:
        yield part
        if folder.is_dir():
            folder.rmdir()  # Windows puts nothing in the place of a folder, not of an empty one either
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


_ELSEWHERE = "choose another folder with `output`"
_REASONS = {
    errno.ENOENT: ("no such file", "check the name"),
    errno.EISDIR: ("is a folder, not a file", "choose another name"),
    errno.ENOTDIR: ("part of this path is a file, not a folder", _ELSEWHERE),
    errno.EEXIST: ("is a file, not a folder", _ELSEWHERE),
    errno.ENOSPC: ("the disk is full", f"free some space or {_ELSEWHERE}"),
    errno.EDQUOT: ("your share of the disk is used up", f"free some space or {_ELSEWHERE}"),
    errno.EFBIG: ("the file may not become so large here", _ELSEWHERE),
    errno.EACCES: ("no permission", f"change it, or {_ELSEWHERE}"),
    errno.EPERM: ("no permission", f"change it, or {_ELSEWHERE}"),
    errno.EROFS: ("the disk can only be read", _ELSEWHERE),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ELOOP: ("a link that leads back to itself", "remove it"),
}


def explain(error: OSError, path: Path, reading: bool = False) -> str:
    """One line for an error of the operating system: the path, what is wrong and the way out.

    reading: whether it is an input that failed, so that another output would not help.
    """
    reason, way = _REASONS.get(error.errno or 0, (error.strerror or str(error), _ELSEWHERE))
    if reading and _ELSEWHERE in way:
        way = "let it be read, or leave it out"
    return f"{path}: {reason}; {way}"


def one_line(message: str) -> str:
    """A message whose lines became one; names in it keep their spaces."""
    return re.sub(r"\s*[\r\n]+\s*", " ", message.strip())


_warn = cache(logging.getLogger(__name__).warning)


def say_once(messages: Iterable[str]) -> None:
    """Log warnings, each once in a process."""
    for message in messages:
        _warn(message)


class Output:
    """Standard output of a command. Where it can't be written to, that is said once, and the work goes on without it.

    name: what comes before a message of the command. Raises BrokenPipeError where nobody reads it any more.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._lost = stream, name, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt(partial(self._stream.write, text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def status(self, code: int) -> int:
        """The command's exit status once all is written: `code`, or 1 in place of 0 where output was lost."""
        try:
            self._attempt(self._stream.flush, told=code != 0)
        except BrokenPipeError:
            return code or 1
        return code or int(self._lost)

    def _attempt(self, work: Callable[[], object], told: bool = False) -> None:
        try:
            work()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # for what is still to be written
            if isinstance(error, BrokenPipeError):
                raise
            self._lost = True
            if not told:
                reason, _ = _REASONS.get(error.errno or 0, (error.strerror or str(error), ""))
                sys.stderr.write(f"{self._name}: standard output can't be written to: {reason}; send it elsewhere\n")


def open_streams(name: str) -> None:
    """Let the standard streams show what they have no character for as an escape, and standard output be an `Output`.

    name: what comes before a message of the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is not None:  # else it is closed
        sys.stdout = cast("TextIO", Output(sys.stdout, name))


def final_status(code: int = 0) -> int:
    """The exit status of a command that ends with `code`, see `Output.status`."""
    return sys.stdout.status(code) if isinstance(sys.stdout, Output) else code


def check_python() -> None:
    """Raise ValueError where Python runs without docstrings (-OO): transformers builds its classes from them."""
    if sys.flags.optimize > 1:
        raise ValueError("python -OO takes out the docstrings that transformers needs; use python -O, or neither")

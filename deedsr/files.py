"""Files and folders: what is in them, such as appear whole or not at all, and what is said where one fails."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def show_any_name() -> None:
    """Let standard output and standard error show what they have no character for as an escape, and go on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_python() -> None:
    """Raise ValueError where Python runs without docstrings (-OO): transformers builds its classes from them."""
    if sys.flags.optimize > 1:
        raise ValueError("python -OO takes out the docstrings that transformers needs; use python -O, or neither")

"""Files and folders: what is in them, and such as appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def visible(folder: Path) -> list[Path]:
    """All files in `folder` and in folders in it, in order, but for hidden ones and those in hidden folders."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, which takes its place where the context ends without an error.

    The folder is made where it is missing. Several processes may do this for one path: the last one stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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
    part = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    part.mkdir(parents=True)
    try:
        yield part
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)

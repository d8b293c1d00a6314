"""Which files are pictures: in folders, below them, and what of it can't be taken."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from deedsr.files import explain
from deedsr.pictures.formats import PICTURES

PIPE = "is a pipe, a socket or a device; leave it out"


@dataclass(frozen=True)
class FoundPicture:
    """A picture's file.

    folder: where it lies, relative to the folder that was searched. named: by the user, not found in a folder.
    """

    path: Path
    folder: Path
    named: bool


@dataclass
class Found:
    """What files and folders give.

    pictures: in order, each name once. faults: one line for each place that can't be taken, with the place. others:
    how many files in the folders are no pictures.
    """

    pictures: list[FoundPicture] = field(default_factory=list)
    faults: list[tuple[Path, str]] = field(default_factory=list)
    others: int = 0


def find(places: Iterable[Path], recursive: bool = True, skip: Path | None = None) -> Found:
    """The pictures that `places` name or hold: of a folder those below it, but for hidden ones.

    A link counts by its own name, and a linked folder as a folder. recursive: whether folders in folders count. skip:
    a folder that does not.
    """
    found, names = Found(), set()
    left_out = None if skip is None else os.path.realpath(skip)
    for place in places:
        here = Found()
        try:
            status = os.stat(place)
        except FileNotFoundError:
            here.faults.append((place, f"{place}: no such file or folder; check the name"))
        except OSError as error:
            here.faults.append((place, explain(error, place, reading=True)))
        else:
            if stat.S_ISDIR(status.st_mode):
                real = Path(os.path.realpath(place))
                above = {str(folder) for folder in (real, *real.parents)}
                _search(here, place, Path(), above, recursive, left_out)
                if not (here.pictures or here.faults):
                    here.faults.append((place, f"{place}: no pictures in this folder"))
            else:
                here.pictures.append(FoundPicture(place, Path(), named=True))
        for one in here.pictures:
            name = os.path.abspath(one.path)
            if name not in names:
                names.add(name)
                found.pictures.append(one)
        found.faults += here.faults
        found.others += here.others
    return found


def _search(found: Found, folder: Path, relative: Path, above: set[str], recursive: bool, skip: str | None) -> None:
    """Add what lies in `folder`. above: the folders that it lies in; a link back to one of them is not followed."""
    below = []
    try:
        names = sorted(name for name in os.listdir(folder) if name[0] != ".")
    except OSError as error:
        found.faults.append((folder, explain(error, folder, reading=True)))
        return
    for name in names:
        path = folder / name
        try:
            status = os.stat(path)
        except FileNotFoundError:
            found.faults.append((path, f"{path}: a link to what is not there; remove it"))
            continue
        except OSError as error:
            found.faults.append((path, explain(error, path, reading=True)))
            continue
        if stat.S_ISDIR(status.st_mode):
            below.append(path)
        elif path.suffix.lower() not in PICTURES:
            found.others += 1
        elif stat.S_ISREG(status.st_mode):
            found.pictures.append(FoundPicture(path, relative, named=False))
        else:
            found.faults.append((path, f"{path}: {PIPE}"))
    for path in below if recursive else ():
        real = os.path.realpath(path)
        if real not in above and real != skip:
            _search(found, path, relative / path.name, above | {real}, recursive, skip)


def pictures(places: Iterable[Path]) -> list[Path]:
    """The files of `find`. Raises ValueError for the first place that can't be taken."""
    found = find(places)
    if found.faults:
        raise ValueError(found.faults[0][1])
    return [one.path for one in found.pictures]

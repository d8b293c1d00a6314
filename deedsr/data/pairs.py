"""Pictures that belong together, matched by file stem: outputs, ground truth, inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from deedsr.data.members import SUFFIXES, Photo, members
from deedsr.pictures.picture import read

P = TypeVar("P", Path, Photo)


def pictures(folder: str | Path, suffix: str = "") -> dict[str, Path]:
    """The pictures of a folder (not of folders in it) by stem, sorted; `suffix` is taken off the end of a stem.

    Hidden files and files that are no pictures by their extension are passed over. Raises ValueError for a missing or
    empty folder, for two files of one stem, and for a stem without `suffix`.
    """
    return _by_stem(folder, _files(folder, SUFFIXES), suffix)


def pictures_and_packed(folder: str | Path) -> dict[str, Photo]:
    """The same, and those of the shards (.tar) in the folder. Raises ValueError for a broken shard, too."""
    found: list[Photo] = [*_files(folder, SUFFIXES)]
    return _by_stem(folder, [*found, *(member for shard in _files(folder, {".tar"}) for member in members(shard))])


def _files(folder: str | Path, suffixes: Set[str]) -> list[Path]:
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder")
    paths = (path for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in suffixes)
    return [path for path in paths if not path.name.startswith(".") and path.is_file()]


def _by_stem(folder: str | Path, files: Iterable[P], suffix: str = "") -> dict[str, P]:
    found: dict[str, P] = {}
    for file in files:
        if not file.stem.endswith(suffix):
            raise ValueError(f"{file}: its name doesn't end in {suffix!r}")
        stem = file.stem.removesuffix(suffix)
        if stem in found:
            raise ValueError(f"{found[stem]} and {file} have the same stem; keep one of them")
        found[stem] = file
    if not found:
        raise ValueError(f"{folder}: holds no pictures")
    return found


def match(folders: Mapping[str, Mapping[str, P]]) -> dict[str, dict[str, P]]:
    """Pair pictures by stem: {role: {stem: path}} -> {stem: {role: path}}.

    Raises ValueError that names every stem (up to five) that one role has and another lacks.
    """
    stems = set().union(*folders.values())
    problems = []
    for role, files in folders.items():
        if lacking := sorted(stems - set(files)):
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            problems.append(f"{role} has no picture for {', '.join(lacking[:5])}{more}")
    if problems:
        raise ValueError("; ".join(problems))
    return {stem: {role: files[stem] for role, files in folders.items()} for stem in sorted(stems)}


def read_rgb(path: Path) -> Tensor:
    """An RGB picture as float32 (1, 3, H, W) in [0, 1].

    Raises ValueError that names a file which can't be read as it is, is grey, or has an alpha channel: a metric on a
    silently converted picture is not the published one.
    """
    picture = read(path)
    if picture.notes:
        raise ValueError(f"{path}: {picture.notes[0]}: metrics need the picture as it is; convert it first")
    if picture.grey or picture.alpha is not None:
        kind = "is a grey picture" if picture.grey else "has an alpha channel"
        raise ValueError(f"{path}: {kind}, metrics need plain RGB; convert it first")
    return picture.rgb

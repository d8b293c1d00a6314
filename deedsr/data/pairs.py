"""Pictures that belong together, matched by file stem: outputs, ground truth, inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from deedsr.data.members import SUFFIXES
from deedsr.pictures.picture import read


def pictures(folder: str | Path, suffix: str = "") -> dict[str, Path]:
    """The pictures of a folder (not of folders in it) by stem, sorted; `suffix` is taken off the end of a stem.

    Hidden files and files that are no pictures by their extension are passed over. Raises ValueError for a missing or
    empty folder, for two files of one stem, and for a stem without `suffix`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        if not path.stem.endswith(suffix):
            raise ValueError(f"{path}: its name doesn't end in {suffix!r}")
        stem = path.stem.removesuffix(suffix)
        if stem in found:
            raise ValueError(f"{path} and {found[stem].name} have the same stem; keep one of them")
        found[stem] = path
    if not found:
        raise ValueError(f"{folder}: holds no pictures")
    return found


def match(folders: Mapping[str, Mapping[str, Path]]) -> dict[str, dict[str, Path]]:
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

    Raises ValueError that names a file which can't be read, is grey, or has an alpha channel: a metric on a silently
    converted picture is not the published one.
    """
    picture = read(path)
    if picture.grey or picture.alpha is not None:
        kind = "is a grey picture" if picture.grey else "has an alpha channel"
        raise ValueError(f"{path}: {kind}, metrics need plain RGB; convert it first")
    return picture.rgb

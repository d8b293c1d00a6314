"""The file formats that can be written, their limits, and the names of output files. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deedsr.files import visible


@dataclass(frozen=True)
class Format:
    """A file format. side: the longest side in pixels; deep: holds 16 bits; alpha: holds transparency."""

    name: str
    side: int
    deep: bool = False
    alpha: bool = True


PNG = Format("PNG", side=2**31 - 1, deep=True)
TIFF = Format("TIFF", side=2**31 - 1, deep=True)
WEBP = Format("WEBP", side=16383)
BMP = Format("BMP", side=2**31 - 1, alpha=False)
JPEG = Format("JPEG", side=65500, alpha=False)

FORMATS = {".png": PNG, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP, ".tif": TIFF, ".tiff": TIFF, ".bmp": BMP}
# Extensions that mean a picture to people, though none can be written here.
FOREIGN = {".gif", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".ppm", ".pgm", ".tga", ".psd", ".exr", ".dng", ".svg"}


def format_of(path: str | Path) -> Format:
    """The format that a file name's extension stands for. Raises ValueError for one that can't be written."""
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        what = f"can't write {suffix} files" if suffix else "its name has no extension"
        raise ValueError(f"{path}: {what}; choose one of {', '.join(FORMATS)}")
    return FORMATS[suffix.lower()]


def pictures(places: Iterable[Path]) -> list[Path]:
    """Files as they are, folders replaced by the pictures below them, in order. ValueError for one that holds none."""
    files = []
    for place in places:
        below = [place]
        if place.is_dir():
            below = [file for file in visible(place) if file.suffix.lower() in FORMATS]
            if not below:
                raise ValueError(f"{place}: no pictures in this folder ({', '.join(FORMATS)})")
        files += below
    return files


def check_fits(path: str | Path, height: int, width: int, transparent: bool) -> None:
    """Raise ValueError if the format that ``path`` stands for can't hold a picture of this size and kind."""
    kind = format_of(path)
    if max(height, width) > kind.side:
        raise ValueError(
            f"{path}: {kind.name} holds at most {kind.side} pixels a side, not {width}x{height}; use `.png`"
        )
    if transparent and not kind.alpha:
        raise ValueError(f"{path}: {kind.name} holds no transparency; use `.png`")

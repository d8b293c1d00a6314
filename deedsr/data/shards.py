"""Packs photographs into WebDataset shards: ``python -m deedsr.data.shards PHOTOS OUT``."""

from __future__ import annotations

import io
import re
import sys
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from deedsr.data.flaws import distinct, report
from deedsr.data.members import Photo
from deedsr.data.photos import Corrupt, decode, list_photos
from deedsr.files import new_folder


@dataclass(frozen=True)
class Packed:
    """What was written, and which photographs weren't or are small."""

    photographs: int
    shards: int
    duplicates: list[Photo]
    corrupt: list[Photo]
    small: list[Photo]


def pack(photos: Sequence[Photo], folder: str | Path, size: int = 512_000_000, crop: int = 512) -> Packed:
    """Write `photos` to ``folder/photos-000000.tar`` and so on; the folder appears when all of it is written.

    Duplicates and files that can't be decoded are left out. Keys are numbered, as two photographs of one stem would be
    one sample to WebDataset. The same photographs give the same bytes.

    photos: in the order of the shards. folder: is made; must not hold anything yet. size: bytes after which the next
    shard begins. crop: pixels; photographs with a shorter side are counted as small, and packed. Raises ValueError if
    `folder` isn't empty or no photograph can be decoded, and OSError if a file can't be read or written.
    """
    with new_folder(folder) as part:
        packed = _write(photos, part, size, crop)
        if not packed.photographs:
            raise ValueError(f"all {len(photos)} photographs are corrupt, {photos[0]} for one")
    return packed


def _write(photos: Sequence[Photo], folder: Path, size: int, crop: int) -> Packed:
    kept, duplicates = distinct(photos)
    corrupt, small = [], []
    count, shards, written = 0, 0, size
    with ExitStack() as last:
        for photo in kept:
            data = photo.read_bytes()
            try:
                side = min(decode(data).size)
            except Corrupt:
                corrupt.append(photo)
                continue
            if side < crop:
                small.append(photo)
            if written >= size:
                last.close()
                archive = last.enter_context(tarfile.open(folder / f"photos-{shards:06}.tar", "w"))
                shards, written = shards + 1, 0
            entry = tarfile.TarInfo(_name(photo, count))  # without time and owner
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
            count, written = count + 1, written + len(data)
    return Packed(count, shards, duplicates, corrupt, small)


def _name(photo: Photo, number: int) -> str:
    """``00000012-stem.jpg``: without further dots, at which WebDataset would cut the key."""
    path = Path(photo if isinstance(photo, Path) else photo.name)
    return f"{number:08}-{re.sub(r'[^A-Za-z0-9_]+', '-', path.stem)}{path.suffix.lower()}"


def command(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of photographs.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    paths: Annotated[
        Path | None, typer.Option("--list", help="Take the photographs of this list, relative to PHOTOS (meta_info).")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split to take where a table PHOTOS.tsv names it, as in training; '' takes all.")
    ] = "train",
    megabytes: Annotated[int, typer.Option(min=1, help="Size after which the next shard begins.")] = 512,
    crop: Annotated[int, typer.Option(min=1, help="Photographs with a shorter side are counted.")] = 512,
) -> None:
    """Pack photographs into WebDataset shards for training with data.roots=[OUT]."""
    try:
        found = list_photos({"root": photos, "list": paths} if paths else photos, split or None)
        packed = pack(found, out, megabytes * 1_000_000, crop)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    typer.echo(f"{out}: {packed.photographs} photographs in {packed.shards} shard{'s' * (packed.shards > 1)}")
    if flaws := report(packed.duplicates, packed.corrupt, packed.small, f"smaller than {crop} pixels, packed"):
        typer.echo(flaws)


if __name__ == "__main__":
    typer.run(command)

"""Photographs inside WebDataset shards: plain tar files, read from any place."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""Lower-case endings of files that count as photographs."""


@dataclass(frozen=True)
class Member:
    """A photograph in a shard: `length` bytes from `start` on. Reads as a `Path` does, so the two can be mixed."""

    shard: Path
    name: str
    start: int
    length: int

    def read_bytes(self) -> bytes:
        """The file's content. Raises OSError for a shard that is gone or was cut off since it was indexed."""
        with open(self.shard, "rb") as stream:
            stream.seek(self.start)
            data = stream.read(self.length)
        if len(data) < self.length:
            raise OSError(f"{self.shard} ends within {self.name}")
        return data

    @property
    def stem(self) -> str:
        """The name without folder and ending."""
        return Path(self.name).stem

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


Photo = Path | Member


def members(shard: Path) -> list[Member]:
    """The photographs of a shard in its order, other entries and hidden files left out; only the headers are read.

    Raises ValueError for a file that is no tar, is compressed, is cut off, or holds no photographs.
    """
    try:
        with tarfile.open(shard, "r:") as archive:
            entries = [(Path(entry.name), entry) for entry in archive if entry.isfile()]
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{shard}: not a whole, uncompressed tar file ({error}); make it again") from None
    found = [
        Member(shard, path.as_posix(), entry.offset_data, entry.size)
        for path, entry in entries
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        raise ValueError(f"{shard}: holds no photographs")
    return found

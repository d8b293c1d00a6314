"""Duplicates, corrupt and small photographs: found, counted, and told once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import torch

from deedsr.data.members import Member, Photo

SMALL, CORRUPT = 1, 2
NAMED = 5
"""Photographs of a kind that a report names."""
PIECE = 4096
"""Bytes that are compared before whole files are."""


class Flaws:
    """What was met in photographs that were drawn, noted by all worker processes of a loader.

    `marks` (N,) uint8 lies in shared memory: 0, `SMALL` or `CORRUPT` for each photograph.
    """

    def __init__(self, photos: Sequence[Photo]) -> None:
        self.photos = list(photos)
        self.marks = torch.zeros(len(self.photos), dtype=torch.uint8).share_memory_()

    def marked(self, mark: int) -> list[Photo]:
        """The photographs with this mark, in order."""
        return [self.photos[index] for index in (self.marks == mark).nonzero().flatten().tolist()]

    def report(self, duplicates: Sequence[Photo], crop: int) -> str:
        """One sentence for the end of a run whose crops have `crop` pixels; empty if there was nothing."""
        return report(duplicates, self.marked(CORRUPT), self.marked(SMALL), f"smaller than {crop} pixels, enlarged")


def report(duplicates: Sequence[Photo], corrupt: Sequence[Photo], small: Sequence[Photo], fate: str) -> str:
    """How many photographs were of each kind, with the first names; `fate` is what became of the small ones."""
    kinds = ((duplicates, "duplicates, left out"), (corrupt, "corrupt, left out"), (small, fate))
    parts = []
    for photos, kind in kinds:
        if photos:
            more = f" and {len(photos) - NAMED} more" if len(photos) > NAMED else ""
            parts.append(f"{kind}: {len(photos)} ({', '.join(map(str, photos[:NAMED]))}{more})")
    return f"photographs: {'; '.join(parts)}" if parts else ""


def distinct(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    """(The first of each content, the other names of contents had already), both in order.

    A photograph listed twice under one name stays: that is a weight. Whole files are read only where sizes and a piece
    from the middle agree.
    """
    first: dict[bytes, Photo] = {}
    duplicates = set()
    for photo in _colliding(_colliding(photos, size), lambda photo: (size(photo), _middle(photo))):
        kept = first.setdefault(hashlib.blake2b(photo.read_bytes()).digest(), photo)
        if kept != photo:
            duplicates.add(photo)
    return [photo for photo in photos if photo not in duplicates], sorted(duplicates, key=str)


def _colliding(photos: Sequence[Photo], key: Callable[[Photo], Hashable]) -> list[Photo]:
    """Those that share their key with another one, in order."""
    groups: dict[Hashable, set[Photo]] = defaultdict(set)
    keys = [key(photo) for photo in photos]
    for photo, value in zip(photos, keys, strict=True):
        groups[value].add(photo)
    return [photo for photo, value in zip(photos, keys, strict=True) if len(groups[value]) > 1]


def size(photo: Photo) -> int:
    """Bytes of a photograph's file."""
    return photo.length if isinstance(photo, Member) else photo.stat().st_size


def _middle(photo: Photo) -> bytes:
    path, start = (photo.shard, photo.start) if isinstance(photo, Member) else (photo, 0)
    with open(path, "rb") as stream:
        stream.seek(start + size(photo) // 2)
        return stream.read(min(PIECE, size(photo) - size(photo) // 2))

"""Photographs for training: a list of files, and an endless stream of random crops that any step can start from."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def list_photos(roots: str | Path | Iterable[str | Path], split: str | None = None) -> list[Path]:
    """All photographs below `roots`, one folder or several, sorted by path.

    A table ``FOLDER.tsv`` beside a folder (columns ``file`` and ``split``) chooses those of `split`, if one is given.
    Raises ValueError for a folder that is missing or holds no photograph of that split, and for a broken table.
    """
    found: list[Path] = []
    for root in [Path(roots)] if isinstance(roots, (str, Path)) else map(Path, roots):
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder of photographs")
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        table = Path(f"{os.path.abspath(root)}.tsv")
        if split is not None and table.is_file():
            names = _names(table, split)
            files = [path for path in files if path.relative_to(root).as_posix() in names]
        if not files:
            raise ValueError(f"{root}: holds no photographs" + (f" of the split {split!r}" if split else ""))
        found += files
    return found


def _names(table: Path, split: str) -> set[str]:
    """The files of `split`, relative to the table's folder."""
    with open(table, newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        if not {"file", "split"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{table}: its first line must name the columns `file` and `split`, with a tab between")
        return {row["file"] for row in rows if row["split"] == split}


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator whose stream is a pure function of `numbers` (seed, step, rank, sample …).

    Zeros that only fill up to four numbers don't count: (1, 2) is (1, 2, 0).
    """
    state = np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class PhotoCrops(IterableDataset):
    """Random square crops, flipped left-right half of the time: uint8 (3, size, size), RGB, without end.

    Sample `i` of step `s` on rank `r` is a pure function of (seed, s, r, i); a stream that starts at `start_step` goes
    on as if it had never stopped. Photographs smaller than `size` are enlarged to it. `cache` keeps the decoded
    photographs in memory (3 bytes a pixel, in each worker).
    """

    def __init__(
        self,
        files: Sequence[Path],
        size: int,
        seed: int,
        batch: int,
        rank: int = 0,
        start_step: int = 0,
        cache: bool = False,
    ) -> None:
        if not files:
            raise ValueError("no photographs to train on")
        self.files, self.size, self.seed, self.batch = list(files), size, seed, batch
        self.rank, self.start_step = rank, start_step
        self.kept: dict[int, np.ndarray] | None = {} if cache else None

    def photo(self, index: int) -> np.ndarray:
        """The photograph `index`, uint8 (H, W, 3). Raises ValueError that names an unreadable file."""
        if self.kept is not None and index in self.kept:
            return self.kept[index]
        path = self.files[index]
        try:
            with Image.open(path) as image:
                image = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, by format
            raise ValueError(f"{path}: can't be read ({error}); remove it from the training photographs") from error
        short = min(image.size)
        if short < self.size:
            scale = self.size / short
            image = image.resize([max(self.size, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
        if self.kept is not None:
            self.kept[index] = pixels
        return pixels

    def crop(self, step: int, sample: int) -> Tensor:
        """Crop number `sample` of the batch of `step` on this rank."""
        generator = seeded(self.seed, step, self.rank, sample)
        index, top, left, flip = torch.randint(0, 2**31, (4,), generator=generator).tolist()
        pixels = self.photo(index % len(self.files))
        top %= pixels.shape[0] - self.size + 1
        left %= pixels.shape[1] - self.size + 1
        crop = pixels[top : top + self.size, left : left + self.size]
        crop = crop[:, ::-1] if flip % 2 else crop
        return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.start_step + first  # whole batches go to one worker, so that the loader's order is the steps' order
        while True:
            for sample in range(self.batch):
                yield self.crop(step, sample)
            step += stride

"""Photographs for training: a list of them, and an endless stream of random crops that any step can start from."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from deedsr.data.batch import Crops
from deedsr.data.flaws import CORRUPT, SMALL, Flaws
from deedsr.data.members import SUFFIXES, Photo, members
from deedsr.data.stream import Stream
from deedsr.files import visible
from deedsr.randomness import seeded

Root = str | Path | Mapping[str, str | Path]
"""Where photographs are: a folder, a shard (.tar), a list (.txt), or {root: FOLDER, list: LIST.txt}."""


def list_photos(roots: Root | Iterable[Root], split: str | None = None) -> list[Photo]:
    """All photographs of `roots`, one or several, each root's sorted by path; those of a shard or list in its order.

    - A folder gives the photographs in it and in folders in it, and those of the shards (.tar) there; what is hidden is
      passed over. A table ``FOLDER.tsv`` beside it (columns ``file`` and ``split``) chooses those of `split`, if one is
      given; shards are taken whole.
    - A list has a path in each line, relative to `root` or, without one, to the list's folder; a size in brackets
      behind it, as in basicsr's `meta_info` files, is passed over. Lists know no splits.

    Raises ValueError for a root that is missing, broken, or holds no photographs of that split.
    """
    found: list[Photo] = []
    for root in [roots] if isinstance(roots, (str, Path, Mapping)) else roots:
        if isinstance(root, Mapping):
            if set(root) != {"root", "list"}:
                raise ValueError(f"{dict(root)}: a root with a list is {{root: FOLDER, list: LIST.txt}}")
            found += _listed(Path(root["list"]), Path(root["root"]))
        elif (path := Path(root)).suffix.lower() == ".txt" and path.is_file():
            found += _listed(path, path.parent)
        elif path.suffix.lower() == ".tar" and path.is_file():
            found += members(path)
        else:
            found += _folder(path, split)
    return found


def _folder(root: Path, split: str | None) -> list[Photo]:
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder of photographs, shard (.tar) or list (.txt)")
    paths = visible(root)
    pictures = [path for path in paths if path.suffix.lower() in SUFFIXES]
    table = Path(f"{os.path.abspath(root)}.tsv")
    if split is not None and table.is_file():
        names = split_names(table, split)
        pictures = [path for path in pictures if path.relative_to(root).as_posix() in names]
    files: list[Photo] = [*pictures]
    files += [member for path in paths if path.suffix.lower() == ".tar" for member in members(path)]
    if not files:
        raise ValueError(f"{root}: holds no photographs" + (f" of the split {split!r}" if split else ""))
    return files


def _listed(table: Path, root: Path) -> list[Photo]:
    names = listed_names(table)
    files = [root / name for name in names]
    if missing := [name for name, file in zip(names, files, strict=True) if not file.is_file()]:
        more = f", and {len(missing) - 1} more that aren't there" if len(missing) > 1 else ""
        raise ValueError(f"{table}: names {missing[0]}, which isn't a file in {root}{more}")
    return [*files]


def listed_names(table: Path) -> list[str]:
    """What a list names, see `list_photos`. Raises ValueError for one that is missing or empty."""
    if not table.is_file():
        raise ValueError(f"{table}: no such list of photographs")
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    names = [re.sub(r"\s+\([^()]*\)$", "", line.strip()) for line in lines if line.strip()]
    if not names:
        raise ValueError(f"{table}: names no photographs")
    return names


def split_names(table: Path, split: str) -> set[str]:
    """The files of `split`, relative to the table's folder. Raises ValueError for a table without these columns."""
    with open(table, newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        if not {"file", "split"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{table}: its first line must name the columns `file` and `split`, with a tab between")
        return {row["file"] for row in rows if row["split"] == split}


TextOf = Callable[[Photo, torch.Generator], Mapping[str, Tensor]]
"""The embedded text of a photograph, `tokens` and `pooled`; what it draws comes from the generator of the sample."""


class Corrupt(ValueError):
    """A file whose content can't be decoded as a picture."""


def decode(data: bytes) -> Image.Image:
    """A picture's bytes -> the picture, upright, RGB, 8 bits. Raises Corrupt with the reason."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would clip it
                upright = Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
            return upright.convert("RGB")
    except UnidentifiedImageError:
        raise Corrupt("not a picture") from None
    except MemoryError:  # not the file's fault
        raise
    except Exception as error:  # Pillow's, in many types, by format and damage
        raise Corrupt(str(error)) from None


def contents(file: Photo) -> bytes:
    """A file's bytes. Raises ValueError that names it where it has gone or can't be opened."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{file}: can't be read ({error.strerror or error}); the same command goes on when it can"
        ) from error


def edges(pixels: np.ndarray) -> float:
    """Mean length of the Sobel gradient, all channels alike, of uint8 (H, W, 3) as numbers from 0 to 1."""
    part = np.pad(pixels.astype(np.float32) / 255, ((1, 1), (1, 1), (0, 0)), "reflect")
    down, across = (part[:-2] + 2 * part[1:-1] + part[2:]), part[:, :-2] + 2 * part[:, 1:-1] + part[:, 2:]
    return float(np.hypot(down[:, 2:] - down[:, :-2], across[2:] - across[:-2]).mean())


def as_tensor(pixels: np.ndarray, flipped: bool) -> Tensor:
    """uint8 (H, W, 3) → (3, H, W), left and right exchanged where `flipped`."""
    pixels = pixels[:, ::-1] if flipped else pixels
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class PhotoCrops(Stream):
    """Random square crops, flipped left-right half of the time: `Crops` of uint8 (3, size, size), RGB, without end.

    Sample `i` of step `s` on rank `r` is a pure function of (seed, s, r, i). Photographs smaller than `size` are
    enlarged to it; another one, drawn from the same numbers, takes the place of a corrupt one; `flaws` notes both.
    cache: keep the decoded photographs in memory, 3 bytes a pixel in each worker. text: gives each photograph's.
    enlarge: half of the crops are cut that much smaller and enlarged: the pixels of cameras are softer than those of
    photographs that were made smaller. min_edges: crops with less of `edges` are drawn again, photograph and all.
    """

    TRIES = 1000

    def __init__(
        self,
        files: Sequence[Photo],
        size: int,
        seed: int,
        batch: int,
        rank: int = 0,
        start: int = 0,
        cache: bool = False,
        text: TextOf | None = None,
        enlarge: float = 1.0,
        min_edges: float | None = None,
    ) -> None:
        if not files:
            raise ValueError("no photographs to train on")
        if not 1 <= enlarge <= size / 2:
            raise ValueError(f"enlarge is {enlarge}; it must be at least 1, and leave 2 pixels of a crop of {size}")
        super().__init__(batch, start)
        self.files, self.size, self.seed = list(files), size, seed
        self.rank, self.text, self.enlarge, self.min_edges = rank, text, enlarge, min_edges
        self.flaws = Flaws(self.files)
        self.kept: dict[int, np.ndarray] | None = {} if cache else None

    def photo(self, index: int) -> np.ndarray:
        """The photograph `index`, uint8 (H, W, 3), no side below `size`.

        Raises Corrupt, and ValueError that names a file which has gone or can't be opened: taking another one's place
        would be no pure function of the photographs.
        """
        if self.kept is not None and index in self.kept:
            return self.kept[index]
        image = decode(contents(self.files[index]))
        short = min(image.size)
        if short < self.size:
            self.flaws.marks[index] = SMALL
            scale = self.size / short
            image = image.resize([max(self.size, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
        if self.kept is not None:
            self.kept[index] = pixels
        return pixels

    def sound(self, index: int, generator: torch.Generator) -> tuple[int, np.ndarray]:
        """The photograph `index`, if it is corrupt another one, drawn; and its index. ValueError if all are corrupt."""
        try:
            return index, self.photo(index)
        except Corrupt as first:
            self.flaws.marks[index] = CORRUPT
            error = first
        for other in torch.randperm(len(self.files), generator=generator).tolist():
            if self.flaws.marks[other] != CORRUPT:
                try:
                    return other, self.photo(other)
                except Corrupt:
                    self.flaws.marks[other] = CORRUPT
        others = f", and so are the other {len(self.files) - 1} photographs" if len(self.files) > 1 else ""
        raise ValueError(f"{self.files[index]}: corrupt ({error}){others}; there is nothing to train on") from error

    def crop(self, step: int, number: int) -> Tensor:
        """The picture of `sample` alone, uint8 (3, size, size)."""
        return self._drawn(seeded(self.seed, step, self.rank, number))[0]

    def sample(self, step: int, number: int) -> Crops:
        """Sample `number` of the batch of `step` on this rank."""
        generator = seeded(self.seed, step, self.rank, number)
        hr, photo = self._drawn(generator)
        return Crops(hr) if self.text is None else Crops(hr, **self.text(photo, generator))

    def _drawn(self, generator: torch.Generator) -> tuple[Tensor, Photo]:
        """A crop and the photograph that it is of. Raises ValueError where all are flatter than `min_edges`."""
        for _ in range(self.TRIES):
            crop, flipped, photo = self._one(generator)
            if self.min_edges is None or edges(crop) >= self.min_edges:
                return as_tensor(crop, flipped), photo
        raise ValueError(
            f"data.min_edges={self.min_edges}: {self.TRIES} crops of {self.size}² pixels were flatter; give less"
        )

    def _one(self, generator: torch.Generator) -> tuple[np.ndarray, bool, Photo]:
        """A crop, uint8 (size, size, 3), whether it is to be flipped, and the photograph that it is of."""
        index, top, left, flip = torch.randint(0, 2**31, (4,), generator=generator).tolist()
        index, pixels = self.sound(index % len(self.files), generator)
        enlarged = self.enlarge > 1 and bool(torch.rand((), generator=generator) < 0.5)
        side = round(self.size / self.enlarge) if enlarged else self.size
        top %= pixels.shape[0] - side + 1
        left %= pixels.shape[1] - side + 1
        crop = pixels[top : top + side, left : left + side]
        if enlarged:
            crop = np.asarray(Image.fromarray(crop).resize((self.size, self.size), Image.Resampling.BICUBIC))
        return crop, flip % 2 == 1, self.files[index]

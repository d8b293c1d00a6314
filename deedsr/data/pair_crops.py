"""Own LR–HR pairs for training: what a folder of them holds, and aligned crops, alone or among those of photographs."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deedsr.data.batch import Crops
from deedsr.data.pairs import match, pictures
from deedsr.data.photos import Corrupt, PhotoCrops, TextOf, as_tensor, contents, decode, split_names
from deedsr.data.stream import Stream
from deedsr.degradation import Degradation, apply
from deedsr.geometry import SCALE
from deedsr.randomness import seeded

MOST_SHIFT = 1.0
"""Pixels of the LR; pairs that are shifted further are left out."""
SMOOTH = 2.0
"""Pixels of the LR: σ of the blur that a shift is measured under."""


@dataclass(frozen=True)
class Pair:
    """The files of one motif."""

    lr: Path
    hr: Path

    @property
    def name(self) -> str:
        return self.hr.stem


def list_pairs(
    folder: str | Path, size: int, split: str | None = None, shifted: bool = False
) -> tuple[list[Pair], list[str]]:
    """The pairs of a folder that can be trained on, by stem, and what there is to say about it, a line each.

    The folder has ``lr/`` and ``hr/``. A table ``FOLDER.tsv`` beside it (columns ``file``, an HR picture or its stem,
    and ``split``) chooses those of `split`, if one is given. All are read once. Left out are those whose HR has a side
    below `size`, and, unless `shifted`, those that are shifted by more than `MOST_SHIFT`.

    Raises ValueError for files without a partner, that can't be read, or whose sizes don't fit, for a table without
    those columns, and where fewer than two pairs are left: stage 1 compares two pictures of a folder.
    """
    found = _pairs(Path(folder), split)
    kept, scales, shifts = [], Counter[int](), {}
    for pair in found:
        lr, hr, scale = read_pair(pair)
        if min(hr.shape[:2]) >= size:
            scales[scale] += 1
            shifts[pair] = math.hypot(*shift_of(lr, hr))
            if shifted or shifts[pair] <= MOST_SHIFT:
                kept.append(pair)
    notes = [f"{count} of scale {scale}: {_reason(scale)}" for scale, count in sorted(scales.items()) if scale != SCALE]
    if small := [pair.name for pair in found if pair not in shifts]:
        notes.append(f"{len(small)} smaller than {size} pixels, left out ({small[0]} for one)")
    if shifts:
        worst = max(shifts, key=lambda pair: shifts[pair])
        far = sum(value > MOST_SHIFT for value in shifts.values())
        fate = "kept" if shifted else "left out unless data.shifted=true"
        told = f"{far} shifted by more than a pixel of the LR, {fate}" if far else "none is shifted"
        notes.append(f"{told} (at most by {shifts[worst]:.1f}, {worst.name})")
    lines = [f"{folder}: of {len(found)} pairs {note}" for note in notes]
    if len(kept) < 2:
        why = f" ({'; '.join(notes)})" if len(found) > 1 else ""
        of_split = f" of the split {split!r}" if split else ""
        raise ValueError(
            f"{folder}: {len(kept)} of {len(found)} pairs{of_split} can be trained on, at least 2 are needed{why}"
        )
    return kept, lines


def _pairs(folder: Path, split: str | None) -> list[Pair]:
    lr, hr = folder / "lr", folder / "hr"
    matched = match({str(lr): pictures(lr), str(hr): pictures(hr)})
    pairs = [Pair(files[str(lr)], files[str(hr)]) for files in matched.values()]
    table = Path(f"{os.path.abspath(folder)}.tsv")
    if split is None or not table.is_file():
        return pairs
    names = split_names(table, split)
    return [pair for pair in pairs if names & {pair.name, pair.hr.name, f"hr/{pair.hr.name}"}]


def _reason(scale: int) -> str:
    if scale < SCALE:
        return f"their LR is averaged down to a {SCALE}th of HR"
    return f"their HR is averaged down to {SCALE} times LR, what a model gives"


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray, int]:
    """LR (h, w, 3) and HR (4h, 4w, 3), uint8 RGB, and how many times larger HR was in the files, a whole number.

    A model gives 4 times its LR. Where HR was larger, it is made smaller, as a sensor with larger pixels would have
    taken it: the LR, whose flaws are to be learned, stays untouched. Where HR was smaller, the LR is made smaller, and
    HR, the truth, stays: enlarging it would teach softness. Averaging weakens the noise and blur of such an LR, so that
    real ones are worse than those of training: pairs of scale 4 and more are better. What would leave a part of a pixel
    is cut off at the right and at the bottom.

    Raises ValueError for a file that can't be read, and sizes that are not the same whole number of times as large.
    """
    lr, hr = _opened(pair.lr), _opened(pair.hr)
    scale = hr.width // lr.width
    if not scale or hr.size != (scale * lr.width, scale * lr.height):
        raise ValueError(
            f"{pair.hr}: {hr.width}×{hr.height} is not a whole number of times as large as {lr.width}×{lr.height} of "
            f"{pair.lr}; crop both so that it is"
        )
    if scale < SCALE:
        unit = math.lcm(scale, SCALE) // scale  # pixels of the LR file
        width, height = (side - side % unit for side in lr.size)
        if not width or not height:
            raise ValueError(f"{pair.lr}: {lr.width}×{lr.height} is too small; leave the pair out")
        hr = hr.crop((0, 0, scale * width, scale * height))
        lr = lr.crop((0, 0, width, height)).resize([side // SCALE for side in hr.size], Image.Resampling.BOX)
    elif scale > SCALE:
        hr = hr.resize([SCALE * side for side in lr.size], Image.Resampling.BOX)
    return np.asarray(lr), np.asarray(hr), scale


def _opened(path: Path) -> Image.Image:
    try:
        return decode(contents(path))
    except Corrupt as error:
        raise ValueError(f"{path}: can't be read as a picture ({error}); repair it, or leave the pair out") from None


def shift_of(lr: np.ndarray, hr: np.ndarray) -> tuple[float, float]:
    """How far to the right and down `lr` (h, w, 3) shows what `hr` (4h, 4w, 3) does, in pixels of the LR.

    By phase correlation of their luma, without the finest frequencies: of a soft or noisy LR these hold nothing. Of
    pictures that have nothing in common it is arbitrary.
    """
    small = cv2.resize(hr, lr.shape[1::-1], interpolation=cv2.INTER_AREA)
    grey = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY).astype(np.float32) for one in (small, lr)]
    window = cv2.createHanningWindow(lr.shape[1::-1], cv2.CV_32F)
    first, second = (np.fft.fft2(window * (one - one.mean())) for one in grey)
    cross = second * first.conj()
    down, right = (np.fft.fftfreq(side) for side in lr.shape[:2])
    smooth = np.exp(-2 * (np.pi * SMOOTH) ** 2 * (down[:, None] ** 2 + right**2))
    peaks = np.fft.ifft2(smooth * cross / np.maximum(np.abs(cross), 1e-9)).real
    row, column = np.unravel_index(peaks.argmax(), peaks.shape)
    return _refined(peaks[row], int(column)), _refined(peaks[:, column], int(row))


def _refined(line: np.ndarray, at: int) -> float:
    """Where the maximum at `at` lies between samples, by a parabola; past the middle of the line it is below 0."""
    below, top, above = (float(line[(at + step) % len(line)]) for step in (-1, 0, 1))
    bend = below - 2 * top + above
    place = at + ((below - above) / (2 * bend) if bend else 0.0)
    return (place + len(line) / 2) % len(line) - len(line) / 2


class PairCrops(Stream):
    """Random aligned crops of pairs, both flipped left-right half of the time: `Crops` with `lr`, without end.

    Sample `i` of step `s` on rank `r` is a pure function of (seed, s, r, i).

    folders: the pairs of each, see `list_pairs`. size: of the HR, a multiple of 4. other: whether `Crops.other` is
    needed. cache: keep the pictures in memory, in each worker. text: gives that of an HR picture.
    """

    def __init__(
        self,
        folders: Sequence[Sequence[Pair]],
        size: int,
        seed: int,
        batch: int,
        rank: int = 0,
        start: int = 0,
        cache: bool = False,
        text: TextOf | None = None,
        other: bool = False,
    ) -> None:
        if size % SCALE:
            raise ValueError(f"crop must be a multiple of {SCALE} with pairs, got {size}")
        super().__init__(batch, start)
        self.places = [(folder, at) for folder in folders for at in range(len(folder))]
        self.size, self.seed, self.rank, self.text, self.other = size, seed, rank, text, other
        self.kept: dict[Pair, tuple[np.ndarray, np.ndarray]] | None = {} if cache else None

    def sample(self, step: int, number: int) -> Crops:
        """Sample `number` of the batch of `step` on this rank."""
        generator = seeded(self.seed, step, self.rank, number)
        index, further = torch.randint(0, 2**31, (2,), generator=generator).tolist()
        folder, at = self.places[index % len(self.places)]
        lr, hr = self._crop(folder[at], generator)
        other = None
        if self.other:
            other, _ = self._crop(folder[(at + 1 + further % (len(folder) - 1)) % len(folder)], generator)
        words = {} if self.text is None else self.text(folder[at].hr, generator)
        return Crops(hr, lr=lr, other=other, paired=torch.tensor(True), **words)

    def _crop(self, pair: Pair, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        lr, hr = self._pictures(pair)
        side = self.size // SCALE
        top, left, flip = torch.randint(0, 2**31, (3,), generator=generator).tolist()
        top, left = top % (lr.shape[0] - side + 1), left % (lr.shape[1] - side + 1)
        low = lr[top : top + side, left : left + side]
        top, left = SCALE * top, SCALE * left
        high = hr[top : top + self.size, left : left + self.size]
        return as_tensor(low, flip % 2 == 1), as_tensor(high, flip % 2 == 1)

    def _pictures(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        if self.kept is None:
            return read_pair(pair)[:2]
        if pair not in self.kept:
            self.kept[pair] = read_pair(pair)[:2]
        return self.kept[pair]


class MixedCrops(Stream):
    """Crops of photographs of which a `share`, in each batch as nearly as whole numbers allow, are crops of pairs.

    Crops of photographs are those that there would be without pairs; their `lr` and `other` are black.
    """

    def __init__(self, photos: PhotoCrops, pairs: PairCrops, share: float) -> None:
        super().__init__(photos.batch, photos.start)
        self.photos, self.pairs, self.share = photos, pairs, share

    def sample(self, step: int, number: int) -> Crops:
        """Sample `number` of the batch of `step` on this rank."""
        before = step * self.batch + number
        if math.floor((before + 1) * self.share) > math.floor(before * self.share):
            return self.pairs.sample(step, number)
        side = self.pairs.size // SCALE
        black = torch.zeros(3, side, side, dtype=torch.uint8)
        other = black if self.pairs.other else None
        return replace(self.photos.sample(step, number), lr=black, other=other, paired=torch.tensor(False))


def degraded(hr: Tensor, degradation: Degradation, own: Tensor | None, paired: Tensor | None) -> Tensor:
    """The LR of a batch, in [0, 1]: `own` in the rows of pairs, else what `degradation` makes of `hr`, in [0, 1].

    (B, 3, S, S), B degradations, uint8 (B, 3, S/4, S/4), bool (B,) → (B, 3, S/4, S/4).
    """
    if own is None or paired is None:
        return apply(hr, degradation)
    lr, rest = own.float() / 255, ~paired.cpu()
    if rest.any():
        lr[rest] = apply(hr[rest], degradation[rest])
    return lr

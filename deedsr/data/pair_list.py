"""Own LR–HR pairs for training: what a folder of them holds, what is wrong with it, and their pictures."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from deedsr.data.members import Photo
from deedsr.data.pairs import match, pictures_and_packed
from deedsr.data.photos import Corrupt, Root, contents, decode, listed_names, split_names
from deedsr.geometry import SCALE

MOST_SHIFT = 1.0
"""Pixels of the LR; pairs that are shifted further are left out."""
LEAST_LIKENESS = 0.6
"""Correlation of LR with HR; pairs below show two things and are left out."""
SMOOTH = 2.0
"""Pixels of the LR: σ of the blur that shift and likeness are measured under."""


@dataclass(frozen=True)
class Pair:
    """The files of one motif."""

    lr: Photo
    hr: Photo

    @property
    def name(self) -> str:
        return self.hr.stem


@dataclass(frozen=True)
class PairList:
    """What can be trained on. lines: what there is to say, for a log.

    doubts: what is wrong with pairs among them. unlike: those that show two things.
    """

    pairs: list[Pair]
    lines: list[str]
    doubts: list[str]
    unlike: list[Pair]


@dataclass(frozen=True)
class Look:
    """What one pair is like: the scale of its files, the shift in pixels of the LR, and the correlation."""

    scale: int
    shift: float
    likeness: float


def list_pairs(root: Root, size: int, split: str | None = None, shifted: bool = False) -> PairList:
    """The pairs of a folder that can be trained on, by stem.

    The folder has ``lr/`` and ``hr/``, in each of them pictures, or shards (.tar) that hold them. A table
    ``FOLDER.tsv`` beside it (columns ``file``, an HR picture or its stem, and ``split``) chooses those of `split`, if
    one is given; a list, {root: FOLDER, list: LIST.txt} or LIST.txt in the folder, those that it names in the same way,
    one a line. All are read once. Left out are those whose HR has a side below `size`, and, unless `shifted`, those
    whose LR shows something else, or the same shifted by more than `MOST_SHIFT`.

    Raises ValueError for files without a partner, that can't be read, or whose sizes don't fit, for a broken shard, for
    a table without those columns, for names in a list that there are not, and where fewer than two pairs are left.
    """
    folder, found = _found(root, split)
    looks = {pair: look for pair in found if (look := look_at(pair, size)) is not None}
    unlike = [pair for pair, look in looks.items() if look.likeness < LEAST_LIKENESS]
    far = [pair for pair, look in looks.items() if look.shift > MOST_SHIFT and pair not in unlike]
    kept = [pair for pair in looks if shifted or pair not in (*unlike, *far)]
    scales = Counter(look.scale for look in looks.values())
    notes = [f"{count} of scale {scale}: {_reason(scale)}" for scale, count in sorted(scales.items()) if scale != SCALE]
    if small := [pair.name for pair in found if pair not in looks]:
        notes.append(f"{len(small)} smaller than {size} pixels, left out ({small[0]} for one)")
    wrong = _wrong(unlike, far, looks)
    fate = "kept" if shifted else "left out unless data.shifted=true"
    notes += [f"{what}, {fate} ({which})" for what, which in wrong]
    if looks and not wrong:
        notes.append(f"none is shifted (at most by {max(look.shift for look in looks.values()):.1f})")
    if len(kept) < 2:
        why = f" ({'; '.join(notes)})" if len(found) > 1 else ""
        of_split = f" of the split {split!r}" if split else ""
        raise ValueError(
            f"{folder}: {len(kept)} of {len(found)} pairs{of_split} can be trained on, at least 2 are needed{why}"
        )
    lines = [f"{folder}: of {len(found)} pairs {note}" for note in notes]
    doubts = [f"of {len(kept)} pairs {what} ({which})" for what, which in wrong] if shifted else []
    return PairList(kept, lines, doubts, [pair for pair in unlike if pair in kept])


def _wrong(unlike: list[Pair], far: list[Pair], looks: Mapping[Pair, Look]) -> list[tuple[str, str]]:
    """What is wrong with how many pairs, and which is the worst."""
    found = []
    if unlike:
        worst = min(unlike, key=lambda pair: looks[pair].likeness)
        what = f"{len(unlike)} show something else in lr/ than in hr/"
        found.append((what, f"a correlation of {looks[worst].likeness:.2f}, {worst.name}"))
    if far:
        worst = max(far, key=lambda pair: looks[pair].shift)
        found.append((f"{len(far)} shifted by more than a pixel of the LR", f"{looks[worst].shift:.1f}, {worst.name}"))
    return found


def _found(root: Root, split: str | None) -> tuple[Path, list[Pair]]:
    """The folder, and its pairs that a split or a list chooses."""
    listed = None
    if isinstance(root, Mapping):
        if set(root) != {"root", "list"}:
            raise ValueError(f"{dict(root)}: pairs with a list are {{root: FOLDER, list: LIST.txt}}")
        folder, listed = Path(root["root"]), Path(root["list"])
    elif Path(root).suffix.lower() == ".txt" and Path(root).is_file():
        folder, listed = Path(root).parent, Path(root)
    else:
        folder = Path(root)
    lr, hr = folder / "lr", folder / "hr"
    matched = match({str(side): pictures_and_packed(side) for side in (lr, hr)})
    pairs = [Pair(files[str(lr)], files[str(hr)]) for files in matched.values()]
    if listed is not None:
        names = set(listed_names(listed))
        if strange := names - set().union(*map(_called, pairs)):
            raise ValueError(f"{listed}: names {min(strange)}, and {folder} has no such pair")
        return folder, [pair for pair in pairs if _called(pair) & names]
    table = Path(f"{os.path.abspath(folder)}.tsv")
    if split is None or not table.is_file():
        return folder, pairs
    names = split_names(table, split)
    return folder, [pair for pair in pairs if _called(pair) & names]


def _called(pair: Pair) -> set[str]:
    """What tables and lists may call a pair."""
    file = Path(pair.hr.name).name
    return {pair.name, file, f"hr/{file}"}


def look_at(pair: Pair, size: int) -> Look | None:
    """What a pair is like; None for one whose HR has a side below `size`. Errors as of `read_pair`."""
    lr, hr, scale = read_pair(pair)
    if min(hr.shape[:2]) < size:
        return None
    right, down = shift_of(lr, hr)
    return Look(scale, math.hypot(right, down), likeness_of(lr, hr, right, down))


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


def _opened(path: Photo) -> Image.Image:
    try:
        return decode(contents(path))
    except Corrupt as error:
        raise ValueError(f"{path}: can't be read as a picture ({error}); repair it, or leave the pair out") from None


def shift_of(lr: np.ndarray, hr: np.ndarray) -> tuple[float, float]:
    """How far to the right and down `lr` (h, w, 3) shows what `hr` (4h, 4w, 3) does, in pixels of the LR.

    By phase correlation of their luma, without the finest frequencies: of a soft or noisy LR these hold nothing. Of
    pictures that have nothing in common it is arbitrary.
    """
    window = cv2.createHanningWindow(lr.shape[1::-1], cv2.CV_32F)
    first, second = (np.fft.fft2(window * (one - one.mean())) for one in _greys(lr, hr))
    cross = second * first.conj()
    down, right = (np.fft.fftfreq(side) for side in lr.shape[:2])
    smooth = np.exp(-2 * (np.pi * SMOOTH) ** 2 * (down[:, None] ** 2 + right**2))
    peaks = np.abs(np.fft.ifft2(smooth * cross / np.maximum(np.abs(cross), 1e-9)).real)  # of a negative it is below 0
    row, column = np.unravel_index(peaks.argmax(), peaks.shape)
    return _refined(peaks[row], int(column)), _refined(peaks[:, column], int(row))


def _refined(line: np.ndarray, at: int) -> float:
    """Where the maximum at `at` lies between samples, by a parabola; past the middle of the line it is below 0."""
    below, top, above = (float(line[(at + step) % len(line)]) for step in (-1, 0, 1))
    bend = below - 2 * top + above
    place = at + ((below - above) / (2 * bend) if bend else 0.0)
    return (place + len(line) / 2) % len(line) - len(line) / 2


def likeness_of(lr: np.ndarray, hr: np.ndarray, right: float, down: float) -> float:
    """How far `lr` (h, w, 3), shifted as `shift_of` says, shows what `hr` (4h, 4w, 3) does: 0 to 1.

    The correlation of their luma, both blurred, without its sign: a negative is a pair, too.
    """
    matrix = np.float32([[1, 0, right], [0, 1, down]])
    small, own = (cv2.GaussianBlur(one, (0, 0), SMOOTH) for one in _greys(lr, hr))
    moved = cv2.warpAffine(small, matrix, small.shape[::-1], borderMode=cv2.BORDER_REFLECT)
    if moved.std() < 1e-3 or own.std() < 1e-3:  # plain pictures are alike
        return 1.0
    return abs(float(np.corrcoef(moved.ravel(), own.ravel())[0, 1]))


def _greys(lr: np.ndarray, hr: np.ndarray) -> list[np.ndarray]:
    """The luma of HR made as small as LR, and of LR: float32 (h, w)."""
    small = cv2.resize(hr, lr.shape[1::-1], interpolation=cv2.INTER_AREA)
    return [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY).astype(np.float32) for one in (small, lr)]

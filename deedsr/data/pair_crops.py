"""Random aligned crops of own pairs, alone or among those of photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from deedsr.data.batch import Crops
from deedsr.data.pair_list import Pair, read_pair
from deedsr.data.photos import PhotoCrops, TextOf, as_tensor
from deedsr.data.stream import Stream
from deedsr.degradation import Degradation, apply
from deedsr.devices import upload
from deedsr.geometry import SCALE
from deedsr.randomness import seeded


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
        if other and min(map(len, folders)) < 2:
            raise ValueError("stage 1 compares two pictures of a folder of pairs, and one has a single one left")
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

    (B, 3, S, S), B degradations, uint8 (B, 3, S/4, S/4), bool (B,) on the CPU → (B, 3, S/4, S/4).
    """
    if own is None or paired is None:
        return apply(hr, degradation)
    lr, rest = own.float() / 255, (~paired).nonzero()[:, 0]
    if len(rest):
        rows = upload(rest, hr.device)
        lr.index_copy_(0, rows, apply(hr.index_select(0, rows), degradation[rest]))
    return lr

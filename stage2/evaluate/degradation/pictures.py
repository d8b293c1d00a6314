"""Pieces of held-back photographs, and what a recipe makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deedsr.data.flaws import SMALL
from deedsr.data.members import Photo
from deedsr.data.photos import Corrupt, PhotoCrops
from deedsr.degradation import Degradation, Mixture, Recipe, apply
from deedsr.geometry import SCALE
from deedsr.models.deedsr.encoder import GRID
from deedsr.nested import join
from deedsr.randomness import seeded
from stage2.evaluate.degradation.recipes import Fixed

WHOLE = "whole"
Field = int | str
"""What the network sees in one piece: a side in HR pixels, or `WHOLE`: all, in tiles as restoring does it."""


class Scenes:
    """Square pieces of photographs, numbered: `crops` of each photograph for each seed.

    side: HR pixels. Raises ValueError where there is not one piece, and for a photograph that is smaller than one or
    corrupt: what stood in its place would be measured as if it were that photograph.
    """

    def __init__(self, files: Sequence[Photo], side: int, crops: int, seeds: Sequence[int]) -> None:
        if not files or crops < 1 or not seeds:
            raise ValueError(
                f"{len(files)} photographs, crops={crops} and seeds={list(seeds)} leave nothing to restore"
            )
        self.side, self.crops, self.seeds, self.photos = side, crops, tuple(seeds), len(files)
        self._streams = [_sound(file, side, number, crops) for number, file in enumerate(files)]

    def __len__(self) -> int:
        return len(self.seeds) * self.photos * self.crops

    def place(self, index: int) -> tuple[int, int, int]:
        """Seed, photograph and crop of piece `index`."""
        rest, crop = divmod(index, self.crops)
        return self.seeds[rest // self.photos], rest % self.photos, crop

    def photo(self, index: int) -> int:
        """The photograph of piece `index`."""
        return self.place(index)[1]

    def other(self, index: int, step: int | None = None) -> int:
        """The piece of the same seed and crop, `step` photographs on, of 1 to `photos` - 1; half of them by default."""
        photo = self.photo(index)
        target = (photo + (step or self.photos // 2)) % self.photos
        return index + (target - photo) * self.crops

    def hr(self, index: int) -> Tensor:
        """(1, 3, side, side) in [0, 1]"""
        seed, photo, crop = self.place(index)
        return self._streams[photo].crop(seed, crop)[None].float() / 255

    def drawn(self, index: int, recipe: Recipe | Mixture | Fixed) -> Degradation:
        """What `recipe` does to piece `index`: one degradation."""
        return recipe.sample(seeded(*self.place(index), 0, 1), 1)

    def photograph(self, index: int) -> Tensor:
        """The whole photograph of piece `index`, (1, 3, H, W) in [0, 1], sides cut to multiples of 4."""
        pixels = torch.from_numpy(self._streams[self.photo(index)].photo(0).copy()).permute(2, 0, 1)[None].float() / 255
        height, width = (side // SCALE * SCALE for side in pixels.shape[-2:])
        return pixels[..., :height, :width]


def _sound(file: Photo, side: int, number: int, crops: int) -> PhotoCrops:
    """Crops of the photograph `number`; errors as of `Scenes`."""
    stream = PhotoCrops([file], side, number, crops, cache=True)
    try:
        stream.photo(0)
    except Corrupt as error:
        raise ValueError(f"{file}: corrupt ({error}); leave it out") from error
    if stream.flaws.marked(SMALL):
        raise ValueError(f"{file}: is smaller than {side} x {side}; take smaller pieces, or leave it out")
    return stream


class Pictures:
    """All scenes, degraded by a recipe. lr: (1, 3, side/4, side/4) each; degradation: their parameters."""

    def __init__(self, scenes: Scenes, recipe: Recipe | Mixture | Fixed) -> None:
        self.scenes = scenes
        self.fixed = isinstance(recipe, Fixed)
        self.degradation = join([scenes.drawn(index, recipe) for index in range(len(scenes))])
        self.lr = [apply(scenes.hr(index), self.degradation[index]) for index in range(len(scenes))]

    def sibling(self, index: int) -> tuple[int, Degradation]:
        """Another photograph's piece, and the degradation of piece `index` for it: the same, with noise of its own."""
        return self.scenes.other(index), self.degradation[index].reseeded(seeded(*self.scenes.place(index), 0, 2))

    def same(self, index: int) -> Tensor:
        """LR of `sibling`."""
        other, degradation = self.sibling(index)
        return apply(self.scenes.hr(other), degradation)

    def photograph(self, index: int) -> Tensor:
        """LR of the whole photograph of piece `index`, by its degradation."""
        return apply(self.scenes.photograph(index), self.degradation[index])


def cut(lr: Tensor, hr: Tensor, field: Field) -> tuple[Tensor, Tensor]:
    """The `field` in the middle of LR (B, 3, h, w) and HR (B, 3, 4h, 4w), on the grid of JPEG's blocks."""
    if isinstance(field, str) or field >= hr.shape[-1]:
        return lr, hr
    side = field // SCALE
    start = (lr.shape[-1] - side) // 2 // GRID * GRID
    low, high = (slice(scale * start, scale * (start + side)) for scale in (1, SCALE))
    return lr[..., low, low], hr[..., high, high]


def detail(hr: Tensor) -> float:
    """The mean squared step between neighbouring pixels of the luma: little where a picture is flat or out of focus."""
    plane = hr.mean(1)
    return float(torch.stack([plane.diff(dim=dim).square().mean() for dim in (-1, -2)]).sum())

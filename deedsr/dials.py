"""The dials of what is taken out of a picture: below 1 what was measured is put back, above 1 more is done.

No network takes part, so every model has them. A network that is told to leave noise in can't: JPEG has made something
else of it, and what is left says too little of how it was (deedsr/assets/built-in/README.md has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kornia.filters import guided_blur
from torch import Tensor
from torch.nn import functional

from deedsr.coherence import between
from deedsr.degradation.jpeg import MCU, jpeg
from deedsr.degradation.operations import blurred
from deedsr.devices import upload
from deedsr.diagnosis import Diagnosis
from deedsr.geometry import SCALE, resize, unbounded
from deedsr.models.deedsr.head import CLEAN
from deedsr.options import Dials
from deedsr.pictures.picture import luma
from deedsr.randomness import seeded
from deedsr.tiling import Window, around, windows

PART, REACH = 256, 16
"""Side of the parts that large pictures are worked on in, and how far a pixel's surroundings can reach, LR pixels."""

HIDDEN = 3.0
"""What is less than so many times as strong as noise and JPEG's errors may be what they have left, not detail."""
EDGE = 0.1
"""The same for what is sharpened, which by then is clean."""
STEEPER = 4.0
"""How many times as steep an edge becomes at most, between the darkest and the brightest pixel near it …"""
NEAR = 3
"""… that is at most so many pixels away."""
FINER = 2
"""How many times as large the picture is while edges are made steeper."""
STRONG, FAINT = 0.03, 0.04
"""Standard deviations, of 1: of noise that its dial at 2 smooths the picture fully for, and of the detail that is half
smoothed away then."""
WIDE = 7
"""Side of the squares that it is smoothed in, pixels."""
MOVED = (1, 5, 11, 15)
"""How far JPEG's grid is moved for each of the pictures whose mean has no blocks, pixels: never by whole blocks."""


def turned(restored: Tensor, dials: Dials, found: Diagnosis, seed: int) -> Tensor:
    """What dials make of a restored picture (1, 3, 4H, 4W) in [0, 1], whose input was diagnosed; the same at 1.

    Below 1 as much as is missing to 1 of what was found is put back: at 0 the picture is as blurred, of edges that
    noise and JPEG hadn't hidden; it has as much noise, the same for all channels; and JPEG's errors at the quality that
    was found. Above 1 edges become steeper, so that the picture made small stays as it is; what is fine and faint is
    smoothed, as far as noise was strong; and blocks are, as they are in the mean of what JPEG makes of the picture at
    other places of its grid (Nosratinia, J. VLSI Signal Processing 27, 2001). seed: of the noise.
    """
    if dials.neutral:
        return restored
    height, width = (side // SCALE for side in restored.shape[-2:])
    damage = _Damage.of(resize(restored, (height, width)), dials, found, seed)
    made = torch.empty_like(restored)
    for place in windows(height, width, PART, 0):
        outer, inner = around(place, height, width, REACH)
        part = damage.taken_on(restored[outer.scaled(SCALE).slices], outer, dials)
        made[place.scaled(SCALE).slices] = part[inner.scaled(SCALE).slices]
    return made.clamp_(0, 1)


@dataclass(frozen=True)
class _Damage:
    """What was found, as it would be on the restored picture made small. soft: it, blurred. added: noise and JPEG's
    errors as far as dials leave them in, and what takes blocks out, (1, 3, H, W). hidden: how strong both are, of 1.
    smooth: how far what is faint is smoothed, 0 to 1.
    """

    soft: Tensor
    added: Tensor
    hidden: float
    smooth: float

    @classmethod
    def of(cls, small: Tensor, dials: Dials, found: Diagnosis, seed: int) -> _Damage:
        sigma = max(found.blur.value**2 - CLEAN[0] ** 2, 0.0) ** 0.5
        soft = blurred(small, sigma).clamp(0, 1)
        quality = upload(torch.tensor([found.jpeg.value]), small.device)
        was_coded = found.jpeg.value < CLEAN[2]
        coded = jpeg(soft, quality) - soft if was_coded else torch.zeros_like(soft)
        noise = upload(torch.randn(1, 1, *small.shape[-2:], generator=seeded(seed, 1)), small.device)
        level, error = found.noise.value / 255, float(coded.std())
        added = _below(dials.denoise) * level * noise + _below(dials.dejpeg) * coded
        if was_coded and dials.dejpeg > 1:
            added += _above(dials.dejpeg) * _less_blocks(luma(small), quality)
        smooth = _above(dials.denoise) * min(level / STRONG, 1)
        return cls(soft, added, (level**2 + error**2) ** 0.5, smooth)

    def taken_on(self, picture: Tensor, place: Window, dials: Dials) -> Tensor:
        """`turned` of the part of the picture at `place`, LR pixels."""
        made = picture + unbounded(self.added[place.slices])
        if dials.deblur != 1:
            apart = unbounded(self.soft[place.slices]) - picture
            strength = blurred(apart.abs().mean(1, keepdim=True), 2.0)
            if left := _below(dials.deblur):
                made += left * _share(strength, HIDDEN * self.hidden) * apart
            else:
                steeper = _steeper(picture, _share(strength, EDGE * self.hidden))
                made += _above(dials.deblur) * (steeper - picture)
        if self.smooth:
            made += self.smooth * (guided_blur(picture, picture, WIDE, FAINT**2) - picture)
        return made


def _less_blocks(grey: Tensor, quality: Tensor) -> Tensor:
    """What takes blocks out of (1, 1, H, W): JPEG at `quality` with its grid moved has them elsewhere, a mean nowhere.

    It is held to the strength of JPEG's own errors: what is stronger is an edge.
    """
    grey = grey.expand(-1, 3, -1, -1)
    error = (jpeg(grey, quality) - grey)[:, :1].std().clamp_min(1e-6)
    mean = torch.zeros_like(grey)
    for moved in MOVED:
        margin = MCU - moved
        mean += jpeg(functional.pad(grey, (margin, 0, margin, 0), "replicate"), quality)[..., margin:, margin:]
    return error * ((mean / len(MOVED) - grey)[:, :1] / error).tanh()


def _steeper(picture: Tensor, share: Tensor) -> Tensor:
    """Sharpened as far as `share` says, between the darkest and the brightest pixel near by: no edge gets a halo.

    It is made at `FINER` times the size, and its mean taken: an edge that is made steep pixel by pixel has stairs.
    """
    large = unbounded(picture, FINER)
    calm = blurred(large, 0.8 * FINER)
    sharp = between(large, NEAR * FINER)(large + STEEPER * (calm - blurred(calm, 2.0 * FINER)))
    steep = share * functional.avg_pool2d(sharp - large, FINER)
    for _ in range(2):  # what a picture of LR size would see of it is taken out again
        steep = steep - unbounded(functional.avg_pool2d(steep, SCALE))
    return between(picture, NEAR)(picture + steep)


def _share(strength: Tensor, hidden: float) -> Tensor:
    """Of a signal, Wiener's weight s²/(s² + n²)."""
    return strength.square() / (strength.square() + hidden**2).clamp_min(1e-9)


def _below(dial: float) -> float:
    return max(1 - dial, 0.0)


def _above(dial: float) -> float:
    return max(dial - 1, 0.0)

"""What a run tells its model of the degradation: how much the vector sees, the null vector, and turned dials."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from kornia.filters import guided_blur
from torch import Tensor
from torch.nn import functional

from deedsr.degradation import NOISE, Degradation, apply
from deedsr.degradation.kernels import make_kernel
from deedsr.degradation.operations import filter2d
from deedsr.devices import upload
from deedsr.geometry import SCALE, upsample

NEUTRAL = 1.0
MOST = 2.0
"""Of a dial."""

STRONG, FAINT = 0.03, 0.04
"""Standard deviations, of 1: of noise or JPEG's errors that a dial at 2 smooths the picture fully for, and of the
detail that is half smoothed away then."""

OVERDONE = 0.25
"""Share of JPEG's errors that a dial at 2 takes out beyond all: little enough not to be seen, and a network that leaves
some in has to go further then."""


@dataclass(frozen=True)
class Vector:
    """Of the degradation vectors that a model is trained with.

    context: they are those of at least so many patches of the size that stage 1 saw, of one degraded photograph, around
    the part that the network sees; 0: of that part alone. dropout: share of samples that get the null vector. dials:
    share of samples whose vector says more or less of one thing than is there, with the picture to match as ground
    truth. Raises ValueError for a negative context and for what is no share.
    """

    context: int = 0
    dropout: float = 0.0
    dials: float = 0.0

    def __post_init__(self) -> None:
        if self.context < 0:
            raise ValueError(f"vector.context is {self.context}; it must be a number of patches, 0 for the crop alone")
        for name in ("dropout", "dials"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"vector.{name} is {getattr(self, name)}; it must be at least 0 and below 1")

    def side(self, crop: int, tile: int | None) -> int:
        """HR pixels of the square that is degraded for a network that sees `crop`; tile: of the encoder, LR pixels.

        Raises ValueError where the size of the encoder's patches is not known.
        """
        if not self.context:
            return crop
        if tile is None:
            raise ValueError(
                f"vector.context={self.context} counts patches of the size that stage 1 saw, and this encoder doesn't "
                "say which that is: train it with encoder.overrides.tile=64, or take vector.context=0"
            )
        return max(crop, math.ceil(math.sqrt(self.context)) * tile * SCALE)


def places(batch: int, side: int, crop: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Where the part of each degraded picture lies that the network sees: (top, left), HR pixels, multiples of 4."""
    count = (side - crop) // SCALE + 1
    return [tuple(row) for row in (SCALE * torch.randint(count, (batch, 2), generator=generator)).tolist()]


def cut(pictures: Tensor, places: list[tuple[int, int]], crop: int) -> Tensor:
    """(B, C, S, S) → (B, C, crop, crop)."""
    parts = (one[:, top : top + crop, left : left + crop] for one, (top, left) in zip(pictures, places, strict=True))
    return torch.stack(list(parts))


def turns(batch: int, share: float, generator: torch.Generator) -> Tensor:
    """How the dials of blur, noise and JPEG stand in each sample: (B, 3); in a `share` of them one is not at 1."""
    turned, which, value = torch.rand(3, batch, generator=generator)
    chosen = functional.one_hot((which * 3).long(), 3).bool() & (turned < share)[:, None]
    return torch.where(chosen, MOST * value[:, None], NEUTRAL)


def wanted(hr: Tensor, degradation: Degradation, dials: Tensor) -> Tensor:
    """The pictures that dials ask for: (B, 3, S, S) HR in [0, 1], (B, 3) dials on the CPU → (B, 3, S, S).

    What is wrong with the up-sampled LR is taken apart: what the blur and the size took, what noise adds to that, and
    what JPEG does to it where there is no noise. Below 1 a dial leaves its part in, whole at 0; above, it takes out
    more than there was: the edges are sharpened; what is fine and faint is smoothed, as far as the part was strong; and
    of JPEG's errors `OVERDONE` is taken out a second time.
    """
    pictures, rows = hr.clamp(0, 1), (dials != NEUTRAL).any(1).nonzero()[:, 0]
    if len(rows):
        there = upload(rows, hr.device)
        pictures.index_copy_(0, there, _turned(hr.index_select(0, there), degradation[rows], dials[rows]))
    return pictures


def _turned(hr: Tensor, degradation: Degradation, dials: Tensor) -> Tensor:
    """`wanted` where dials are turned."""
    weights = upload(torch.stack([NEUTRAL - dials, dials - NEUTRAL]).clamp_min(0), hr.device)
    less, more = weights.permute(0, 2, 1)[..., None, None, None]  # (3, B, 1, 1, 1) each
    plain = _without(hr, degradation, *NOISE, "quality")
    softer = filter2d(hr, upload(make_kernel(0, 7, 1, 1, 0, 0, 0), hr.device))
    made = hr + less[0] * (plain - hr) + more[0] * (hr - softer)
    for dial, others, overdone in ((1, ("quality",), 0.0), (2, NOISE, OVERDONE)):
        rows = (dials[:, dial] != NEUTRAL).nonzero()[:, 0]
        if len(rows):
            there = upload(rows, hr.device)
            picture = hr.index_select(0, there)
            part = _without(picture, degradation[rows], *others) - plain.index_select(0, there)
            left, taken = less[dial, there], more[dial, there]
            strength = taken * (part.std((1, 2, 3), keepdim=True) / STRONG).clamp_max(1)
            smoothed = guided_blur(picture, picture, 7, FAINT**2) - picture
            made.index_add_(0, there, (left - overdone * taken) * part + strength * smoothed)
    return made.clamp(0, 1)


def _without(hr: Tensor, degradation: Degradation, *names: str) -> Tensor:
    """(B, 3, S, S) degraded but for some operations, and up-sampled."""
    return upsample(apply(hr, degradation.without(*names)))

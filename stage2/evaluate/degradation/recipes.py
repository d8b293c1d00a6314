"""The degradations of the benchmark: named recipes, and operations at one strength."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from deedsr.degradation import KINDS, MODES, Degradation, Mixture, Recipe
from deedsr.degradation.recipe import RECIPES

SIDE = 21  # of the blur's kernel


@dataclass(frozen=True)
class Fixed:
    """Blur, noise and JPEG of one strength, in this order; 0 leaves one out. What is drawn is the noise alone.

    blur: σ of a Gaussian in HR pixels, before the picture is made smaller (bicubic). noise: σ of white Gaussian noise
    in steps of 1/255. jpeg: quality. Raises ValueError for a number below 0 and a quality above 100.
    """

    blur: float = 0.0
    noise: float = 0.0
    jpeg: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (name == "jpeg" and value > 100):
                raise ValueError(f"{name}-{value:g} is no strength: blur and noise are σ from 0 on, jpeg is 1 to 100")

    def sample(self, generator: torch.Generator, batch: int) -> Degradation:
        """`batch` times the same parameters, each with noise of its own."""
        seed = torch.randint(2**63 - 1, (batch,), generator=generator)
        floats = {name: torch.zeros(batch, 3) for name in ("sigma_x", "sigma_y", "rotation", "beta", "omega")}
        floats |= {name: torch.zeros(batch, 2) for name in ("noise_sigma", "poisson_scale", "quality")}
        size = torch.zeros(batch, 3, dtype=torch.int64)
        if self.blur:
            size[:, 0] = SIDE
            floats["sigma_x"][:, 0] = floats["sigma_y"][:, 0] = self.blur
        floats["noise_sigma"][:, 1], floats["quality"][:, 1] = self.noise, self.jpeg
        return Degradation(
            seed=seed,
            level=torch.full_like(seed, -1),
            nearest=torch.zeros(batch, dtype=torch.bool),
            clean=torch.zeros(batch, dtype=torch.bool),
            kernel_kind=torch.full_like(size, KINDS.index("iso")),
            kernel_size=size,
            resize_mode=torch.full_like(size, MODES.index("bicubic")),
            resize_scale=torch.ones(batch, 2),
            grey=torch.zeros(batch, 2, dtype=torch.bool),
            jpeg_last=torch.ones(batch, dtype=torch.bool),
            **floats,
        )


def recipe(name: str) -> Recipe | Mixture | Fixed:
    """`Recipe.named`, or operations at one strength, as ``blur-2``, ``noise-10`` or ``blur-4+noise-12+jpeg-45``.

    Raises ValueError for a name that is neither.
    """
    if name in RECIPES:
        return Recipe.named(name)
    strengths = {}
    for part in name.split("+"):
        operation, _, strength = part.partition("-")
        try:
            strengths[operation] = float(strength)
        except ValueError:
            break
    if not strengths or len(strengths) <= name.count("+") or strengths.keys() - {field.name for field in fields(Fixed)}:
        raise ValueError(
            f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}, or operations with their strengths, as "
            "blur-2, noise-10, jpeg-60 or blur-4+noise-12+jpeg-45"
        )
    return Fixed(**strengths)

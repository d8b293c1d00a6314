"""The drawn parameters as something to learn beside the contrast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deedsr.degradation import Degradation, Mixture, Recipe
from deedsr.devices import upload


def drawn(degradation: Degradation) -> Tensor:
    """(B, 10): of both orders blur σ (geometric mean of the axes), both noises, JPEG quality and ln(resize).

    An operation that was left out gives the value that does nothing: 0, quality 100. The σ of a sinc filter, which has
    none, is not a number.
    """
    sigma = (degradation.sigma_x * degradation.sigma_y).sqrt()[:, :2]
    sigma = sigma.where((sigma > 0) | (degradation.kernel_size[:, :2] == 0), torch.nan)
    quality = degradation.quality.where(degradation.quality > 0, 100)
    resize = degradation.resize_scale.where(degradation.resize_scale > 0, 1).log()
    return torch.cat([sigma, degradation.noise_sigma, degradation.poisson_scale, quality, resize], 1)


class Reading(nn.Module):
    """A linear map from degradation vectors to the drawn parameters, each brought to mean 0 and variance 1.

    dimension: length of the vectors. recipe: what the parameters are drawn from.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, dimension: int, recipe: Recipe | Mixture) -> None:
        super().__init__()
        values = drawn(recipe.sample(torch.Generator().manual_seed(0), 4096)).double()
        mean = values.nanmean(0)
        self.register_buffer("mean", mean.float())
        self.register_buffer("spread", (values - mean).square().nanmean(0).sqrt().clamp_min(1e-6).float())
        self.map = nn.Linear(dimension, values.shape[1])

    def forward(self, vectors: Tensor, degradation: Degradation, paired: Tensor | None = None) -> Tensor:
        """The mean squared error: (B, dimension), B degradations -> a scalar, 1 for a map that knows nothing.

        paired: (B,) bool, rows that don't count, as their degradation is a real one; without others the error is 0.
        Both are on the CPU.
        """
        values = drawn(degradation).float()
        known = values.isfinite() if paired is None else values.isfinite() & ~paired[:, None]
        chosen = upload(known.flatten().nonzero()[:, 0], vectors.device)
        target = (upload(values, vectors.device) - self.mean) / self.spread
        squares = (self.map(vectors.float()) - target).flatten()[chosen].square()
        return squares.mean() if len(squares) else squares.sum()

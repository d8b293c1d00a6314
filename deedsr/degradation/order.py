"""The ranges of one pass of blur, resize, noise and JPEG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Order:
    """Ranges of one pass of blur, resize, noise and JPEG.

    blur: probability of the blur. sigma: range of its standard deviation, pixels. resize: probabilities of up, down and
    keep. scale: the least 'down' and the greatest 'up' factor. gaussian: range of the Gaussian noise's standard
    deviation, in steps of 1/255. poisson: range of the Poisson noise's scale. gaussian_share: probability of Gaussian
    noise; else Poisson. grey: probability of the same noise in the three channels. jpeg: range of the quality. Raises
    ValueError for what is no range and no probability.
    """

    blur: float
    sigma: Sequence[float]
    resize: Sequence[float]
    scale: Sequence[float]
    gaussian: Sequence[float]
    poisson: Sequence[float]
    jpeg: Sequence[float]
    gaussian_share: float = 0.5
    grey: float = 0.4

    def __post_init__(self) -> None:
        freeze(
            self, ranges=("sigma", "scale", "gaussian", "poisson", "jpeg"), chances=("blur", "gaussian_share", "grey")
        )
        check_sum("resize", self.resize, 3)
        if not self.scale[0] <= 1 <= self.scale[1]:
            raise ValueError(f"scale={self.scale} must hold 1: 'down' is drawn from [low,1], 'up' from [1,high]")
        if self.sigma[0] <= 0 or self.scale[0] <= 0 or not 1 <= self.jpeg[0] <= self.jpeg[1] <= 100:
            raise ValueError(f"sigma={self.sigma} and scale={self.scale} must be above 0, jpeg={self.jpeg} in 1…100")


def freeze(instance: object, ranges: Sequence[str], chances: Sequence[str]) -> None:
    """Sequences (of any kind, as a configuration gives them) to tuples; check ranges and probabilities."""
    for name, value in vars(instance).items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            object.__setattr__(instance, name, tuple(value))
    for name in ranges:
        value = getattr(instance, name)
        if len(value) != 2 or not 0 <= value[0] <= value[1]:
            raise ValueError(f"{name}={value} must be a range (low, high) with 0 ≤ low ≤ high")
    for name in chances:
        if not 0 <= getattr(instance, name) <= 1:
            raise ValueError(f"{name}={getattr(instance, name)} must be a probability, 0 to 1")


def check_sum(name: str, values: Sequence[float], count: int) -> None:
    """Raises ValueError where `values` are not `count` probabilities."""
    if len(values) != count or min(values) < 0 or not math.isclose(sum(values), 1, abs_tol=1e-6):
        raise ValueError(f"{name}={values} must be {count} probabilities that sum to 1")

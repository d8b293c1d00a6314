"""Ranges of the second-order degradation (Real-ESRGAN, arXiv 2107.10833) and what is drawn from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from deedsr.degradation.draws import Draws
from deedsr.degradation.jpeg import CHROMA
from deedsr.degradation.kernels import SHARPEN, SINC
from deedsr.degradation.operations import MODES
from deedsr.degradation.order import Order, check_sum, freeze
from deedsr.degradation.pipeline import KERNEL, Degradation
from deedsr.options import one_of

SHARPEN_SIZE = 13
"""Side of unsharp masks."""

LEVELS = ("light", "medium", "heavy")
"""Names of the built-in strengths; a `Degradation` stores positions in this tuple."""


@dataclass(frozen=True)
class Recipe:
    """Everything the degradation is drawn from; constructible from plain numbers.

    first, second: ranges of the two orders; the scale of the second is relative to the LR size. beta_generalized: range
    of the generalised Gaussian's shape: half the draws below 1, half above. beta_plateau: the same for the plateau
    kernels. kernels: probabilities of the six kinds of blur, in the order of `KINDS`. sinc: probability that a blur is
    a sinc filter instead. kernel_size: least and greatest side, odd; all odd sizes between are equally probable.
    final_sinc: probability of the sinc filter at the end. jpeg_last: probability of the order resize, sinc, JPEG at the
    end; else JPEG, resize, sinc. clean: probability of bicubic down-sampling alone. sharpen: probability that the final
    filter is an unsharp mask, as cameras apply it, instead. sharpness: range of its strength. radius: range of its σ,
    LR pixels. skip: each sample leaves out each operation but sharpening with a probability that it draws from 0 to
    this. chroma: ``smooth``, JPEG as files of libjpeg are, and an LR image of 8 bits; ``nearest``, what the authors of
    both papers train with: basicsr's JPEG, which repeats chroma (blocks of 16 pixels that no decoder of today shows),
    and rounds nothing, nor is the LR image rounded (a picture to be restored is). name: stored as `Degradation.level`
    if it is one of `LEVELS`. Raises ValueError for what is no range and no probability.
    """

    first: Order
    second: Order
    beta_generalized: Sequence[float]
    beta_plateau: Sequence[float]
    kernels: Sequence[float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc: float = 0.1
    kernel_size: Sequence[int] = (7, 21)
    final_sinc: float = 0.8
    jpeg_last: float = 0.5
    clean: float = 0.01
    sharpen: float = 0
    sharpness: Sequence[float] = (0, 0)
    radius: Sequence[float] = (1, 1)
    skip: float = 0
    chroma: str = "smooth"
    name: str = "custom"

    def __post_init__(self) -> None:
        ranges = ("beta_generalized", "beta_plateau", "kernel_size", "sharpness", "radius")
        freeze(self, ranges=ranges, chances=("sinc", "final_sinc", "sharpen", "jpeg_last", "clean", "skip"))
        check_sum("kernels", self.kernels, SINC)
        one_of("chroma", self.chroma, CHROMA)
        if any(not size % 2 for size in self.kernel_size):
            raise ValueError(f"kernel_size={self.kernel_size} must be odd")

    @classmethod
    def named(cls, name: str) -> "Recipe | Mixture":
        """One of `LEVELS`, or ``camera``, or a `Mixture`.

        ``mixed``: of all levels; ``varied``: that with a `skip`; ``broad``: that and, a quarter of it, ``camera``;
        ``real``: two thirds ``camera``.
        """
        return RECIPES[one_of("recipe", name, RECIPES)]

    @property
    def eight_bits(self) -> bool:
        """Whether all LR images are multiples of 1/255."""
        return self.chroma == "smooth"

    def sample(self, generator: torch.Generator, batch: int) -> Degradation:
        """Draw the parameters of `batch` degradations; on the CPU.

        Each row depends on its own part of the generator's sequence alone: a batch of eight equals eight batches of
        one from the same generator, to the bit.
        """
        return self.draw(Draws(generator, batch))

    def draw(self, draws: Draws) -> Degradation:
        """`sample` from numbers that are drawn already."""
        draws.rewind()
        clean = draws.chance(self.clean)
        steps = [self._order(draws, order) for order in (self.first, self.second)]
        final = self._kernel(draws, draws.chance(self.final_sinc), sigma=(0, 0), sinc=1, low_omega=math.pi / 3)
        final["resize_mode"] = draws.choice((1 / len(MODES),) * len(MODES))
        values = {name: torch.stack([step[name] for step in (*steps, final) if name in step], 1) for name in steps[0]}
        values["jpeg_last"] = draws.chance(self.jpeg_last)
        self._skip(draws, values)
        self._sharpen(draws, values)
        kept = {name: _mask(_in_float32(value), ~clean) for name, value in values.items()}
        level = torch.full_like(draws.seed, LEVELS.index(self.name) if self.name in LEVELS else -1)
        nearest = torch.full_like(clean, self.chroma == "nearest")
        return Degradation(seed=draws.seed, level=level, nearest=nearest, clean=clean, **kept)

    def _skip(self, draws: Draws, values: dict[str, Tensor]) -> None:
        """Leaves out operations, by numbers that come after all others."""
        skip = self.skip * draws.unit()
        blurred, noisy, compressed, resized = (
            torch.stack([draws.unit() >= skip for _ in range(count)], 1) for count in (3, 2, 2, 2)
        )
        used = dict.fromkeys(KERNEL, blurred) | {"noise_sigma": noisy, "poisson_scale": noisy, "quality": compressed}
        values.update({name: _mask(values[name], kept) for name, kept in used.items()})
        values["resize_scale"] = torch.where(resized, values["resize_scale"], 1)

    def _sharpen(self, draws: Draws, values: dict[str, Tensor]) -> None:
        """Puts an unsharp mask in place of the final filter, by numbers that come after all others."""
        used, strength, radius = draws.chance(self.sharpen), draws.uniform(*self.sharpness), draws.uniform(*self.radius)
        mask = {"kernel_kind": SHARPEN, "kernel_size": SHARPEN_SIZE, "beta": strength, "omega": 0}
        for name, value in (mask | {"sigma_x": radius, "sigma_y": radius}).items():
            values[name][:, 2] = torch.where(used, value, values[name][:, 2])

    def _order(self, draws: Draws, order: Order) -> dict[str, Tensor]:
        """Parameters of one order, (B,) each."""
        values = self._kernel(draws, draws.chance(order.blur), order.sigma, self.sinc)
        direction = draws.choice(order.resize)
        end = torch.tensor([order.scale[1], order.scale[0], 1.0], dtype=torch.float64)[direction]
        values["resize_scale"] = draws.uniform(1.0, end)
        values["resize_mode"] = draws.choice((1 / len(MODES),) * len(MODES))
        gaussian = draws.chance(order.gaussian_share)
        values["noise_sigma"] = _mask(draws.uniform(*order.gaussian), gaussian)
        values["poisson_scale"] = _mask(draws.uniform(*order.poisson), ~gaussian)
        values["grey"] = draws.chance(order.grey)
        values["quality"] = draws.uniform(*order.jpeg)
        return values

    def _kernel(
        self, draws: Draws, used: Tensor, sigma: Sequence[float], sinc: float, low_omega: float | None = None
    ) -> dict[str, Tensor]:
        """Parameters of one kernel, (B,) each; `low_omega` overrides the rule that depends on the size."""
        is_sinc = draws.chance(sinc)
        kind = torch.where(is_sinc, SINC, draws.choice(self.kernels))
        low, high = self.kernel_size
        size = low + 2 * (draws.unit() * ((high - low) // 2 + 1)).long()
        turned = (kind % 2 == 1) & ~is_sinc
        sigma_x, sigma_y = draws.uniform(*sigma), draws.uniform(*sigma)
        shape = draws.unit()
        generalized, plateau = _halves(shape, *self.beta_generalized), _halves(shape, *self.beta_plateau)
        beta = torch.where(kind < 2, 0, torch.where(kind < 4, generalized, plateau))
        least = torch.where(size < 13, math.pi / 3, math.pi / 5) if low_omega is None else low_omega
        values = {
            "kernel_kind": kind,
            "kernel_size": size,
            "sigma_x": _mask(sigma_x, ~is_sinc),
            "sigma_y": _mask(torch.where(turned, sigma_y, sigma_x), ~is_sinc),
            "rotation": _mask(draws.uniform(-math.pi, math.pi), turned),
            "beta": _mask(beta, ~is_sinc),
            "omega": _mask(draws.uniform(least, math.pi), is_sinc),
        }
        return {name: _mask(value, used) for name, value in values.items()}


@dataclass(frozen=True)
class Mixture:
    """Recipes of which each sample draws one.

    recipes: in a configuration also a mapping, whose keys are only for the reader. weights: how often each is drawn in
    relation to the others; all equally often where there are none. Raises ValueError where they don't fit each other.
    """

    recipes: Sequence[Recipe]
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        recipes = self.recipes.values() if isinstance(self.recipes, Mapping) else self.recipes
        object.__setattr__(self, "recipes", tuple(recipes))
        if not self.recipes:
            raise ValueError("a mixture needs at least one recipe")
        weights = tuple(self.weights) or (1,) * len(self.recipes)
        if len(weights) != len(self.recipes) or not min(weights) >= 0 < sum(weights):
            raise ValueError(f"weights={self.weights} of a mixture must be {len(self.recipes)} numbers from 0 on")
        object.__setattr__(self, "weights", tuple(weight / sum(weights) for weight in weights))

    @property
    def eight_bits(self) -> bool:
        """As `Recipe.eight_bits`, of all recipes."""
        return all(recipe.eight_bits for recipe in self.recipes)

    def sample(self, generator: torch.Generator, batch: int) -> Degradation:
        """As `Recipe.sample`; `Degradation.level` tells which level a row comes from, −1 for none of them."""
        draws = Draws(generator, batch)
        chosen = draws.which(self.weights)
        states = [recipe.draw(draws).state() for recipe in self.recipes]
        rows = torch.arange(batch)
        return Degradation(**{name: torch.stack([s[name] for s in states])[chosen, rows] for name in states[0]})


def _halves(unit: Tensor, low: float, high: float) -> Tensor:
    """Half the time uniform in [low,1], half the time in [1,high]."""
    return torch.where(unit < 0.5, low + (1 - low) * 2 * unit, 1 + (high - 1) * (2 * unit - 1))


def _mask(value: Tensor, used: Tensor) -> Tensor:
    """Zero where `used`, (B,) or of the shape of `value`, is false."""
    return value * used.view(*used.shape, *(1,) * (value.ndim - used.ndim)).to(value.dtype)


def _in_float32(value: Tensor) -> Tensor:
    """Real numbers in float32; others as they are."""
    return value.float() if value.is_floating_point() else value


def _midpoint(low: Any, high: Any) -> Any:
    """The middle between two numbers, ranges, orders or recipes."""
    if isinstance(low, (int, float)):
        return low if low == high else round((low + high) / 2, 9)
    if isinstance(low, tuple):
        return tuple(_midpoint(*pair) for pair in zip(low, high, strict=True))
    if isinstance(low, str):
        return low
    return type(low)(
        **{field.name: _midpoint(getattr(low, field.name), getattr(high, field.name)) for field in fields(low)}
    )


UP_DOWN_KEEP, EVEN = (0.2, 0.7, 0.1), (0.3, 0.4, 0.3)  # chances of the two orders' kinds of resizing
LIGHT = Recipe(
    Order(1, (0.2, 1.5), UP_DOWN_KEEP, scale=(0.3, 1.5), gaussian=(1, 15), poisson=(0.05, 2), jpeg=(60, 95)),
    Order(0.5, (0.2, 1), EVEN, scale=(0.6, 1.2), gaussian=(1, 12), poisson=(0.05, 1), jpeg=(60, 100)),
    beta_generalized=(0.5, 2),
    beta_plateau=(1, 1.5),
    name="light",
)
HEAVY = Recipe(
    Order(1, (0.2, 3), UP_DOWN_KEEP, scale=(0.15, 1.5), gaussian=(1, 30), poisson=(0.05, 3), jpeg=(30, 95)),
    Order(0.8, (0.2, 1.5), EVEN, scale=(0.3, 1.2), gaussian=(1, 25), poisson=(0.05, 2.5), jpeg=(30, 95)),
    beta_generalized=(0.5, 4),
    beta_plateau=(1, 2),
    name="heavy",
)
MEDIUM = replace(_midpoint(LIGHT, HEAVY), name="medium")
CAMERA = Recipe(
    Order(1, (1, 4), resize=(0, 0, 1), scale=(1, 1), gaussian=(0, 3), poisson=(0, 0.1), jpeg=(90, 100)),
    Order(0, (0.2, 1), resize=(0, 0, 1), scale=(1, 1), gaussian=(0, 4), poisson=(0, 0.2), jpeg=(80, 100)),
    beta_generalized=(0.5, 2),
    beta_plateau=(1, 1.5),
    final_sinc=0.1,
    sharpen=0.5,
    sharpness=(0, 1.5),
    radius=(0.5, 1.5),
    skip=0.3,
    name="camera",
)
"""The blur of a lens, hardly any noise, often sharpened, JPEG of good quality."""

_VARIED = Mixture(tuple(replace(recipe, skip=0.9) for recipe in (LIGHT, MEDIUM, HEAVY)))
RECIPES = {
    **{recipe.name: recipe for recipe in (LIGHT, MEDIUM, HEAVY, CAMERA)},
    "mixed": Mixture((LIGHT, MEDIUM, HEAVY)),
    "varied": _VARIED,
    "broad": Mixture((*_VARIED.recipes, CAMERA)),
    "real": Mixture((_VARIED.recipes[0], CAMERA, _VARIED.recipes[2]), weights=(1, 4, 1)),
}
"""What `Recipe.named` knows, by name."""

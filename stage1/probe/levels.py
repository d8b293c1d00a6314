"""How well the level can be told at all: the likelihood of drawn parameters under each level's ranges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deedsr.degradation import LEVELS, Degradation, Mixture, Order, Recipe

GAUSSIAN, GENERALIZED, PLATEAU = 0, 1, 2
"""Position in `KINDS`, halved: the kernels' families."""


def bayes_accuracy(recipes: Sequence[Recipe], drawn: Degradation, label: Tensor) -> float:
    """Accuracy of the best guess of which recipe a row was drawn from, all equally probable, from its parameters.

    The ranges of the levels overlap, so it is below 1; whatever reads the picture alone can't do better.

    recipes: they differ in ranges and in the probabilities of blur, noise and `clean`, as the levels do. drawn: of
    length N. label: (N,), positions in `recipes`.
    """
    likelihood = torch.stack([log_likelihood(recipe, drawn) for recipe in recipes], 1)
    return float((likelihood.argmax(1) == label).double().mean())


def log_likelihood(recipe: Recipe, drawn: Degradation) -> Tensor:
    """Logarithm of the density of each row under a recipe, up to what the levels have in common: (N,), float64."""
    total = torch.zeros(len(drawn), dtype=torch.float64)
    for step, order in enumerate((recipe.first, recipe.second)):
        total += _blur(recipe, order, drawn, step) + _resize(order, drawn.resize_scale[:, step])
        sigma, scale = drawn.noise_sigma[:, step], drawn.poisson_scale[:, step]
        total += _case(sigma > 0, order.gaussian_share, _uniform(sigma, *order.gaussian))
        total += _case(scale > 0, 1 - order.gaussian_share, _uniform(scale, *order.poisson))
        quality = drawn.quality[:, step]
        total += _case(quality > 0, 1, _uniform(quality, *order.jpeg))
    return torch.where(drawn.clean, torch.tensor(recipe.clean).log(), total + torch.tensor(1 - recipe.clean).log())


def _blur(recipe: Recipe, order: Order, drawn: Degradation, step: int) -> Tensor:
    used, family = drawn.kernel_size[:, step] > 0, drawn.kernel_kind[:, step] // 2
    sigma_x, sigma_y, beta = drawn.sigma_x[:, step], drawn.sigma_y[:, step], drawn.beta[:, step]
    chance = order.blur * (1 - recipe.skip / 2)  # skipped with a probability between 0 and `skip`
    total = _case(used, chance) + _case(~used, 1 - chance)
    total += _case(sigma_x > 0, 1, _uniform(sigma_x, *order.sigma))
    total += _case(sigma_x != sigma_y, 1, _uniform(sigma_y, *order.sigma))
    for kind, high in ((GENERALIZED, recipe.beta_generalized[1]), (PLATEAU, recipe.beta_plateau[1])):
        total += _case((sigma_x > 0) & (family == kind) & (beta > 1), 0.5, _uniform(beta, 1, high))
    return total


def _resize(order: Order, scale: Tensor) -> Tensor:
    up, down, _ = order.resize
    low, high = order.scale
    enlarged = _case(scale > 1, up, _uniform(scale, 1, high))
    return enlarged + _case((scale > 0) & (scale < 1), down, _uniform(scale, low, 1))


def _case(rows: Tensor, probability: float, density: Tensor | float = 0.0) -> Tensor:
    """log(probability) + density in `rows`, 0 in the others: (N,)."""
    value = torch.tensor(probability, dtype=torch.float64).log() + density
    return torch.where(rows, value, torch.zeros((), dtype=torch.float64))


def _uniform(value: Tensor, low: float, high: float) -> Tensor:
    """Logarithm of the density of U[low, high], but for float32's rounding of `value`: (N,)."""
    slack = 1e-6 * abs(high)
    inside = (value >= low - slack) & (value <= high + slack)
    log_density = -torch.tensor(max(high - low, 1e-6), dtype=torch.float64).log()
    return torch.where(inside, log_density, -torch.inf)


def graded(name: str) -> Recipe | Mixture:
    """The recipe called `name`; ValueError for one whose pictures have no level to be told."""
    recipe = Recipe.named(name)
    recipes = recipe.recipes if isinstance(recipe, Mixture) else (recipe,)
    if any(part.name not in LEVELS for part in recipes):
        raise ValueError(f"recipe={name} has pictures of no level ({', '.join(LEVELS)}): take mixed or varied")
    return recipe

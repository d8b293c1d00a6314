"""The bound of the level's accuracy."""

import math
from dataclasses import replace

import pytest
import torch

from deedsr.degradation import LEVELS, Recipe
from deedsr.randomness import seeded
from stage1.probe.levels import bayes_accuracy, log_likelihood

RECIPES = tuple(Recipe.named(name) for name in LEVELS)


def test_a_narrower_range_is_likelier_by_the_ratio_of_the_widths() -> None:
    light = RECIPES[0]
    narrow, wide = (
        replace(light, second=replace(light.second, gaussian=(1, high), gaussian_share=1)) for high in (2, 4)
    )
    drawn = wide.sample(seeded(0), 200)
    low = (drawn.noise_sigma[:, 1] < 2) & ~drawn.clean
    ratio = log_likelihood(narrow, drawn) - log_likelihood(wide, drawn)
    assert torch.allclose(ratio[low], torch.full_like(ratio[low], math.log(3)))
    assert (ratio[~low & ~drawn.clean] == -torch.inf).all()


@pytest.mark.parametrize("name", ["mixed", "varied"])
def test_every_row_is_possible_and_the_bound_is_what_the_posterior_expects(name: str) -> None:
    mixture = Recipe.named(name)
    drawn = mixture.sample(seeded(1), 4000)
    likelihood = torch.stack([log_likelihood(recipe, drawn) for recipe in mixture.recipes], 1)
    assert likelihood.gather(1, drawn.level[:, None]).isfinite().all()
    posterior = likelihood.softmax(1)
    accuracy = bayes_accuracy(mixture.recipes, drawn, drawn.level)
    assert accuracy == pytest.approx(float(posterior.max(1).values.mean()), abs=0.02)
    for level in range(3):
        assert float(posterior[:, level].mean()) == pytest.approx(1 / 3, abs=0.03)
    assert accuracy < 0.95


def test_the_bound_falls_where_operations_are_left_out() -> None:
    bounds = []
    for name in ("mixed", "varied"):
        drawn = Recipe.named(name).sample(seeded(2), 2000)
        bounds.append(bayes_accuracy(Recipe.named(name).recipes, drawn, drawn.level))
    assert bounds[0] > bounds[1] + 0.05

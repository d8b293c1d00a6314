"""``recipe=…``: a name, a name with other numbers, or all numbers of one's own."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from deedsr.degradation import Mixture, Recipe
from deedsr.degradation.recipe import RECIPES
from deedsr.training.recipe import recipe

CONF = Path(__file__).parents[2] / "conf"
ORDER = (
    "{_target_: deedsr.degradation.Order, blur: 1, sigma: [1, 4], resize: [0, 0, 1], scale: [1, 1], gaussian: [0, 3], "
    "poisson: [0, 0.1], jpeg: [90, 100]}"
)
OWN = (
    f"{{_target_: deedsr.degradation.Recipe, first: {ORDER}, second: {ORDER}, beta_generalized: [0.5, 2], "
    "beta_plateau: [1, 1.5]}"
)


def typed(words: str, primary: str = "stage2") -> Recipe | Mixture:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return recipe(compose(primary, [f"recipe={words}", "data.roots=[photos]"]).recipe)


@pytest.mark.parametrize("name", RECIPES)
def test_a_name_is_enough(name: str) -> None:
    assert typed(name) == Recipe.named(name)


@pytest.mark.parametrize("primary", ["stage1", "stage2", "distill"])
def test_single_numbers_of_a_named_recipe_can_be_others(primary: str) -> None:
    light = Recipe.named("light")
    changed = replace(light, skip=0.5, first=replace(light.first, sigma=(0.2, 3)))
    assert typed("{name: light, skip: 0.5, first: {sigma: [0.2, 3]}}", primary) == changed


def test_in_a_mixture_each_part_is_changed() -> None:
    found, real = typed("{name: real, clean: 0}"), Recipe.named("real")
    assert isinstance(found, Mixture) and isinstance(real, Mixture)
    assert found.recipes == tuple(replace(part, clean=0) for part in real.recipes)
    assert found.weights == pytest.approx(real.weights)


def test_a_recipe_of_ones_own() -> None:
    own, camera = typed(OWN), Recipe.named("camera")
    assert isinstance(own, Recipe) and (own.first, own.name) == (camera.first, "custom")
    mixed = typed(f"{{_target_: deedsr.degradation.Mixture, recipes: [{OWN}, {OWN}], weights: [1, 3]}}")
    assert isinstance(mixed, Mixture) and mixed.weights == (0.25, 0.75)
    assert [asdict(part) for part in mixed.recipes] == [asdict(own)] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("strong", "unknown recipe 'strong'"),
        ("{skip: 0.5}", "needs the name of the one"),
        ("{name: strong, skip: 0.5}", "unknown recipe 'strong'"),
        ("{name: light, skips: 0.5}", "has no 'skips' to change here; there are: first, second, .*skip"),
        ("{name: varied, first: {sigmas: [1, 2]}}", "has no 'sigmas' to change here; there are: blur, sigma"),
        ("{name: light, first: 3}", "recipe.first can't be changed to 3"),
        ("{name: light, skip: {a: 1}}", "recipe.skip can't be changed to"),
        ("{name: light, skip: 2}", "skip=2 must be a probability"),
        ("{name: light, skip: x}", "can't be changed to {'skip': 'x'}"),
        ("{name: light, first: {sigma: 3}}", "can't be changed to {'sigma': 3}"),
        ("null", "unknown recipe 'None'"),
        ("{_target_: deedsr.degradation.Recipe, skip: 2}", "missing"),
        ("{_target_: builtins.dict}", "makes no degradation"),
    ],
)
def test_what_makes_no_recipe_is_named(words: str, message: str) -> None:
    with pytest.raises((ValueError, InstantiationException), match=message):
        typed(words)


def test_the_parts_of_a_mixture_can_be_drawn_otherwise() -> None:
    made = recipe(OmegaConf.create({"name": "broad", "weights": [1, 0, 0, 3], "skip": 0.2}))
    assert made.weights == (0.25, 0, 0, 0.75)
    assert [part.skip for part in made.recipes] == [0.2] * 4
    with pytest.raises(ValueError, match="of a mixture must be 4 numbers from 0 on"):
        recipe(OmegaConf.create({"name": "broad", "weights": [1, 2]}))
    with pytest.raises(ValueError, match="recipe has no 'weights' to change here"):
        recipe(OmegaConf.create({"name": "light", "weights": [1]}))

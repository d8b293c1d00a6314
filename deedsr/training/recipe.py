"""The degradation of a configuration: ``recipe=…``.

recipe=varied                                            one of `Recipe.named`, by its name
'recipe={name: varied, skip: 0.5, first: {blur: 0.9}}'   the same with other numbers, in each part of a mixture
'recipe={name: broad, weights: [1, 1, 1, 2]}'            a mixture with its parts drawn otherwise
'recipe={_target_: deedsr.degradation.Recipe, …}'        all numbers of one's own; a `Mixture` is made in the same way
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from deedsr.degradation import Mixture, Order, Recipe
from deedsr.training.command import plain


def recipe(words: str | DictConfig) -> Recipe | Mixture:
    """What `words` of a configuration mean. Raises ValueError for names and numbers that there are not."""
    if not isinstance(words, DictConfig):
        return Recipe.named(str(words))
    if "_target_" in words:
        made = instantiate(words, _convert_="all")
        if not isinstance(made, Recipe | Mixture):
            raise ValueError(f"recipe._target_={words._target_} makes no degradation")
        return made
    numbers = plain(words)
    if "name" not in numbers:
        raise ValueError("recipe needs the name of the one whose numbers it changes: recipe={name: varied, …}")
    named = Recipe.named(numbers.pop("name"))
    if isinstance(named, Mixture):
        weights = numbers.pop("weights", named.weights)
        return Mixture([changed(part, numbers) for part in named.recipes], weights)
    return changed(named, numbers)


def changed(values: Any, numbers: Mapping[str, Any]) -> Any:
    """A copy of a `Recipe` or an `Order` with other `numbers`, which may be nested as they are."""
    there = {field.name: getattr(values, field.name) for field in fields(values)}
    if strange := sorted(numbers.keys() - there):
        raise ValueError(f"recipe has no {strange[0]!r} to change here; there are: {', '.join(there)}")
    others = {}
    for name, number in numbers.items():
        nested = isinstance(number, Mapping)
        if nested != isinstance(there[name], Order):
            raise ValueError(f"recipe.{name} can't be changed to {number!r}")
        others[name] = changed(there[name], number) if nested else number
    try:
        return replace(values, **others)
    except TypeError as error:
        raise ValueError(f"recipe can't be changed to {dict(numbers)}: {error}") from None

"""Second-order degradation of photographs: `Recipe.sample(generator, batch)` → `Degradation`, `apply(hr, …)` → LR."""

from deedsr.degradation.jpeg import jpeg
from deedsr.degradation.kernels import KINDS
from deedsr.degradation.operations import MODES
from deedsr.degradation.order import Order
from deedsr.degradation.pipeline import NOISE, Degradation, apply
from deedsr.degradation.recipe import LEVELS, Mixture, Recipe

__all__ = ["KINDS", "LEVELS", "MODES", "NOISE", "Degradation", "Mixture", "Order", "Recipe", "apply", "jpeg"]

"""Functions of tensors, applied to what holds tensors: dataclasses, lists and tuples, one inside another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor


def mapped(function: Callable[..., Tensor], *values: Any) -> Any:
    """`function` of the tensors that stand at one place in all of `values`, for every place, in the shape of the first.

    What holds no tensors, None too, is taken from the first: it is the same in all.
    """
    first = values[0]
    if isinstance(first, Tensor):
        return function(*values)
    if isinstance(first, list | tuple):
        return type(first)(mapped(function, *parts) for parts in zip(*values, strict=True))
    if not is_dataclass(first) or isinstance(first, type):
        return first
    names = [field.name for field in fields(first)]
    return replace(first, **{name: mapped(function, *(getattr(value, name) for value in values)) for name in names})

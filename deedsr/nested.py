"""Functions of tensors, applied to what holds tensors: dataclasses, lists and tuples, one inside another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


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


def join(parts: Sequence[T]) -> T:
    """What holds tensors, several times, as one: along dimension 0."""
    return parts[0] if len(parts) == 1 else mapped(lambda *tensors: torch.cat(tensors), *parts)

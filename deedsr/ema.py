"""Exponential moving average of trained parameters; a frozen base is never copied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class Average:
    """Running average of named parameters: θ̄ ← d·θ̄ + (1−d)·θ with d = min(decay, (1+n)/(10+n)) after n updates.

    decay: in [0, 1); raises ValueError for another.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay must be in [0, 1), not {decay}")
        self.decay, self.updates = decay, 0
        self.follow(named)

    def follow(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Take the parameters' present values as the average: at the start, and when they have been sharded."""
        self.parameters = dict(named)
        self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters' present values."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in self.parameters.items():
            self.tensors[name] = self.tensors[name].to(parameter.device)
        for sharded in (True, False):  # one call takes no mixture: what is not trained stays whole
            names = [name for name, one in self.parameters.items() if isinstance(one, DTensor) == sharded]
            if names:
                present = [self.parameters[name].detach() for name in names]
                torch._foreach_lerp_([self.tensors[name] for name in names], present, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the context the parameters hold the average."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._fill(self.tensors)
        try:
            yield
        finally:
            self._fill(kept)

    @torch.no_grad()
    def _fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy `tensors` into the parameters of their names."""
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

    def whole(self) -> dict[str, Tensor]:
        """A copy of the average; where it is sharded, gathered, so that all ranks must call this."""
        return {
            name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()
            for name, tensor in self.tensors.items()
        }

    def state_dict(self) -> dict[str, object]:
        """The average and the number of its updates; where it is sharded, all ranks must call this."""
        return {"updates": self.updates, "tensors": self.whole()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. Raises ValueError for other parameters than those that are averaged."""
        tensors = state["tensors"]
        if tensors.keys() != self.tensors.keys():
            raise ValueError("the checkpoint's averaged parameters are not those that are trained now")
        self.updates = int(state["updates"])
        self.tensors = {name: _like(tensor, self.parameters[name]) for name, tensor in tensors.items()}


def _like(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """A copy of the whole `tensor`, where `parameter` is and sharded as it is."""
    copy = tensor.to(parameter.device, copy=True)
    if isinstance(parameter, DTensor):
        return distribute_tensor(copy, parameter.device_mesh, parameter.placements)
    return copy

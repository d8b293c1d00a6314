"""Exponential moving average of trained parameters; a frozen base is never copied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Running average of named parameters: θ̄ ← d·θ̄ + (1−d)·θ with d = min(decay, (1+n)/(10+n)) after n updates."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay must be in [0, 1), not {decay}")
        self.decay, self.updates = decay, 0
        self.parameters = dict(named)
        self.tensors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters' present values."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in self.parameters.items():
            average = self.tensors[name] = self.tensors[name].to(parameter.device)
            average.lerp_(parameter.detach(), 1 - decay)

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
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

    def state_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "tensors": {name: tensor.clone() for name, tensor in self.tensors.items()}}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        tensors = state["tensors"]
        assert isinstance(tensors, dict)
        if tensors.keys() != self.tensors.keys():
            raise ValueError("the checkpoint's averaged parameters are not those that are trained now")
        self.updates, self.tensors = int(state["updates"]), {name: tensor.clone() for name, tensor in tensors.items()}

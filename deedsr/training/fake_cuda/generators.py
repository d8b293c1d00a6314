"""Generators of random numbers that say they are a GPU's."""

from __future__ import annotations

from typing import Any

import torch


class Generator(torch.Generator):
    """One of the CPU, or of the fake GPU: nothing is drawn there."""

    OF_CUDA: set[int] = set()

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls)
        mark = cls.OF_CUDA.add if torch.device(device).type == "cuda" else cls.OF_CUDA.discard
        mark(made._cdata)  # an address, which may have been another one's
        return made

    def __init__(self, device: Any = "cpu") -> None:
        super().__init__()

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0) if of_cuda(self) else torch.device("cpu")


def of_cuda(generator: torch.Generator) -> bool:
    """Whether it is the fake GPU's; an operation gets the same one under another Python object."""
    return generator._cdata in Generator.OF_CUDA

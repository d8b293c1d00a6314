"""Uniform numbers for a batch, one row per sample, and the few distributions derived from them."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Numbers of B = `batch` samples, handed out column by column; advances `generator` by 2B numbers.

    Each sample has a seed of its own, taken from the generator in order. So a batch of eight equals eight batches of
    one, and the k-th parameter of a sample comes from its k-th number whatever the ranges are: under the same
    generator a `light` and a `heavy` recipe draw the same kinds of operations at other strengths.
    """

    COLUMNS = 64

    def __init__(self, generator: torch.Generator, batch: int) -> None:
        seeds = torch.randint(2**63 - 1, (batch, 2), generator=generator, device=generator.device).cpu()
        self.seed = seeds[:, 1].clone()
        """(B,) int64, independent of the numbers: for noise fields."""
        rows = [self._row(seed) for seed in seeds[:, 0].tolist()]
        self._numbers = torch.stack(rows) if rows else torch.empty(0, self.COLUMNS, dtype=torch.float64)
        self._column = 1

    @classmethod
    def _row(cls, seed: int) -> Tensor:
        """The numbers of one sample: (COLUMNS,) float64."""
        return torch.rand(cls.COLUMNS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def rewind(self) -> None:
        """Hand out the same numbers again."""
        self._column = 1

    def which(self, probabilities: Sequence[float]) -> Tensor:
        """(B,) int64: as `choice`, from a column that `unit` never gives."""
        return _index(self._numbers[:, 0].contiguous(), probabilities)

    def unit(self) -> Tensor:
        """(B,) float64, uniform in [0,1)."""
        assert self._column < self.COLUMNS, "a sample needs more numbers than were drawn"
        self._column += 1
        return self._numbers[:, self._column - 1].contiguous()

    def uniform(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """(B,) float64, uniform in [low,high)."""
        return low + (high - low) * self.unit()

    def chance(self, probability: float) -> Tensor:
        """(B,) bool."""
        return self.unit() < probability

    def choice(self, probabilities: Sequence[float]) -> Tensor:
        """(B,) int64: an index, drawn with these probabilities (which sum to 1)."""
        return _index(self.unit(), probabilities)


def _index(unit: Tensor, probabilities: Sequence[float]) -> Tensor:
    """(B,) int64: where `unit` (B,) falls among the cumulative probabilities."""
    bounds = torch.tensor(probabilities, dtype=torch.float64).cumsum(0)
    return torch.bucketize(unit, bounds[:-1], right=True)

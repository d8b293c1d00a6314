"""Noise guidance: the trade between realism and fidelity at sampling (arXiv 2404.00661)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from deedsr.diffusion.process import Process


@dataclass(frozen=True)
class NoiseGuidance:
    """For the first `steps` steps x̂0 ← (1−w)·x̂0_net + w·z_lr, w = `weight`; ê follows from the blend.

    weight 1 for 1 step is the reference: the network's first answer is not used, and it is not asked for. steps 0 is
    off. Raises ValueError for a weight outside [0, 1] and steps below 0.
    """

    weight: float = 1.0
    steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of noise guidance must be in [0, 1], not {self.weight}")
        if self.steps < 0:
            raise ValueError(f"noise guidance can't last {self.steps} steps")

    def guide(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor],
        process: Process,
        x_t: Tensor,
        t: Tensor,
        z_lr: Tensor,
        index: int,
    ) -> Tensor:
        """The prediction to hand to the scheduler at step number `index` (from 0): the network's, or the blend's."""
        weight = self.weight if index < self.steps else 0.0
        if weight == 0:
            return denoise(x_t, t)
        clean = z_lr
        if weight < 1:
            clean = (1 - weight) * process.clean(denoise(x_t, t), x_t, t) + weight * z_lr
        return process.output(clean, x_t, t)


OFF = NoiseGuidance()

"""Classifier-free guidance (arXiv 2207.12598), by text or by the degradation, in an interval of the noise levels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deedsr.diffusion.process import Process


@dataclass(frozen=True)
class FreeGuidance:
    """u ← u_neg + w·(u_pos − u_neg), w = `scale`, at noise levels low ≤ σ ≤ high; elsewhere, and for w = 1, u_pos.

    u_pos knows the text or the degradation vector; u_neg has the negative text, or the null vector. One call of the
    network answers for both; outside the interval (arXiv 2404.07724), for the positive one alone. Raises ValueError
    for a scale below 1 and for an interval that is none in [0, 1].
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"the scale of guidance must be at least 1, not {self.scale}")
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"guidance lasts from a higher to a lower noise level in [0, 1], not {self}")

    def at(self, process: Process, t: Tensor) -> FreeGuidance:
        """What it is at times t (B,) of a process, without an interval; a GPU is asked for them only if it has one."""
        if self.scale == 1 or (self.low <= 0 and self.high >= 1):
            return self
        acts = self.low <= float(process.levels(t)[1].max()) <= self.high
        return FreeGuidance(self.scale if acts else 1.0)

    def lead(self, outputs: Tensor) -> Tensor:
        """u from what the network says of a batch twice, (2B, C, h, w), u_neg first: (B, C, h, w)."""
        negative, positive = outputs.chunk(2)
        return negative + self.scale * (positive - negative)


NO_GUIDANCE = FreeGuidance()

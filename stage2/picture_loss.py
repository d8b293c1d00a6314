"""How near an estimate comes to the ground truth: terms of stage 2's losses on x̂0 and on its picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from deedsr.metrics.perceptual import dists_loss, lpips_loss


@dataclass(frozen=True)
class Fidelity:
    """Weights of the terms: L1 on the latent; on its decoded picture L1, LPIPS (`network`) and DISTS (`structure`).

    every: a picture is decoded every so many steps; structure_every: DISTS, the slowest term, counts every so many.
    """

    latent: float
    pixel: float
    perceptual: float
    network: Literal["alex", "vgg"] = "alex"
    every: int = 2
    structure: float = 0.0
    structure_every: int = 1


class FidelityLoss(nn.Module):
    """The terms by name, weighted. Raises Unavailable where the weights of a network are missing."""

    def __init__(self, weights: Fidelity) -> None:
        super().__init__()
        self.weights = weights
        self.perceptual = lpips_loss(weights.network) if weights.perceptual > 0 else None
        self.structure = dists_loss() if weights.structure > 0 else None

    def latent(self, clean: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Of latents (B, C, h, w)."""
        return {"latent": self.weights.latent * functional.l1_loss(clean, z)}

    def picture(self, picture: Tensor, hr: Tensor, step: int) -> dict[str, Tensor]:
        """Of pictures (B, 3, H, W) in [0, 1], at the step number `step`."""
        terms = {"pixel": self.weights.pixel * functional.l1_loss(picture, hr)}
        if self.perceptual is not None:
            terms["perceptual"] = self.weights.perceptual * self.perceptual(picture, hr)
        if self.structure is not None and step % self.weights.structure_every == 0:
            terms["structure"] = self.weights.structure * self.structure(picture, hr)
        return terms

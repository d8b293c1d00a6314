"""What stage 2 minimises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from deedsr.diffusion.process import Process
from deedsr.metrics.perceptual import lpips_loss
from deedsr.models.base import RestorationModel


@dataclass(frozen=True)
class Fidelity:
    """Weights of the terms on x̂0: L1 on the latent; L1 and LPIPS (`network`) on its decoded picture on some steps."""

    latent: float
    pixel: float
    perceptual: float
    network: str = "alex"
    every: int = 2


def draw_times(process: Process, batch: int, bias: float, generator: torch.Generator) -> Tensor:
    """Integer times (batch,): ⌊N·u^bias⌋, u uniform in [0, 1); bias 1 is uniform, less favours noisy times."""
    return (process.steps * torch.rand(batch, generator=generator, dtype=torch.float64) ** bias).long()


def snr_weight(process: Process, t: Tensor, limit: float | None) -> Tensor:
    """min-SNR-γ (arXiv 2303.09556), for the squared error of each prediction type: (B,), 1 without a `limit`."""
    if limit is None:
        return torch.ones(len(t), device=t.device)
    index = t.cpu()
    snr = (process.alphas[index] / process.sigmas[index]).square()
    scale = {
        "epsilon": snr,
        "v_prediction": snr + 1,
        "flow_prediction": (1 + process.alphas[index] / process.sigmas[index]) ** 2,
    }
    return (snr.clamp(max=limit) / scale[process.prediction]).float().to(t.device)


class Objective(nn.Module):
    """Mean squared error of the prediction, and what `Fidelity` adds."""

    def __init__(self, min_snr: float | None = None, time_bias: float = 1.0, fidelity: Fidelity | None = None) -> None:
        super().__init__()
        self.min_snr, self.time_bias, self.fidelity = min_snr, time_bias, fidelity
        wanted = fidelity is not None and fidelity.perceptual > 0
        self.perceptual = lpips_loss(fidelity.network) if wanted else None

    def forward(
        self, model: RestorationModel, output: Tensor, z: Tensor, noise: Tensor, t: Tensor, hr: Tensor, decode: bool
    ) -> dict[str, Tensor]:
        """The terms by name, weighted; their sum is the loss. `decode`: whether x̂0's picture is looked at."""
        process = model.process
        error = (output - process.target(z, noise, t)).square().mean((1, 2, 3))
        terms = {"mse": (snr_weight(process, t, self.min_snr) * error).mean()}
        if self.fidelity is None:
            return terms
        clean = process.clean(output, process.noised(z, noise, t), t)
        terms["latent"] = self.fidelity.latent * functional.l1_loss(clean, z)
        if decode:
            picture = model.decode(clean).float()
            terms["pixel"] = self.fidelity.pixel * functional.l1_loss(picture, hr)
            if self.perceptual is not None:
                terms["perceptual"] = self.fidelity.perceptual * self.perceptual(picture, hr)
        return terms

"""What stage 2 minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from deedsr.diffusion.process import Process
from deedsr.geometry import SCALE
from deedsr.metrics.perceptual import dists_loss, lpips_loss, shifted
from deedsr.models.contract import RestorationModel
from deedsr.pictures.picture import luma

WEIGHTS = ("plain", "sigma_squared")
LOGIT_NORMAL = "logit_normal"


def draw_times(process: Process, batch: int, bias: float | str, generator: torch.Generator) -> Tensor:
    """Times (batch,): N·u^bias, u uniform in [0, 1); bias 1 is uniform, less favours noisy times.

    They are rounded down to integers, but of a rectified flow not: float64 there. Its bias may be ``logit_normal`` too:
    σ = s·p/(1 + (s−1)·p), p = sigmoid(n), n standard normal, s the scheduler's shift (arXiv 2403.03206, section 3).
    Raises ValueError for another word, or that word for another process.
    """
    if isinstance(bias, str):
        if bias != LOGIT_NORMAL or not process.flows:
            raise ValueError(
                f"objective.time_bias is {bias!r}: give a number, or, for a rectified flow, {LOGIT_NORMAL}"
            )
        p = torch.randn(batch, generator=generator, dtype=torch.float64).sigmoid()
        shift = process.config.get("shift", 1.0)
        return process.steps * shift * p / (1 + (shift - 1) * p)
    t = process.steps * torch.rand(batch, generator=generator, dtype=torch.float64) ** bias
    return t.clamp(min=1e-3) if process.flows else t.long()


def snr_weight(process: Process, t: Tensor, limit: float | None) -> Tensor:
    """min-SNR-γ (arXiv 2303.09556), for the squared error of each prediction type: (B,), 1 without a `limit`."""
    if limit is None:
        return torch.ones(len(t), device=t.device)
    alpha, sigma = process.levels(t)
    snr = (alpha / sigma).square()
    scale = {"epsilon": snr, "v_prediction": snr + 1, "flow_prediction": (1 + alpha / sigma) ** 2}
    return (snr.clamp(max=limit) / scale[process.prediction]).float().to(t.device)


@dataclass(frozen=True)
class Fidelity:
    """Weights of the terms: L1 on the latent; on its decoded picture L1, LPIPS (`network`) and DISTS (`structure`).

    edges: L1 on the differences of neighbouring pixels, which sees a faint grid and a torn edge better than `pixel`.
    chroma: L1 on what colours have beside their luma, which the networks hardly see: fringes of colour along edges.
    energy: L1 on `local_energies`, which asks for as much sharpness as there is, where all other terms are content with
    a mean of what may be there. grid: how much more the picture has of `unevenness` than the ground truth.
    every: a picture is decoded every so many steps; structure_every: DISTS, the slowest term, counts every so many.
    """

    latent: float
    pixel: float
    perceptual: float
    network: Literal["alex", "vgg"] = "alex"
    every: int = 2
    structure: float = 0.0
    structure_every: int = 1
    edges: float = 0.0
    chroma: float = 0.0
    energy: float = 0.0
    grid: float = 0.0


def windowed(values: Tensor) -> Tensor:
    """Means of (B, C, H, W) in windows of 8² that overlap by half; windows are no larger than what there is."""
    return functional.avg_pool2d(values, min(8, *values.shape[-2:]), 4)


def local_energies(picture: Tensor) -> Tensor:
    """Logarithms of the mean squares, in windows of 8², of what is finer than 3 pixels, and from 3 to 7.

    Of luma, of red without luma and of blue without luma, as coloured noise would do for sharpness in red, green and
    blue. picture: (B, 3, H, W) in [0, 1] → (B, 6, h, w). A level or less in 255 counts as none.
    """
    grey = luma(picture.float())
    picture = torch.cat([grey, picture[:, ::2] - grey], 1)
    fine, coarse = (functional.avg_pool2d(picture, side, 1, side // 2, count_include_pad=False) for side in (3, 7))
    bands = torch.cat([picture - fine, fine - coarse], 1)
    return (windowed(bands.square()) + 2e-5).log()


def unevenness(picture: Tensor) -> Tensor:
    """How much gradients depend on where in a pixel of the LR they are: what a grid and combed edges have, a scene not.

    The variance over the 16 places of their mean lengths, in windows of 32², as shares of the mean of all. picture:
    (B, 3, H, W) in [0, 1], H and W multiples of 4 → (B, h, w).
    """
    grey = functional.pad(picture.float().mean(1, keepdim=True), (0, 1, 0, 1), "replicate")
    down, across = grey[..., 1:, :-1] - grey[..., :-1, :-1], grey[..., :-1, 1:] - grey[..., :-1, :-1]
    places = functional.pixel_unshuffle(down.abs() + across.abs(), SCALE)
    means = windowed(places)
    return (means / (means.mean(1, keepdim=True) + 2e-3)).var(1)


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
        apart = picture - hr
        terms = {"pixel": self.weights.pixel * apart.abs().mean()}
        if self.weights.edges > 0:
            terms["edges"] = self.weights.edges * (apart.diff(dim=-1).abs().mean() + apart.diff(dim=-2).abs().mean())
        if self.weights.chroma > 0:
            terms["chroma"] = self.weights.chroma * (apart - luma(apart)).abs().mean()
        if self.weights.energy > 0:
            terms["energy"] = self.weights.energy * functional.l1_loss(local_energies(picture), local_energies(hr))
        if self.weights.grid > 0:
            more = unevenness(picture) - unevenness(hr)
            terms["grid"] = self.weights.grid * more.relu().mean()
        picture, hr = shifted(picture, step), shifted(hr, step)
        if self.perceptual is not None:
            terms["perceptual"] = self.weights.perceptual * self.perceptual(picture, hr)
        if self.structure is not None and step % self.weights.structure_every == 0:
            terms["structure"] = self.weights.structure * self.structure(picture, hr)
        return terms


class Objective(nn.Module):
    """Mean squared error of the prediction, and what `Fidelity` adds.

    weight: of the squared error, ``plain`` or ``sigma_squared``, σ², that of x̂0 where a rectified flow is predicted.
    rollout: the share of steps whose x_t is made of the model's own first estimate from pure noise instead of the
    ground truth, as it is at sampling; only the terms of `fidelity`, which must be given, count in them.
    """

    def __init__(
        self,
        min_snr: float | None = None,
        time_bias: float | str = 1.0,
        fidelity: Fidelity | None = None,
        rollout: float = 0.0,
        weight: str = "plain",
    ) -> None:
        super().__init__()
        if weight not in WEIGHTS:
            raise ValueError(f"unknown objective.weight {weight!r}; there are: {', '.join(WEIGHTS)}")
        if rollout > 0 and fidelity is None:
            raise ValueError(
                f"objective.rollout={rollout} needs objective.fidelity: there is no other term to learn from"
            )
        self.min_snr, self.time_bias, self.rollout, self.weight = min_snr, time_bias, rollout, weight
        self.fidelity = FidelityLoss(fidelity) if fidelity is not None else None

    def forward(
        self,
        model: RestorationModel,
        output: Tensor,
        x_t: Tensor,
        t: Tensor,
        z: Tensor,
        noise: Tensor | None,
        hr: Tensor | None,
        step: int,
    ) -> dict[str, Tensor]:
        """The terms by name, weighted; their sum is the loss.

        noise: what x_t was made with, None if not with `z`. hr: may be missing where no picture is compared. step: the
        number of the training step; x̂0's picture is compared at some of them.
        """
        process, terms = model.process, {}
        if noise is not None:
            error = (output - process.target(z, noise, t)).square().mean((1, 2, 3))
            weights = snr_weight(process, t, self.min_snr)
            if self.weight == "sigma_squared":
                weights = weights * process.levels(t)[1].square().to(weights)
            terms["mse"] = (weights * error).mean()
        if self.fidelity is None:
            return terms
        clean = process.clean(output, x_t, t)
        terms |= self.fidelity.latent(clean, z)
        if step % self.fidelity.weights.every == 0:
            assert hr is not None
            terms |= self.fidelity.picture(model.decode(clean).float(), hr, step)
        return terms

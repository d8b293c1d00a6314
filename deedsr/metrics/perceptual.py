"""Perceptual metrics through pyiqa (extra ``metrics``), and LPIPS and DISTS as training losses.

pyiqa's licence is non-commercial (see README.md): it is imported only where one of its metrics is asked for.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from deedsr.metrics.catalogue import METRICS, Metric
from deedsr.metrics.loading import Unavailable, load, quiet

Scorer = Callable[[Tensor, "Tensor | None"], float]
"""(image, reference or None), each (1, 3, H, W) RGB in [0, 1] -> the metric's value."""


def load_perceptual(metric: Metric, device: torch.device | str = "cpu", download: bool = False) -> Scorer:
    """pyiqa's network for `metric`, ready to score one picture at a time. Raises Unavailable."""

    def build() -> nn.Module:
        from pyiqa.models.inference_model import InferenceModel

        return InferenceModel(metric.pyiqa_name, device=torch.device(device))

    model = load(metric.label, "pyiqa", metric.files, build, download)

    def score(image: Tensor, reference: Tensor | None) -> float:
        pictures = (image, reference) if metric.needs_reference and reference is not None else (image,)
        with torch.no_grad(), quiet():
            return float(model(*(picture.to(device) for picture in pictures)))

    return score


STRIDE = 4
"""Of the first layer of LPIPS's AlexNet, pixels, and of the latents of autoencoders a multiple."""
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, less whole numbers, come everywhere, whichever are taken


def shifted(pictures: Tensor, count: int) -> Tensor:
    """(B, C, H, W) without up to three rows and columns at the top and left: at each count others, in 16 ways.

    A network with strides sees the grid of a decoder always from the same place, and where it is blind there, a grid
    of its period grows.
    """
    top, left = divmod(int(STRIDE**2 * (count * GOLDEN % 1)), STRIDE)
    return pictures[..., top:, left:]


class PerceptualLoss(nn.Module):
    """A metric's network as a loss: (B, 3, H, W) twice, RGB in [0, 1] -> scalar, the mean over the batch.

    Differentiable in both images; its weights are frozen and it stays in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.train(False)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        return self.network(image, reference).mean()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stays in evaluation mode: the network has dropout."""
        return super().train(False)


WITHOUT = (
    "objective.fidelity=null objective.rollout=0 in stage 2, autoencoder.perceptual=null for a base, and in distilling "
    "objective.fidelity.perceptual=0 objective.fidelity.structure=0"
)


def lpips_loss(network: Literal["alex", "vgg"] = "alex", download: bool = False) -> PerceptualLoss:
    """LPIPS v0.1 on AlexNet or VGG-16 (arXiv 1801.03924).

    Raises Unavailable, with what helps, where pyiqa or weights are missing.
    """
    if network not in ("alex", "vgg"):
        raise ValueError(f"no LPIPS on {network!r}; there are 'alex' and 'vgg'")
    name = "lpips" if network == "alex" else "lpips-vgg"
    return _loss(METRICS[name], "lpips_arch.LPIPS", download, net=network, version="0.1")


def dists_loss(download: bool = False) -> PerceptualLoss:
    """DISTS (arXiv 2004.07728). Raises Unavailable, with what helps, where pyiqa or weights are missing."""
    return _loss(METRICS["dists"], "dists_arch.DISTS", download)


def _loss(metric: Metric, network: str, download: bool, **options: str) -> PerceptualLoss:
    """`metric` as a loss, by its class in pyiqa."""

    def build() -> nn.Module:
        module, _, name = network.partition(".")
        return getattr(importlib.import_module(f"pyiqa.archs.{module}"), name)(**options)

    try:
        return PerceptualLoss(load(metric.label, "pyiqa", metric.files, build, download))
    except Unavailable as error:
        raise Unavailable(f"{error}; or train without it: {WITHOUT}") from error

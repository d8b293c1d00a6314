"""Perceptual metrics through pyiqa (extra ``metrics``), and LPIPS as a training loss.

pyiqa's licence is PolyForm Noncommercial: it is imported only where one of its metrics is asked for.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from deedsr.metrics.catalogue import METRICS, Metric

Scorer = Callable[[Tensor, Tensor | None], float]
"""(image, reference or None), each (1, 3, H, W) RGB in [0, 1] -> the metric's value."""


class Unavailable(ValueError):
    """A metric that can't be computed here; the message says why and what helps."""


def missing_weights(metric: Metric) -> list[str]:
    """The weight files of `metric` that are not on this machine. Touches no network."""
    missing = []
    for file in metric.files:
        if file.startswith("hub:"):
            owner, name, leaf = file.removeprefix("hub:").split("/")
            if not _in_hub_cache(f"{owner}/{name}", leaf):
                missing.append(f"{owner}/{name} (Hugging Face cache)")
        elif not (path := Path(torch.hub.get_dir()) / file).is_file():
            missing.append(str(path))
    return missing


def load_perceptual(metric: Metric, device: torch.device | str = "cpu", download: bool = False) -> Scorer:
    """pyiqa's network for `metric`, ready to score one picture at a time.

    Weights are fetched from the network only with `download`. Raises Unavailable where pyiqa or the weights are missing
    or don't load.
    """
    model = _build(metric, lambda: _inference_model(metric.pyiqa_name, device), download)

    def score(image: Tensor, reference: Tensor | None) -> float:
        with torch.no_grad(), _quiet():
            pictures = (image, reference) if metric.needs_reference else (image,)
            return float(model(*(picture.to(device) for picture in pictures)))

    return score


class LpipsLoss(nn.Module):
    """LPIPS v0.1 as a loss: (B, 3, H, W) twice, RGB in [0, 1] -> scalar, the mean over the batch.

    Differentiable in both images; its own weights are frozen and it stays in evaluation mode. Zhang et al., "The
    unreasonable effectiveness of deep features as a perceptual metric", 2018.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.train(False)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        return self.network(image, reference).mean()

    def train(self, mode: bool = True) -> LpipsLoss:
        """Stays in evaluation mode: the network has dropout."""
        return super().train(False)


def lpips_loss(network: Literal["alex", "vgg"] = "alex", download: bool = False) -> LpipsLoss:
    """LPIPS on AlexNet or VGG-16 as a loss. Raises Unavailable, with what helps, where pyiqa or weights are missing."""
    if network not in ("alex", "vgg"):
        raise ValueError(f"no LPIPS on {network!r}; there are 'alex' and 'vgg'")

    def build() -> nn.Module:
        from pyiqa.archs.lpips_arch import LPIPS

        return LPIPS(net=network, version="0.1")

    return LpipsLoss(_build(METRICS["lpips" if network == "alex" else "lpips-vgg"], build, download))


def _build(metric: Metric, build: Callable[[], nn.Module], download: bool) -> nn.Module:
    """`build()` once the weights are known to be here (or may be fetched); every failure becomes Unavailable."""
    missing = missing_weights(metric)
    if missing and not download:
        raise Unavailable(
            f"{metric.label} needs weights that are not on this machine: {', '.join(missing)}; "
            "set download=true to fetch them, or put them there"
        )
    try:
        with _quiet(), _plain_weights_only(), _network(download and bool(missing)):
            return build()
    except ImportError as error:
        raise Unavailable(
            f"{metric.label} needs the extra 'metrics': pip install 'deedsr[metrics]' ({error})"
        ) from error
    except (
        Exception
    ) as error:  # a third party's constructor, its downloads and its files: whatever it raises is a reason
        reason = " ".join(str(error).split())[:200]
        raise Unavailable(f"{metric.label} could not be loaded: {type(error).__name__}: {reason}") from error


def _inference_model(name: str, device: torch.device | str) -> nn.Module:
    from pyiqa.models.inference_model import InferenceModel

    return InferenceModel(name, device=torch.device(device))


def _in_hub_cache(repository: str, file: str) -> bool:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    return isinstance(try_to_load_from_cache(repository, file), str)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what pyiqa prints and warns of."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _plain_weights_only() -> Iterator[None]:
    """Let torch.load read tensors and plain containers only, whatever its caller asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Keep the Hugging Face hub's client from the network unless `allowed`."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

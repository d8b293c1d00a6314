"""Scores of outputs, and paired differences with their intervals over photographs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deedsr.metrics import fidelity
from deedsr.metrics.perceptual import PerceptualLoss, dists_loss, lpips_loss
from deedsr.metrics.table import interval
from deedsr.options import one_of

Score = Callable[[Tensor, Tensor], Tensor]
"""Outputs and ground truth, (V, 3, H, W) each, in [0, 1] -> (V,)."""

METRICS = {"lpips": "LPIPS", "dists": "DISTS", "psnr": "PSNR-Y"}


def scorers(names: Sequence[str], device: torch.device | str, download: bool = False) -> dict[str, Score]:
    """The metrics called `names`. Raises ValueError for others, and where the weights of one are not here."""
    if not names:
        raise ValueError(f"metrics=[] measures nothing; choose of {', '.join(METRICS)}")
    return {str(name): _scorer(one_of("metric", str(name), METRICS), device, download) for name in names}


def _scorer(name: str, device: torch.device | str, download: bool) -> Score:
    if name == "psnr":
        return fidelity.psnr
    loss: PerceptualLoss = (lpips_loss if name == "lpips" else dists_loss)(download=download)
    network = loss.to(device).network

    def score(image: Tensor, reference: Tensor) -> Tensor:
        return network(image.to(device), reference.to(device)).flatten().cpu()

    return score


class Scores:
    """Numbers by key and metric, each of one piece of a photograph; the photographs are what varies."""

    def __init__(self) -> None:
        self._values: dict[Hashable, dict[str, dict[int, list[float]]]] = {}

    def add(self, key: Hashable, photo: int, metric: str, value: float) -> None:
        self._values.setdefault(key, {}).setdefault(metric, {}).setdefault(photo, []).append(float(value))

    def metrics(self, key: Hashable) -> list[str]:
        """What there is of a key; nothing of one that there is not."""
        return list(self._values.get(key, {}))

    def by_photo(self, key: Hashable, metric: str) -> dict[int, float]:
        """The mean of each photograph's pieces."""
        return {photo: float(np.mean(values)) for photo, values in self._values[key][metric].items()}

    def mean(self, key: Hashable, metric: str) -> dict[str, Any]:
        """The mean over photographs, its 95 % interval, and how many they are."""
        return _with_interval("mean", list(self.by_photo(key, metric).values()))

    def difference(self, key: Hashable, base: Hashable, metric: str) -> dict[str, Any]:
        """The mean over photographs of the paired difference to `base`, and its 95 % bootstrap interval.

        Both have the same pieces of the same photographs.
        """
        ours, theirs = self.by_photo(key, metric), self.by_photo(base, metric)
        assert ours.keys() == theirs.keys(), "not the same photographs"
        return _with_interval("difference", [ours[photo] - theirs[photo] for photo in ours])


def _with_interval(name: str, values: Sequence[float]) -> dict[str, Any]:
    return {name: float(np.mean(values)), "interval": list(interval(values)), "photographs": len(values)}

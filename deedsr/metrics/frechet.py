"""FID: the Fréchet distance between the Inception features of two sets of pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deedsr.metrics.catalogue import METRICS
from deedsr.metrics.loading import load
from deedsr.pictures.picture import Picture

_SIDE = 299

Features = Callable[[Tensor], np.ndarray]
"""(1, 3, H, W) RGB in [0, 1] -> the picture's features, float64 (2048,)."""


def load_features(device: torch.device | str = "cpu", download: bool = False) -> Features:
    """The features that FID compares, of pyiqa's Inception network. Raises Unavailable."""

    def build() -> torch.nn.Module:
        from pyiqa.archs.inception import InceptionV3

        return InceptionV3().to(device).eval()

    model = load("FID", "pyiqa", METRICS["fid"].files, build, download)

    def features(image: Tensor) -> np.ndarray:
        with torch.no_grad():
            return model(inception_input(image).to(device))[0].flatten().double().cpu().numpy()

    return features


def inception_input(image: Tensor) -> Tensor:
    """An image (1, 3, H, W) in [0, 1] as clean-fid feeds it: (1, 3, 299, 299) in [-1, 1).

    Each channel of the 8-bit picture is resized in floating point by Pillow's antialiased bicubic filter. Parmar et
    al., "On aliased resizing and surprising subtleties in GAN evaluation", 2022.
    """
    pixels = np.asarray(Picture(image.cpu()).to_pil(), dtype=np.float32)
    channels = [
        np.asarray(Image.fromarray(pixels[..., i]).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)) for i in range(3)
    ]
    return (torch.from_numpy(np.stack(channels).clip(0, 255)).unsqueeze(0) - 128) / 128


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean difference|² + Tr(A + B - 2 (AB)^½), A and B the covariances of features (n, d) and (m, d), n, m > 1.

    Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017, equation
    6. With centred features X and Y, Tr (AB)^½ is the nuclear norm of X Yᵀ over ((n-1)(m-1))^½: exact where the
    covariances are singular, as they are for fewer pictures than dimensions.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("FID needs at least two pictures")
    x = (a - a.mean(0)) / np.sqrt(len(a) - 1)
    y = (b - b.mean(0)) / np.sqrt(len(b) - 1)
    x, y = (np.linalg.qr(z, mode="r") if len(z) > z.shape[1] else z for z in (x, y))
    shared = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.square(x).sum() + np.square(y).sum() - 2 * shared)

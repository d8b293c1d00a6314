"""Generated pictures, folders of pairs, and what may be missing on a machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth pattern with some noise, uint8 (H, W, 3)."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / (4 + c + seed)) + np.cos(columns / (6 - c + seed)) for c in range(3)], -1)
    noise = np.random.default_rng(seed).normal(0, 12, waves.shape)
    return (127 + 50 * waves + noise).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def draw() -> Callable[[int, int, int], Tensor]:
    """(height, width, seed) -> a picture (1, 3, H, W) in [0, 1]."""
    return lambda height, width, seed: torch.from_numpy(picture(height, width, seed)).permute(2, 0, 1)[None] / 255


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Folders `hr`, `a`, `b` of three pictures of 64×48 pixels, and `lr` of 16×12; `b` is nearer to `hr`."""
    for i in range(3):
        hr = picture(48, 64, i)
        noise = np.random.default_rng(100 + i).normal(0, 1, hr.shape)
        made = {"hr": hr, "a": hr + (20 + 10 * i) * noise, "b": hr + 5 * noise, "lr": hr[::4, ::4]}
        for name, pixels in made.items():
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / name / f"picture{i}.png")
    return tmp_path

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"


@pytest.fixture
def seeded() -> Callable[[int], torch.Generator]:
    return lambda seed: torch.Generator().manual_seed(seed)


@pytest.fixture
def textured() -> Callable[..., Tensor]:
    """Images (B,3,H,W) in [0,1] with edges, waves and colours, made without chance."""

    def make(batch: int = 1, height: int = 128, width: int = 128) -> Tensor:
        y, x = torch.meshgrid(torch.arange(height) / 128, torch.arange(width) / 128, indexing="ij")
        images = []
        for index in range(batch):
            wave = torch.sin((9 + 5 * index) * x * (1 + y)) / 4
            disc = ((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.04 * (1 + index % 3)).float() / 3
            images.append(torch.stack([0.4 + wave, 0.3 + disc + wave / 2, 0.6 - disc * y]))
        return torch.stack(images).clamp(0, 1)

    return make


@pytest.fixture(scope="session")
def photographs() -> Tensor:
    """Eight real photographs, (8,3,512,512) uint8."""
    files = sorted(PHOTOS.glob("*.jpg"))[::38][:8]
    if len(files) < 8:
        pytest.skip(f"needs photographs in {PHOTOS}")
    crops = []
    for file in files:
        image = Image.open(file).convert("RGB")
        left, top = image.width // 2 - 256, image.height // 2 - 256
        crops.append(torch.from_numpy(np.array(image.crop((left, top, left + 512, top + 512)))).permute(2, 0, 1))
    return torch.stack(crops)

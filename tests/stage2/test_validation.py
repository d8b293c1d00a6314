"""Validation while stage 2 trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stage2.train import train


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    small = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    for role, size in (("lr", (24, 16)), ("hr", (96, 64))):
        (tmp_path / "pairs" / role).mkdir(parents=True)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "pairs" / role / "one.png")
    return tmp_path / "pairs"


def test_it_logs_scores_table_and_pictures_and_changes_nothing(
    pairs: Path, composed: Callable, stage2_options: Callable, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    validation = f"validation={{data: {pairs}, every: 2, images: 1, metrics: [psnr, ssim]}}"
    watched = train(composed("stage2", stage2_options(tmp_path / "watched", "steps=4", validation)))
    alone = train(composed("stage2", stage2_options(tmp_path / "alone", "steps=4")))
    assert (watched / "adapter.safetensors").read_bytes() == (alone / "adapter.safetensors").read_bytes()
    events = EventAccumulator(str(tmp_path / "watched"))
    events.Reload()
    for name in ("val/psnr", "val/ssim"):
        assert [scalar.step for scalar in events.Scalars(name)] == [2, 4]
    assert [(image.width, image.height) for image in events.Images("val/pictures")] == [(288, 64)] * 2
    assert "val/table/text_summary" in events.Tags()["tensors"]

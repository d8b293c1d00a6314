"""The benchmark measures what it says; numbers themselves are no matter of tests."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from deedsr.data.photos import PhotoCrops, list_photos
from deedsr.degradation import Recipe, apply
from deedsr.degradation.operations import resize_to
from deedsr.randomness import seeded
from stage1.benchmark.speeds import measure

if importlib.util.find_spec("basicsr") is None:
    pytest.skip("basicsr isn't installed: it can't be on Python 3.13", allow_module_level=True)

from stage1.benchmark.per_image import PerImage, degrade

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture
def shrunk(photos: Path) -> Callable[..., DictConfig]:
    def make(*overrides: str) -> DictConfig:
        shrink = [f"data.roots=[{photos}]", "+encoder.overrides={widths:[8,8,8,8],stem:8}"]
        shrink += ["trainer=cpu", "crop=64", "batch=2", "contrast.queue=16", "data.workers=0"]
        shrink += ["benchmark.warmup=1", "benchmark.steps=2", "benchmark.rounds=1"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("stage1_benchmark", [*shrink, *overrides])

    return make


@pytest.mark.parametrize("workers", [0, 2])
def test_measures_everything_in_one_run(shrunk: Callable[..., DictConfig], workers: int) -> None:
    speeds = measure(shrunk(f"data.workers={workers}"))
    found = json.loads(json.dumps(asdict(speeds)))
    assert (found["device"], found["crop"], found["batch"], found["workers"]) == ("cpu", 64, 2, workers)
    assert all(found[name] > 0 for name in ("degradation", "per_image", "loader", "step"))
    assert found["ratio"] == pytest.approx(found["degradation"] / found["per_image"])
    assert 0 < found["waiting"] < 1
    assert all(
        f"{found[name]:.2f}" in speeds.table() for name in ("degradation", "per_image", "ratio", "loader", "step")
    )


def test_several_devices_are_refused(shrunk: Callable[..., DictConfig]) -> None:
    with pytest.raises(ValueError, match=r"of one device: trainer\.devices=1"):
        measure(shrunk("trainer.devices=2"))


@pytest.mark.parametrize("level", ["light", "heavy", "mixed", "camera"])
def test_both_ways_degrade_alike(photos: Path, level: str) -> None:
    """The comparison is fair: the error to plain down-sampling is nearly the same on average."""
    stream = PhotoCrops(list_photos(photos), 64, 0, 60)
    crops, recipe = torch.stack([stream.crop(0, sample) for sample in range(60)]), Recipe.named(level)
    random.seed(0)
    np.random.seed(0)
    theirs = next(iter(DataLoader(PerImage(crops, recipe), 60)))
    hr = crops.float() / 255
    ours, plain = apply(hr, recipe.sample(seeded(0), 60)), resize_to(hr, (16, 16), "bicubic")
    assert theirs.shape == ours.shape
    assert torch.allclose((theirs * 255).round(), theirs * 255, atol=1e-3)
    assert theirs.min() >= 0
    assert theirs.max() <= 1
    errors = [(lr - plain).square().mean().sqrt().item() for lr in (ours, theirs)]
    assert errors[1] == pytest.approx(errors[0], rel=0.2)
    assert torch.allclose(theirs.mean((0, 2, 3)), ours.mean((0, 2, 3)), atol=0.03), "channels are exchanged"


def test_a_clean_draw_is_bicubic_alone() -> None:
    image = np.random.default_rng(0).random((64, 48, 3), dtype=np.float32)
    recipe = Recipe(**{**vars(Recipe.named("heavy")), "clean": 1.0})
    ours = resize_to(torch.from_numpy(image).permute(2, 0, 1)[None], (16, 12), "bicubic").clamp(0, 1)
    assert np.abs(degrade(image, recipe) - ours[0].permute(1, 2, 0).numpy()).max() < 1.1 / 255

"""The table over options, on a tiny model and two generated pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from stage2.sweep import sweep

CONF = Path(__file__).parents[2] / "conf" / "evaluate"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for stem in ("one", "two"):
        small = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        for role, side in (("hr", 64), ("lr", 16)):
            (tmp_path / role).mkdir(exist_ok=True)
            Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(tmp_path / role / f"{stem}.png")
    return tmp_path


def test_rows_are_the_options_and_the_bounds(pairs: Path, tiny_model_folder: Path) -> None:
    output = pairs / "sweep.md"
    overrides = [
        f"data={pairs}",
        f"model={tiny_model_folder}",
        f"output={output}",
        "metrics=[psnr,ssim]",
        "progress=false",
        "~rows",
        "+rows={bound: autoencoder, one: {steps: 1}, guided: {steps: 2, noise_guidance: [1, 2]}}",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        reports = sweep(compose("sweep", overrides))
    assert list(reports) == ["bound", "one", "guided"]
    means = json.loads(output.with_suffix(".json").read_text())
    assert list(means) == ["bicubic", "ground_truth", "bound", "one", "guided"]
    assert means["ground_truth"]["ssim"] == pytest.approx(1.0)
    assert all(8 < means[name]["psnr"] < 60 for name in ("bicubic", "bound", "one", "guided"))
    assert means["one"] != means["guided"]
    table = output.read_text()
    assert table.count("\n|") == 6
    assert "`osediff`, n = 2" in table

"""The table over options, on a tiny model and two generated pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from stage2.evaluate.learning import learning_curve
from stage2.evaluate.rows import sweep
from stage2.evaluate.step_counts import fewest, steps_against_quality

CONF = Path(__file__).parents[3] / "conf" / "evaluate"


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


def composed(primary: str, pairs: Path, model: Path, *more: str) -> DictConfig:
    output = pairs / f"{primary}.md"
    overrides = [f"data={pairs}", f"model={model}", f"output={output}", "metrics=[psnr,ssim]", "progress=false"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(primary, [*overrides, *more])


def test_a_start_from_the_input_and_fewer_images(pairs: Path, tiny_model_folder: Path) -> None:
    rows = "+rows={noise: {steps: 2}, input: {steps: 2, start: 0.2}}"
    reports = sweep(composed("sweep", pairs, tiny_model_folder, "~rows", rows, "images=1"))
    assert reports["noise"].stems == ["one"]
    scores = [report.rows["restored"].images["one"]["psnr"] for report in reports.values()]
    assert scores[1] > scores[0], "a network of random weights can spoil less from there"


def test_the_learning_curve(pairs: Path, tiny_model_folder: Path) -> None:
    options = [f"data={pairs}", f"output={pairs}/curve.md", "metrics=[psnr,ssim]", "progress=false"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        with pytest.raises(ValueError, match="there are no points"):
            learning_curve(compose("curve", options))
        with pytest.raises(ValueError, match=r"points={a: .*}: a point is NAME: {model"):
            learning_curve(compose("curve", [*options, "points={a: {model: b}}"]))
        with pytest.raises(ValueError, match="the hours of the point 'a' are 'fast'"):
            learning_curve(compose("curve", [*options, "points={a: {model: b, hours: fast}}"]))
        points = f"points={{late: {{model: {tiny_model_folder}, hours: 2}}, early: {{model: built-in, hours: 0.5}}}}"
        text = learning_curve(compose("curve", [*options, points]))
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:6]] == [
        *("bicubic", "ground truth", "late (2 h)", "early (0.5 h)")
    ]
    scores = json.loads((pairs / "curve.json").read_text())
    assert scores["late"] != scores["early"]
    with Image.open(pairs / "curve.png") as drawn:
        assert drawn.width > 2 * 500


def test_steps_against_quality(pairs: Path, tiny_model_folder: Path) -> None:
    cfg = composed("steps", pairs, tiny_model_folder, "steps=[1,3]", "samplers=[ddim,unipc]", "images=1")
    text = steps_against_quality(cfg)
    output = pairs / "steps.md"
    assert output.read_text() == text
    assert "Fewest" not in text, "LPIPS was not asked for"
    means = json.loads(output.with_suffix(".json").read_text())
    assert list(means) == ["bicubic", "ground_truth", "ddim 1", "ddim 3", "unipc 1", "unipc 3"]
    assert means["ddim 1"] != means["ddim 3"] != means["unipc 3"]
    with Image.open(output.with_suffix(".png")) as drawn:
        assert drawn.width > 2 * 500
        assert len(set(drawn.convert("RGB").get_flattened_data())) > 50


def test_the_fewest_steps_within_one_percent_of_the_best() -> None:
    curves = {
        "ddim": {1: {"lpips": 0.31, "psnr": 26.0}, 4: {"lpips": 0.302, "psnr": 25.9}, 8: {"lpips": 0.3, "psnr": 25.0}},
        "unipc": {1: {"lpips": 0.4}, 4: {"lpips": 0.3015}, 8: {"lpips": None}},
    }
    assert fewest(curves, "lpips", "lower") == ("unipc", 4)
    assert fewest(curves, "psnr", "higher") == ("ddim", 1)
    assert fewest(curves, "dists", "lower") is None

"""python -m stage2.evaluate, by its real configuration."""

from __future__ import annotations

import csv
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from deedsr.data.pairs import read_rgb
from deedsr.metrics.fidelity import psnr
from stage2.evaluate.scores import evaluate
from tests.processes import finished, forked, type_in

ROOT = Path(__file__).parents[3]


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf" / "evaluate"), version_base="1.3"):
        return compose("evaluate", [*overrides, "device=cpu", "progress=false"])


@pytest.fixture
def data(tmp_path) -> Path:
    """`hr`, `lr` and `out` of three pictures, 64×48 and 16×12."""
    generator = np.random.default_rng(0)
    for i in range(3):
        lr = generator.integers(60, 200, (12, 16, 3)).astype(np.uint8)
        hr = np.asarray(Image.fromarray(lr).resize((64, 48), Image.Resampling.LANCZOS))
        out = (hr + generator.normal(0, 4 + i, hr.shape)).clip(0, 255).astype(np.uint8)
        for name, pixels in (("lr", lr), ("hr", hr), ("out", out)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"p{i}.png")
    return tmp_path


def test_pictures_already_made(data):
    cfg = config(f"restored={data}/out", f"hr={data}/hr", f"output={data}/new/r.json", "metrics=[psnr,ssim]")
    report = evaluate(cfg)
    document = json.loads((data / "new" / "r.json").read_text())
    assert document["protocol"] == "osediff"
    assert document["n"] == 3
    expected = float(psnr(read_rgb(data / "out" / "p1.png"), read_rgb(data / "hr" / "p1.png")))
    assert document["images"]["p1"]["psnr"] == pytest.approx(expected)
    assert [*document["rows"]] == ["ground_truth"]
    with open(data / "new" / "r.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 6
    assert "| restored |" in (data / "new" / "r.md").read_text()
    assert Image.open(data / "new" / "r.png").width == 3 * 396 + 12
    assert report.stems == ["p0", "p1", "p2"]
    assert sorted(path.name for path in (data / "new").iterdir()) == ["r.csv", "r.json", "r.md", "r.png"]


def test_others_outputs_are_rows_and_panels_of_the_same_run(data):
    for name, source in (("blunt", "out"), ("exact", "hr")):
        (data / name).mkdir()
        for path in (data / source).iterdir():
            Image.open(path).save(data / name / path.name)
    given = [f"restored={data}/out", f"data={data}", f"output={data}/r.json", "metrics=[psnr,ssim]"]
    report = evaluate(config(*given, f"others={{Blunt-GAN: {data}/blunt, exact: {data}/exact}}"))
    assert report.rows["Blunt-GAN"].images == report.rows["restored"].images
    assert all(scores["ssim"] == pytest.approx(1) for scores in report.rows["exact"].images.values())
    lines = [line.split("|")[1].strip() for line in (data / "r.md").read_text().splitlines() if line.startswith("| ")]
    assert lines == ["", "bicubic (Pillow)", "Blunt-GAN", "exact", "restored", "ground truth"]
    assert Image.open(data / "r.png").width == 6 * 396 + 12
    with pytest.raises(ValueError, match="others can't be called 'lr'"):
        evaluate(config(*given, f"others={{lr: {data}/blunt}}"))
    (data / "blunt" / "p1.png").unlink()
    with pytest.raises(ValueError, match="Blunt-GAN has no picture for p1"):
        evaluate(config(*given, f"others={{Blunt-GAN: {data}/blunt}}"))
    Image.new("RGB", (8, 8)).save(data / "blunt" / "p1.png")
    with pytest.raises(ValueError, match="p1: restored is 64×48 and Blunt-GAN is 8×8"):
        evaluate(config(*given, f"others={{Blunt-GAN: {data}/blunt}}"))


def test_data_folder_and_rows(data):
    with_rows = evaluate(config(f"restored={data}/out", f"data={data}", f"output={data}/r.json", "metrics=[psnr]"))
    assert [*with_rows.rows] == ["restored", "bicubic", "ground_truth"]
    without = evaluate(
        config(f"restored={data}/out", f"data={data}", f"output={data}/r.json", "metrics=[psnr]", "rows=false")
    )
    assert [*without.rows] == ["restored"]


def test_suffix(data):
    for path in (data / "out").iterdir():
        path.rename(path.with_stem(f"{path.stem}_x4"))
    cfg = config(f"restored={data}/out", f"hr={data}/hr", "suffix=_x4", f"output={data}/r.json", "metrics=[psnr]")
    assert evaluate(cfg).stems == ["p0", "p1", "p2"]


def test_all_of_the_protocol_by_default(data, tmp_path, monkeypatch):
    """Columns that can't be had are there, with reasons; nothing waits for a network."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    report = evaluate(config(f"restored={data}/out", f"hr={data}/hr", f"output={data}/r.json"))
    document = json.loads((data / "r.json").read_text())
    columns = ["psnr", "ssim", "lpips", "dists", "niqe", "musiq", "maniqa", "clipiqa", "fid", "clip"]
    assert [*document["mean"]] == columns
    assert [*document["unavailable"]] == columns[2:]
    assert report.deciding == "ssim"


def test_restores_first(data, tiny_model_folder):
    cfg = config(
        f"model={tiny_model_folder}", f"data={data}", f"output={data}/r.json", "metrics=[psnr]", "options.steps=1"
    )
    report = evaluate(cfg)
    assert [*report.rows] == ["restored", "bicubic", "ground_truth"]
    made = sorted((data / "r_restored").iterdir())
    assert [path.name for path in made] == ["p0.png", "p1.png", "p2.png"]
    assert Image.open(made[0]).size == (64, 48)
    expected = float(psnr(read_rgb(made[0]), read_rgb(data / "hr" / "p0.png")))
    assert report.rows["restored"].images["p0"]["psnr"] == pytest.approx(expected)


def spoil_nothing(data):
    pass


def remove(data):
    (data / "out" / "p1.png").unlink()


def add(data):
    Image.new("RGB", (64, 48)).save(data / "out" / "p9.png")


def empty(data):
    for path in (data / "out").iterdir():
        path.unlink()


def shrink(data):
    Image.new("RGB", (60, 48)).save(data / "out" / "p2.png")


def shrink_input(data):
    Image.new("RGB", (15, 12)).save(data / "lr" / "p2.png")


def grey(data):
    Image.new("L", (64, 48)).save(data / "out" / "p0.png")


def transparent(data):
    Image.new("RGBA", (64, 48)).save(data / "hr" / "p0.png")


def truncate(data):
    path = data / "out" / "p0.png"
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("spoil", "overrides", "message"),
    [
        (remove, [], "restored has no picture for p1"),
        (add, [], "hr has no picture for p9"),
        (empty, [], "out: holds no pictures"),
        (shrink, [], "p2: restored is 60×48 and hr is 64×48"),
        (shrink_input, ["lr={data}/lr"], "p2: lr is 15×12, which doesn't scale to 64×48"),
        (grey, [], "p0.png: is a grey picture"),
        (transparent, [], "p0.png: has an alpha channel"),
        (truncate, [], "p0.png"),
        (spoil_nothing, ["hr={data}/nowhere"], "nowhere: no such folder"),
        (spoil_nothing, ["hr=null"], "the ground truth is missing"),
        (spoil_nothing, ["restored=null"], "give either restored=DIR and hr=DIR, or model=NAME and data=DIR"),
        (spoil_nothing, ["model=built-in"], "give either"),
        (spoil_nothing, ["restored=null", "model=built-in"], "give data=DIR with lr/ and hr/ in it"),
        (spoil_nothing, ["metrics=[psnr,vmaf]"], "unknown metric 'vmaf'"),
        (spoil_nothing, ["protocol=seesr"], "unknown protocol 'seesr'"),
        (spoil_nothing, ["device=abacus"], "device 'abacus' is not available here"),
        (spoil_nothing, ["output=???"], "say where the results go: output=FILE.json"),
        (spoil_nothing, ["output={data}/r.txt"], "must be a file name that ends in .json"),
    ],
)
def test_bad_input(data, spoil, overrides, message):
    spoil(data)
    given = [f"restored={data}/out", f"hr={data}/hr", f"output={data}/r.json", "metrics=[psnr]"]
    with pytest.raises(ValueError) as caught:
        with initialize_config_dir(str(ROOT / "conf" / "evaluate"), version_base="1.3"):
            cfg = compose("evaluate", [*given, "progress=false", *(text.format(data=data) for text in overrides)])
        evaluate(cfg)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (data / "r.json").exists()


def test_command_line(data):
    """The table on standard output, the bar on standard error, no other file anywhere."""
    before = sorted(path.name for path in ROOT.iterdir())
    words = [f"restored={data}/out", f"data={data}", "metrics=[psnr]", f"output={data}/r.json"]
    done = finished([sys.executable, "-m", "stage2.evaluate", *words])
    assert done.returncode == 0, done.stderr
    assert done.stdout == (data / "r.md").read_text()
    assert "3/3" in done.stderr
    assert sorted(path.name for path in ROOT.iterdir()) == before


def test_command_line_errors_are_one_line(data, capfd):
    words = [f"restored={data}/nowhere", f"hr={data}/hr", f"output={data}/r.json", "metrics=[psnr]"]
    assert forked(partial(type_in, "stage2.evaluate", words)) == [1]
    assert capfd.readouterr() == ("", f"error: {data}/nowhere: no such folder\n")

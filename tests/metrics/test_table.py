"""Reports as JSON, CSV and Markdown; bootstrap intervals."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from deedsr.files import write_text
from deedsr.metrics.evaluation import Evaluator
from deedsr.metrics.outputs import Sample
from deedsr.metrics.table import interval, to_csv, to_json, to_markdown


@pytest.fixture
def report(draw, tmp_path, monkeypatch):
    """Three pictures; MUSIQ is unavailable."""
    pytest.importorskip("pyiqa")
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    samples = [Sample(f"s{i}", draw(48, 64, i), draw(48, 64, i + 1), draw(12, 16, i)) for i in range(3)]
    return Evaluator("osediff", ["psnr", "ssim", "musiq"]).run(samples)


def test_json(report):
    document = json.loads(to_json(report))
    assert document["protocol"] == "osediff"
    assert document["n"] == 3
    assert document["versions"]["deedsr"]
    assert [*document["mean"]] == ["psnr", "ssim", "musiq"]
    assert [*document["images"]] == ["s0", "s1", "s2"]
    scores = [document["images"][stem]["psnr"] for stem in ("s0", "s1", "s2")]
    assert document["mean"]["psnr"] == pytest.approx(sum(scores) / 3)
    low, high = document["interval"]["psnr"]
    assert min(scores) <= low <= document["mean"]["psnr"] <= high <= max(scores)
    assert document["mean"]["musiq"] is None
    assert document["images"]["s0"]["musiq"] is None
    assert document["unavailable"]["musiq"].startswith("MUSIQ needs weights")
    assert document["metrics"]["psnr"] == {"name": "psnr-y", "label": "PSNR-Y", "better": "higher", "package": "deedsr"}
    assert document["rows"]["ground_truth"]["mean"] == {"psnr": None, "ssim": 1.0, "musiq": None}
    assert document["rows"]["bicubic"]["mean"]["psnr"] > 0


def test_csv(report):
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert len(rows) == 9
    assert rows[0]["stem"] == "s0"
    assert rows[0]["row"] == "restored"
    assert float(rows[0]["psnr"]) == pytest.approx(report.rows["restored"].images["s0"]["psnr"], abs=1e-6)
    assert {row["musiq"] for row in rows} == {"unavailable"}
    assert rows[-1] == {"stem": "s2", "row": "ground_truth", "psnr": "", "ssim": "1.000000", "musiq": "unavailable"}


def test_markdown(report):
    lines = to_markdown(report).splitlines()
    assert lines[0] == "| | PSNR-Y ↑ | SSIM-Y ↑ | MUSIQ ↑ |"
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| bicubic (Pillow)", "| restored", "| ground truth"]
    assert lines[4] == "| ground truth | – | 1.0000 | unavailable |"
    assert all(line.count("|") == lines[0].count("|") for line in lines[1:5])
    assert "Protocol `osediff`, n = 3;" in lines[6]
    assert any(line.startswith("- Unavailable: MUSIQ needs weights") for line in lines)


def test_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for i in range(100):
        low, high = interval(generator.normal(size=40), seed=i)
        hits += low <= 0 <= high
    assert 88 <= hits <= 99


def test_interval_is_that_of_theory():
    values = np.random.default_rng(1).normal(10, 2, 400)
    low, high = interval(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert interval(values) == (low, high)
    assert interval([3.0]) == (3.0, 3.0)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_write_leaves_no_half_file(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_text(path, "1\n")
    write_text(path, "2\n")
    assert path.read_text() == "2\n"
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]

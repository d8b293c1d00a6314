"""Two folders of outputs, from Python and from the command line."""

from __future__ import annotations

import json
import logging
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from deedsr.cli.main import main
from deedsr.metrics.compare import compare


def test_paired_differences(folders):
    found = compare(folders / "a", folders / "b", folders / "hr", metrics=["psnr", "ssim"])
    psnr = found.differences["psnr"]
    assert psnr.difference == pytest.approx(psnr.mean_b - psnr.mean_a)
    assert 0 < psnr.interval[0] <= psnr.difference <= psnr.interval[1]
    assert (psnr.wins_a, psnr.wins_b, psnr.ties) == (0, 3, 0)
    assert found.stems == ["picture0", "picture1", "picture2"]
    assert found.sheet.size == (4 * 396 + 12, 3 * 460 + 12)


def test_a_folder_against_itself(folders):
    found = compare(folders / "a", folders / "a", folders / "hr", metrics=["psnr"])
    psnr = found.differences["psnr"]
    assert (psnr.difference, psnr.interval, psnr.ties) == (0, (0, 0), 3)


def test_lower_is_better_where_it_is(folders, needs_weights):
    needs_weights("lpips")
    lpips = compare(folders / "a", folders / "b", folders / "hr", metrics=["lpips"]).differences["lpips"]
    assert lpips.difference < 0
    assert lpips.wins_b == 3


def test_without_ground_truth(folders, tmp_path, needs_weights):
    """Only metrics that need none; on pictures large enough for NIQE."""
    needs_weights("niqe")
    for name in ("a", "b"):
        for path in (folders / name).iterdir():
            Image.open(path).resize((256, 224)).save(path)
    found = compare(folders / "a", folders / "b")
    assert set(found.metrics) == {"niqe", "musiq", "maniqa", "clipiqa"}
    assert "niqe" in found.differences
    assert found.sheet.size[0] == 3 * 396 + 12
    with pytest.raises(ValueError, match="no metric can be computed: PSNR-Y needs the ground truth"):
        compare(folders / "a", folders / "b", metrics=["psnr"])


def test_report(folders):
    found = compare(folders / "a", folders / "b", folders / "hr", metrics=["psnr"])
    document = json.loads(found.to_json())
    assert document["n"] == 3
    assert document["differences"]["psnr"]["wins_b"] == 3
    lines = found.to_markdown().splitlines()
    assert lines[0] == "| | A | B | B - A | A wins | B wins | ties |"
    assert lines[2].startswith("| PSNR-Y ↑ |")
    assert lines[2].endswith("| 0 | 3 | 0 |")


def test_command_line(folders, capsys):
    output = folders / "out" / "c.json"
    heard = logging.root.manager.disable, [*warnings.filters]
    arguments = [
        "compare",
        str(folders / "a"),
        str(folders / "b"),
        "--hr",
        str(folders / "hr"),
        "--metrics",
        "psnr, ssim",
    ]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "-o", str(output), "--device", "cpu"])
    assert caught.value.code == 0
    assert (logging.root.manager.disable, [*warnings.filters]) == heard, "what other code of this process says"
    assert capsys.readouterr().out == output.with_suffix(".md").read_text()
    assert [*json.loads(output.read_text())["differences"]] == ["psnr", "ssim"]
    assert Image.open(output.with_suffix(".png")).width == 4 * 396 + 12


def remove(folders):
    (folders / "b" / "picture1.png").unlink()


def empty(folders):
    shutil.rmtree(folders / "b")
    (folders / "b").mkdir()


def shrink(folders):
    Image.new("RGB", (60, 48)).save(folders / "b" / "picture2.png")


def grey(folders):
    Image.new("L", (64, 48)).save(folders / "b" / "picture0.png")


def transparent(folders):
    Image.fromarray(np.zeros((48, 64, 4), np.uint8)).save(folders / "b" / "picture0.png")


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (remove, [], "b has no picture for picture1"),
        (empty, [], "holds no pictures"),
        (shrink, [], "picture2: the picture of"),
        (grey, [], "picture0.png: is a grey picture"),
        (transparent, [], "picture0.png: has an alpha channel"),
        (None, ["--metrics", "psnr,foo"], "unknown metric 'foo'"),
        (None, ["--metrics", ","], "selects nothing"),
        (None, ["--protocol", "foo"], "unknown protocol 'foo'"),
        (None, ["--device", "foo"], "device 'foo' is not available here"),
        (None, ["-o", "c.txt"], "must be a file name that ends in .json"),
    ],
)
def test_bad_input_is_one_line(folders, capsys, spoil, options, message):
    if spoil:
        spoil(folders)
    arguments = ["compare", str(folders / "a"), str(folders / "b"), "--hr", str(folders / "hr"), "--metrics", "psnr"]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "-o", str(folders / "c.json"), *options])
    assert caught.value.code not in (0, None)
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (folders / "c.json").exists()

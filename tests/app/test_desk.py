"""What is done with uploads, and what the page says of it; no Gradio and no browser."""

from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deedsr.app.bars import bars, fault
from deedsr.app.desk import Desk, on_page
from deedsr.cli import main as cli
from deedsr.cli.app import app_command
from deedsr.diagnosis import Diagnosis, Estimate
from deedsr.options import Options
from deedsr.pictures.picture import read
from deedsr.restorer import Restorer
from tests.processes import finished


def photo(path: Path, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)
    return path


def test_results_are_those_of_the_command_and_a_broken_file_stops_none(tmp_path: Path, tiny_model_folder: Path) -> None:
    broken = tmp_path / "b/broken.png"
    uploads = [photo(tmp_path / "a/one.jpg"), broken, photo(tmp_path / "c/one.jpg", (30, 17))]
    broken.parent.mkdir()
    broken.write_bytes(b"no picture")
    desk = Desk(tmp_path / "results", device="cpu")
    desk.folder.mkdir()
    options = Options(outscale=2.5, steps=1, noise_guidance=(0.5, 1))
    told: list[tuple[float, str]] = []
    found = list(
        desk.restore(uploads, desk.restorer(str(tiny_model_folder), options), progress=lambda *x: told.append(x))
    )
    assert [one.result is not None for one in found] == [True, False, True]
    assert found[1].told == ("broken.png: not a picture that can be read; convert it to PNG or JPEG",)
    for one, upload in zip(found, uploads, strict=True):
        if one.result is not None:
            same = tmp_path / "command" / upload.parent.name
            words = ["-s", 2.5, "--steps", 1, "--noise-guidance", "0.5:1", "--model", tiny_model_folder, "-o", same]
            assert cli._call(["restore", str(upload), "--device", "cpu", *map(str, words)]) == 0
            assert one.result.name == "one.jpg"
            assert one.result.read_bytes() == (same / "one.jpg").read_bytes()
            assert one.before is not None and one.after is not None
            assert read(one.before).size == read(one.after).size == read(one.result).size
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert told[0][1] == "one.jpg (1 of 3)"


def test_what_is_shown_is_no_larger_than_a_screen(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deedsr.app.desk.PREVIEW", 48)
    desk = Desk(tmp_path, device="cpu")
    restorer = desk.restorer(str(tiny_model_folder), Options(steps=1))
    (one,) = desk.restore([photo(tmp_path / "clear.png", mode="RGBA")], restorer)
    assert one.result is not None and one.before is not None and one.after is not None
    assert read(one.result).size == (80, 96)
    for shown in (one.before, one.after):
        assert read(shown).size == (40, 48)
        assert read(shown).alpha is not None


def test_a_format_that_cannot_be_written_is_said_in_the_pages_words(tmp_path: Path, tiny_model_folder: Path) -> None:
    desk = Desk(tmp_path, device="cpu")
    restorer = desk.restorer(str(tiny_model_folder), Options(steps=1))
    clear = photo(tmp_path / "clear.png", mode="RGBA")
    (one,) = desk.restore([clear], restorer, extension="jpg")
    assert one.result is None
    assert one.told == ("clear.jpg: JPEG holds no transparency; use Format: png",)
    assert on_page(f"{clear}: too large; use `tile=256`", clear) == "clear.png: too large; use Tile side: 256"
    assert on_page("`seed` and `low_memory` change nothing") == "Seed and --low-memory change nothing"


def test_what_was_not_taken_of_a_file_is_told_beside_its_result(tmp_path: Path, tiny_model_folder: Path) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    desk = Desk(tmp_path, device="cpu")
    (one,) = desk.restore([tmp_path / "two.tif"], desk.restorer(str(tiny_model_folder), Options(steps=1)))
    assert one.result is not None
    assert one.told == ("two.tif: holds 2 pictures, the first was taken; --frames takes all",)


def test_the_command_hands_on_all_that_says_where_and_how_a_model_runs() -> None:
    words = set(signature(Restorer.from_pretrained).parameters) - {"name", "options"}
    words.remove("compile")  # whoever comes first would wait for minutes
    assert "low_memory" in words
    for taking in (app_command, Desk):
        assert words <= set(signature(taking).parameters), taking


def test_memory_is_saved_where_that_is_asked_for(tmp_path: Path, tiny_model_folder: Path) -> None:
    source = photo(tmp_path / "a.png")
    results = []
    for low_memory in (False, True):
        desk = Desk(tmp_path, device="cpu", low_memory=low_memory)
        restorer = desk.restorer(str(tiny_model_folder), Options(steps=1))
        assert bool(restorer.phases) is low_memory
        assert bool(restorer.notes) is low_memory
        results.append(restorer(source).rgb)
    assert torch.equal(*results)


def test_one_model_is_kept(tmp_path: Path, tiny_model_folder: Path) -> None:
    desk = Desk(tmp_path, device="cpu")
    first = desk.restorer(str(tiny_model_folder), Options())
    assert desk.restorer(str(tiny_model_folder), Options(seed=1)).model is first.model
    with pytest.raises(ValueError, match="nowhere"):
        desk.restorer(str(tmp_path / "nowhere"), Options())


def test_a_diagnosis_and_what_cannot_be_diagnosed(tmp_path: Path) -> None:
    broken = tmp_path / "<b>.png"
    broken.touch()
    found = list(Desk(tmp_path, device="cpu").diagnose([photo(tmp_path / "a.png", (64, 64)), broken], "built-in"))
    assert isinstance(found[0][1], Diagnosis)
    assert found[1] == ("<b>.png", "<b>.png: the file is empty; copy it again from where it came")
    assert "<b>a.png</b>" in bars(found)
    assert "&lt;b&gt;.png: the file" in bars(found) and "<b>.png" not in bars(found)


def test_bars_are_as_long_as_the_damage() -> None:
    page = bars([("a", Diagnosis(Estimate(2, 1), Estimate(80, 1), Estimate(90, 5), "light", {"light": 1.0}))])
    lengths = [
        page.split(f'aria-label="{name}" aria-valuenow="')[1].split('"')[0] for name in ("blur", "noise", "jpeg")
    ]
    assert lengths == ["50", "100", "10"]
    assert 'class="doubt" style="width: 75%"' in page
    assert fault("a", "a: x") == fault("a", "x")


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    code = "import sys; sys.modules['gradio'] = None; import importlib.util as u\n"
    code += "find = u.find_spec; u.find_spec = lambda name: None if name == 'gradio' else find(name)\n"
    code += "from deedsr.cli.main import _call; raise SystemExit(_call(['app']))"
    done = finished([sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == (2, "deedsr: the app needs Gradio: pip install 'deedsr[app]'\n")

"""Restoring a folder: what is done again and what is not, and two ranks of which one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deedsr import files
from deedsr.options import Options
from deedsr.restorer import Restorer
from stage2.restore.job import restore
from tests.processes import LIMIT, as_two_ranks, started, type_in

ROOT = Path(__file__).parents[3]
Run = Callable[..., dict[str, int]]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Three small pictures, one of them in a subfolder."""
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        picture(tmp_path / "in" / name, number)
    return tmp_path / "in"


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def run(composed: Callable, inputs: Path, tiny_model_folder: Path) -> Run:
    """`run(*overrides)`: the command on `inputs`, to the folder ``out`` beside them."""
    options = [f"ckpt={tiny_model_folder}", f"input={inputs}", f"output={inputs.parent / 'out'}", "trainer=cpu"]
    options += ["trainer.enable_progress_bar=false", "options.steps=1"]
    return lambda *overrides: restore(composed("restore", [*options, *overrides]))


def names(output: Path) -> list[str]:
    """The outputs noted in the ledger, one for each time that they were written."""
    lines = [line for file in output.glob(".restored-*.jsonl") for line in file.read_text().splitlines()]
    return sorted(json.loads(line)["name"] for line in lines if line)


def test_outputs_are_those_of_the_restorer(run: Run, inputs: Path, tiny_model_folder: Path) -> None:
    assert run() == {"restored": 3, "kept": 0, "failed": 0}
    restorer = Restorer.from_pretrained(str(tiny_model_folder), Options(steps=1), device="cpu")
    for name in ("a.png", "sub/c.png"):
        expected = np.asarray(restorer(inputs / name).to_pil())
        assert np.array_equal(np.asarray(Image.open(inputs.parent / "out" / name)), expected)


def test_what_is_done_is_judged_by_content(run: Run, inputs: Path) -> None:
    output = inputs.parent / "out"
    run()
    first = {name: (output / name).stat().st_mtime_ns for name in ("a.png", "b.png", "sub/c.png")}
    assert run() == {"restored": 0, "kept": 3, "failed": 0}
    assert first == {name: (output / name).stat().st_mtime_ns for name in first}

    whole = (output / "a.png").read_bytes()
    (output / "a.png").write_bytes(whole[:-20])
    picture(inputs / "b.png", seed=9)
    assert run() == {"restored": 2, "kept": 1, "failed": 0}
    assert (output / "a.png").read_bytes() == whole
    assert first["sub/c.png"] == (output / "sub/c.png").stat().st_mtime_ns

    (output / "b.png").write_bytes(whole)  # a picture, but of another input
    (output / "sub/c.png").unlink()
    assert run() == {"restored": 2, "kept": 1, "failed": 0}


def test_other_settings_and_other_weights_are_other_outputs(
    run: Run, inputs: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    run()
    assert run("options.seed=1")["restored"] == 3
    assert run("options.seed=1")["kept"] == 3
    copy = tmp_path / "model"
    shutil.copytree(tiny_model_folder, copy)
    assert run("options.seed=1", f"ckpt={copy}")["kept"] == 3
    file = copy / "encoder.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert run("options.seed=1", f"ckpt={copy}")["restored"] == 3


def test_the_pictures_that_the_degradation_is_measured_on_count_by_content(run: Run, tmp_path: Path) -> None:
    like = tmp_path / "like"
    picture(like / "a.png", seed=5)
    assert run()["restored"] == 3
    assert run(f"options.degradation_of={like}")["restored"] == 3
    assert run(f"options.degradation_of=[{like / 'a.png'}]")["kept"] == 3
    picture(like / "a.png", seed=6)
    assert run(f"options.degradation_of={like}")["restored"] == 3
    assert run("options.denoise=0.5")["restored"] == 3


def test_a_line_that_was_cut_off_counts_for_its_output_alone(run: Run, inputs: Path) -> None:
    run()
    ledger = inputs.parent / "out" / ".restored-0.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-30])
    assert run() == {"restored": 1, "kept": 2, "failed": 0}
    assert run()["kept"] == 3


def test_a_bad_picture_is_counted_and_the_rest_goes_on(
    run: Run, inputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (inputs / "b.png").write_text("no picture")
    assert run() == {"restored": 2, "kept": 0, "failed": 1}
    assert f"{inputs / 'b.png'}: not a picture" in caplog.text
    picture(inputs / "b.png", seed=1)
    assert run() == {"restored": 1, "kept": 2, "failed": 0}
    assert run(f"input=[{inputs / 'a.png'},{inputs / 'none.png'}]") == {"restored": 0, "kept": 1, "failed": 1}


def test_outputs_are_written_as_asked_for(run: Run, inputs: Path) -> None:
    frames = [Image.new("RGB", (10, 12), (value, 0, 0)) for value in (0, 100)]
    frames[0].save(inputs / "t.tif", save_all=True, append_images=frames[1:])
    os.utime(inputs / "a.png", (1_000_000_000, 1_000_000_000))
    words = ["ext=jpg", "quality=20", "keep_times=true", "frames=true"]
    assert run(*words)["restored"] == 5
    assert sorted(path.name for path in (inputs.parent / "out").glob("t-*")) == ["t-1.jpg", "t-2.jpg"]
    output = inputs.parent / "out" / "a.jpg"
    assert output.stat().st_mtime == 1_000_000_000
    with Image.open(output) as image:
        assert max(image.quantization[0]) > 100
    assert run(*words)["kept"] == 5
    assert run(*words, "strip=true")["restored"] == 5
    with pytest.raises(ValueError, match="quality is 0"):
        run("quality=0")


def test_what_the_restorer_notes_is_in_the_log(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    files._warn.cache_clear()
    with caplog.at_level("WARNING"):  # which the command line, called by another test, may have turned off
        assert run("low_memory=true")["restored"] == 3
    assert "`low_memory` changes nothing: the model runs on the CPU" in caplog.messages
    assert run()["kept"] == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ckpt=./nowhere", "nowhere"),
        ("options.steps=0", "steps is 0"),
        ("dtype=int8", "unknown dtype 'int8'"),
        ("ext=gif", "can't write 'gif'"),
    ],
)
def test_wrong_settings_are_named(run: Run, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(override)


def test_a_file_name_as_output_is_refused(run: Run, inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names a picture; give a folder"):
        run(f"input={inputs / 'a.png'}", f"output={tmp_path / 'x.png'}")


def test_two_ranks_write_every_output_once_even_if_one_is_killed(
    tmp_path: Path, tiny_model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second rank is killed after its first output; the same command then does what is left."""
    total, output = 24, tmp_path / "out"
    for number in range(total):
        picture(tmp_path / "in" / f"{number}.png", number)
    words = [f"ckpt={tiny_model_folder}", f"input={tmp_path / 'in'}", f"output={output}", "options.steps=10"]
    words += ["trainer=cpu", "trainer.devices=2", "+trainer.strategy=ddp", "trainer.enable_progress_bar=false"]
    command = [sys.executable, "-m", "stage2.restore", *words]
    with started(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + LIMIT
        while not (output / ".restored-1.jsonl").is_file():
            assert first.poll() is None, "the run ended before its second rank wrote anything"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(child(first.pid), signal.SIGKILL)
        assert first.wait(LIMIT) != 0
    done = {path.name: path.stat().st_mtime_ns for path in output.glob("*.png")}
    assert 0 < len(done) < total
    assert as_two_ranks(partial(type_in, "stage2.restore", words)) == [0, 0]
    assert f"{total - len(done)} restored, {len(done)} kept, 0 failed" in capfd.readouterr().out
    assert names(output) == sorted(f"{number}.png" for number in range(total))
    assert done == {name: (output / name).stat().st_mtime_ns for name in done}
    assert {path.name for path in output.glob(".restored-*")} == {".restored-0.jsonl", ".restored-1.jsonl"}


def child(pid: int) -> int:
    """The process that a process started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(found) == 1, found
    return int(found[0])

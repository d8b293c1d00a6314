"""A run that is killed or told to end at random steps, and started again each time, ends as an unbroken one."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from deedsr import weights
from tests.processes import ended, started

STEPS, EVERY = 60, 20
RANGES = ((1, 8), (EVERY + 2, 38), (2 * EVERY + 2, 52))  # of the three points; well before the end


@pytest.fixture(scope="module")
def command(photos: Path) -> list[str]:
    """The command of the README at a tiny size."""
    shrink = [f"data.roots=[{photos}]", "+encoder.overrides={widths:[8,8,8,8],stem:8}"]
    shrink += ["crop=64", "batch=2", "contrast.queue=16", f"steps={STEPS}", f"checkpoint_every={EVERY}"]
    shrink += ["optimizer.milestones=[25,45]", "data.workers=1", "trainer=cpu"]
    shrink += ["+callbacks.bar._target_=pytorch_lightning.callbacks.RichProgressBar"]  # ours is for terminals alone
    return [sys.executable, "-m", "stage1.train", *shrink]


def start(command: list[str], output: Path) -> AbstractContextManager[subprocess.Popen]:
    """The run; its progress bar can be read from its standard output."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "FORCE_COLOR": "1", "TERM": "xterm"}  # rich writes each step
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return started([*command, f"output={output}"], env=environment, **pipes)


def kill_at(run: subprocess.Popen, step: int) -> int:
    """Kills the run and its workers when its progress bar shows `step`; returns the step that it showed last."""
    text = b""
    while shown := os.read(run.stdout.fileno(), 65536):
        text += shown
        done = max((int(count) for count in re.findall(rb"\s(\d+)/\d+\s", text)), default=0)
        if done >= step:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
            assert run.returncode == -signal.SIGKILL, text.decode()[-3000:]
            return done
    raise AssertionError(f"the run ended before step {step}: {text.decode()[-3000:]}")


def end_at(run: subprocess.Popen, step: int) -> str:
    """Sends SIGTERM to the run and its workers when its progress bar shows `step`; returns its last line."""
    text = b""
    while shown := os.read(run.stdout.fileno(), 65536):
        text += shown
        if max((int(count) for count in re.findall(rb"\s(\d+)/\d+\s", text)), default=0) >= step:
            break
    os.killpg(run.pid, signal.SIGTERM)
    said = ended(run)[0].decode()
    assert run.returncode == 128 + signal.SIGTERM, said[-3000:]
    return said.strip().splitlines()[-1]


def finish(run: subprocess.Popen) -> None:
    said = ended(run)[0]
    assert run.returncode == 0, said.decode()[-3000:]


@pytest.fixture(scope="module")
def unbroken(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run in one go."""
    output = tmp_path_factory.mktemp("unbroken")
    with start(command, output) as run:
        finish(run)
    return output


def test_a_killed_run_ends_as_an_unbroken_one(command: list[str], unbroken: Path, tmp_path: Path) -> None:
    points = random.Random(20240404)
    for number, (low, high) in enumerate(RANGES):
        step = points.randint(low, high)
        with start(command, tmp_path) as run:
            shown = kill_at(run, step)
        saved = (tmp_path / "last.ckpt").is_file()
        sys.stdout.write(f"killed at step {step} (bar at {shown}), {'after' if saved else 'before'} a checkpoint\n")
        assert saved == (number > 0)
    with start(command, tmp_path) as run:
        finish(run)
    assert_same(unbroken, tmp_path)


def test_a_run_that_is_told_to_end_saves_its_step_first(command: list[str], unbroken: Path, tmp_path: Path) -> None:
    """The signal comes to its workers too, as a shell or SLURM send it."""
    step = random.Random(20241126).randint(3, EVERY - 3)
    with start(command, tmp_path) as run:
        said = end_at(run, step)
    taken = weights.load_checkpoint(tmp_path / "last.ckpt")["global_step"]
    sys.stdout.write(f"told to end at step {step}: {said}\n")
    assert step <= taken < EVERY
    assert f"SIGTERM: {taken} of {STEPS} steps are in" in said
    with start(command, tmp_path) as run:
        finish(run)
    assert_same(unbroken, tmp_path)


def assert_same(whole: Path, parts: Path) -> None:
    """Both runs have come to the same, to the bit."""
    expected, got = (weights.load_checkpoint(folder / "last.ckpt") for folder in (whole, parts))
    assert expected["global_step"] == got["global_step"] == STEPS
    assert {"contrast.queue", "contrast.pointer"} <= expected["state_dict"].keys()
    assert expected["state_dict"].keys() == got["state_dict"].keys()
    for name, tensor in expected["state_dict"].items():
        assert torch.equal(tensor, got["state_dict"][name]), name
    momenta = [folder["optimizer_states"][0]["state"] for folder in (expected, got)]
    for key, state in momenta[0].items():
        assert torch.equal(state["momentum_buffer"], momenta[1][key]["momentum_buffer"]), key
    files = [(folder / "encoder.safetensors").read_bytes() for folder in (whole, parts)]
    assert files[0] == files[1]

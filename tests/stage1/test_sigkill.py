"""A run that is killed and told to end at random steps, and started again each time, ends as an unbroken one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

import pytest
import torch
from hydra import compose, initialize_config_dir

from deedsr import weights
from deedsr.training.command import CONF
from stage1.from_config import train
from tests.processes import ended, started

STEPS, EVERY = 60, 20


@pytest.fixture(scope="module")
def words(photos: Path) -> list[str]:
    """What is typed after ``python -m stage1.train`` for the command of the README at a tiny size."""
    shrink = [f"data.roots=[{photos}]", "+encoder.overrides={widths:[8,8,8,8],stem:8}"]
    shrink += ["crop=64", "batch=2", "contrast.queue=16", f"steps={STEPS}", f"checkpoint_every={EVERY}"]
    shrink += ["optimizer.milestones=[25,45]", "data.workers=1", "trainer=cpu"]
    shrink += ["+callbacks.bar._target_=pytorch_lightning.callbacks.RichProgressBar"]  # ours is for terminals alone
    return shrink


def start(words: list[str], output: Path) -> AbstractContextManager[subprocess.Popen]:
    """The run; its progress bar can be read from its standard output."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "FORCE_COLOR": "1", "TERM": "xterm"}  # rich writes each step
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return started([sys.executable, "-m", "stage1.train", *words, f"output={output}"], env=environment, **pipes)


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


def finish(words: list[str], output: Path) -> None:
    """The run until its end, in this process."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("stage1", [*words, f"output={output}"])
    train(cfg)


def saved(output: Path) -> int:
    """The steps in a run's checkpoint."""
    return weights.load_checkpoint(output / "last.ckpt")["global_step"]


def test_a_run_that_is_killed_and_told_to_end_ends_as_an_unbroken_one(words: list[str], tmp_path: Path) -> None:
    """SIGTERM comes to its workers too, as a shell or SLURM send it, and its step is saved first."""
    random, parts = Random(20240404), tmp_path / "parts"
    step = random.randint(1, 8)
    with start(words, parts) as run:
        shown = kill_at(run, step)
    sys.stdout.write(f"killed at step {step} (bar at {shown}), before a checkpoint\n")
    assert not (parts / "last.ckpt").exists()

    step = random.randint(3, EVERY - 3)
    with start(words, parts) as run:
        said = end_at(run, step)
    taken = saved(parts)
    sys.stdout.write(f"told to end at step {step}: {said}\n")
    assert step <= taken < EVERY
    assert f"SIGTERM: {taken} of {STEPS} steps are in" in said

    step = random.randint(EVERY + 2, 2 * EVERY - 2)
    with start(words, parts) as run:
        shown = kill_at(run, step)
    taken = saved(parts)
    sys.stdout.write(f"killed at step {step} (bar at {shown}), after the checkpoint of step {taken}\n")
    assert taken in range(EVERY, STEPS, EVERY)

    for output in (parts, tmp_path / "whole"):
        finish(words, output)
    assert_same(tmp_path / "whole", parts)


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

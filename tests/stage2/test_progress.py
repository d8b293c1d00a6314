"""What a run says at its start, and what it would go on with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from deedsr.training import pace, progress
from stage2.from_config import train

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]


def test_the_start_says_what_will_happen(
    tmp_path: Path,
    composed: Composed,
    stage2_options: Options,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "LINE", 0)
    monkeypatch.setattr(progress, "FIRST", 2)
    words = stage2_options(tmp_path / "run", "trainer.accumulate_grad_batches=2", "pictures=null")
    for steps in (3, 5):
        caplog.clear()
        with caplog.at_level(logging.INFO, "deedsr.training"):
            train(composed("stage2", [*words, f"steps={steps}"]))
        said = {line.split()[0]: " ".join(line.split()[1:]) for line in caplog.messages}
        assert said["model"].startswith("deedsr of size small on ")
        assert "adapter" in said["trained"] and "unet" in said["trained"]
        assert said["data"] == "4 photographs, crops of 64²"
        assert said["batch"] == "4 in all: 2 on each of 1, 2 times"
        assert said["steps"].startswith(f"{steps}, a checkpoint every 1000")
        assert said["device"].startswith("cpu") and said["device"].endswith("precision 32-true")
        assert said["output"] == str(tmp_path / "run")
        first = caplog.messages.index(next(line for line in caplog.messages if line.startswith("begins")))
        lines = [line for line in caplog.messages[first:] if f" of {steps} steps (" in line]
        begun = 0 if steps == 3 else 3
        assert [int(line.split()[0]) for line in lines] == list(range(begun + 1, steps + 1))
        assert all(", mse " in line for line in lines)
        assert any(line.startswith("2 steps took ") and "peak memory" in line for line in caplog.messages)
        assert said["begins"] == ("fresh, at step 0" if steps == 3 else "goes on after step 3 of 5")
    assert len([line for line in caplog.messages if "last.ckpt" in line and "all 5 steps" in line]) == 1

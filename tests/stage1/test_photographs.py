"""What a run of stage 1 says of its photographs."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from PIL import Image

from stage1.from_config import train

Compose = Callable[..., DictConfig]


@pytest.fixture
def flawed(photos: Path, tmp_path: Path) -> Path:
    """The photographs of `photos`, with a corrupt one, a small one and a copy."""
    folder = tmp_path / "flawed"
    shutil.copytree(photos, folder)
    shutil.copy(folder / "0.png", folder / "copy.png")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:300])
    Image.new("RGB", (30, 90)).save(folder / "small.png")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_flaws_are_told_once_at_the_end(
    tiny: Compose, flawed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    with caplog.at_level(logging.WARNING, "deedsr.training.photographs"):
        train(tiny(tmp_path / "run", "steps=12", f"data.roots=[{flawed}]", f"data.workers={workers}"))
    said = [record.message for record in caplog.records if record.name == "deedsr.training.photographs"]
    assert said == [
        f"photographs: duplicates, left out: 1 ({flawed}/copy.png); corrupt, left out: 1 ({flawed}/cut.png); "
        f"smaller than 64 pixels, enlarged: 1 ({flawed}/small.png)"
    ]


def test_photographs_without_flaws_say_nothing(tiny: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "deedsr.training.photographs"):
        train(tiny(tmp_path / "run", "steps=2"))
    assert not [record for record in caplog.records if record.name == "deedsr.training.photographs"]

"""A tiny stage-1 run on made-up photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="session")
def photos(make_photos: Callable[[int], Path]) -> Path:
    """Six photographs of smooth noise, four in the split `train` and two in `val`."""
    folder = make_photos(6)
    rows = [f"{number}.png\t{'train' if number < 4 else 'val'}" for number in range(6)]
    folder.with_suffix(".tsv").write_text("\n".join(["file\tsplit", *rows]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny(photos: Path) -> Callable[..., DictConfig]:
    """Composes the real configuration, shrunk: `tiny(output, "steps=4", ...)`."""

    def make(output: Path, *overrides: str, config: str = "stage1") -> DictConfig:
        shrink = [
            # not fewer channels: oneDNN 3.12 writes beyond its memory then on AVX2 (1x1, stride 2, backward)
            "+encoder.overrides={widths:[8,8,8,8],stem:8}",
            "crop=64",
            "batch=4",
            "contrast.queue=16",
            "checkpoint_every=1000",
            "data.workers=0",
            "trainer.accelerator=cpu",
            "trainer.enable_progress_bar=false",
            "trainer.log_every_n_steps=1",
            f"output={output}",
        ]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(config, [*(shrink if config == "stage1" else []), f"data.roots=[{photos}]", *overrides])

    return make

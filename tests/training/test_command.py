"""A command as a user types it: where the jobs of a ``--multirun`` leave what they made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


def test_each_job_of_a_multirun_has_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for number in range(2):
        Image.fromarray(pixels + number).save(tmp_path / "photos" / f"{number}.png")
    words = [f"data.roots=[{tmp_path / 'photos'}]", "name=group/one", f"output={tmp_path / 'out'}", "seed=1,2"]
    words += ["+encoder.overrides={widths:[4,4,8,8],stem:4}", "crop=64", "batch=2", "contrast.queue=4", "steps=1"]
    words += [
        "data.workers=0",
        "trainer=cpu",
        "trainer.enable_progress_bar=false",
        f"hydra.sweep.dir={tmp_path / 'jobs'}",
    ]
    command = [sys.executable, "-m", "stage1.train", "--multirun", *words, "hydra.sweep.subdir=${hydra.job.num}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    encoders = [tmp_path / "jobs" / str(job) / "encoder.safetensors" for job in range(2)]
    assert encoders[0].read_bytes() != encoders[1].read_bytes()
    assert not (tmp_path / "out").exists()
    assert all((encoder.parent / "run.log").is_file() for encoder in encoders)

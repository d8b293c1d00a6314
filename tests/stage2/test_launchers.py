"""The README's lines for several processes: torchrun, and processes that have the variables srun sets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = ["trainer.devices=2", "+trainer.strategy=ddp", "+model.overrides.adapter.lora_rank=2", "steps=1"]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def started(command: list[str], **variables: object) -> subprocess.Popen:
    words = {name: str(value) for name, value in variables.items()}
    return subprocess.Popen([sys.executable, *command], cwd=ROOT, env={**os.environ, **words})


def test_torchrun_and_srun_train_the_same(stage2_options: Callable, tmp_path: Path) -> None:
    module = ["-m", "stage2.train"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), *module]
    assert started([*torchrun, *stage2_options(tmp_path / "torchrun", *WORDS)]).wait(1200) == 0
    slurm = {"SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": 0}
    slurm |= {"SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_NNODES": 1, "MASTER_PORT": free_port()}
    options = stage2_options(tmp_path / "srun", *WORDS)
    ranks = [started([*module, *options], **slurm, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in range(2)]
    assert [process.wait(1200) for process in ranks] == [0, 0]
    first, second = (tmp_path / name / "model" / "adapter.safetensors" for name in ("torchrun", "srun"))
    assert first.read_bytes() == second.read_bytes()

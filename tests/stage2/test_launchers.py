"""The README's lines for several processes: torchrun, and processes that have the variables srun sets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.processes import LIMIT, forked, free_port, started, type_in

WORDS = ["trainer.devices=2", "+trainer.strategy=ddp", "+model.overrides.adapter.lora_rank=2", "steps=1"]


def test_torchrun_and_srun_train_the_same(stage2_options: Callable, tmp_path: Path) -> None:
    module, port = "stage2.train", free_port()
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port, "-m", module]
    with started([sys.executable, *torchrun, *stage2_options(tmp_path / "torchrun", *WORDS)]) as process:
        assert process.wait(LIMIT) == 0
    slurm = {"SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": 0}
    slurm |= {"SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_NNODES": 1, "MASTER_PORT": free_port()}
    srun = partial(type_in, module, stage2_options(tmp_path / "srun", *WORDS), **slurm)
    assert forked(*(partial(srun, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in range(2))) == [0, 0]
    first, second = (tmp_path / name / "model" / "adapter.safetensors" for name in ("torchrun", "srun"))
    assert first.read_bytes() == second.read_bytes()

"""Whether a run on a GPU can be broken off, and whether one of several GPUs does as one alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from deedsr.models.system import ADAPTER
from deedsr.weights import load
from stage2 import from_config
from stage2.evaluate.gpu.bench import Bench, Row
from stage2.evaluate.gpu.training import configured, without


def going_on(bench: Bench) -> Iterator[Row]:
    """Four steps at once, again, and in two halves: trained weights to the bit."""
    whole = trained(bench, "whole", "steps=4", "+trainer.deterministic=warn")
    again = trained(bench, "again", "steps=4", "+trainer.deterministic=warn")
    trained(bench, "halves", "steps=2", "+trainer.deterministic=warn")
    halves = trained(bench, "halves", "steps=4", "+trainer.deterministic=warn", "resume=changed")
    yield compared("the same run again", again, whole)
    yield compared("broken off in the middle", halves, whole)


def one_rank(bench: Bench) -> Iterator[Row]:
    """One process as one of several would do it, against the plain run."""
    plain = trained(bench, "plain", "steps=3")
    yield compared("DDP, one rank", trained(bench, "ddp", "steps=3", "+trainer.strategy=ddp"), plain, 1e-3)
    yield Row("backend", torch.distributed.get_backend(), "nccl" if bench.cuda else "gloo")
    split = trained(bench, "fsdp", "steps=3", "trainer=fsdp", "trainer.precision=32-true")
    yield compared("FSDP2, one rank", split, plain, 1e-3)


def trained(bench: Bench, name: str, *words: str) -> dict[str, torch.Tensor]:
    """The averaged weights of a run of stage 2 on the built-in model."""
    accelerator = "gpu" if bench.cuda else "cpu"
    more = [
        "model=init",
        "init=built-in",
        "batch=4",
        "data.workers=0",
        "pictures=null",
        f"output={bench.folder / name}",
    ]
    strategy = [word for word in words if word.startswith("trainer=")]  # before what changes it
    rest = [word for word in words if word not in strategy]
    device = [f"trainer.accelerator={accelerator}", "trainer.devices=1"]
    cfg = configured(bench, "stage2", bench.device.type, *strategy, *without(*more), *device, *rest)
    try:
        return load(Path(from_config.train(cfg)) / ADAPTER).tensors
    finally:
        torch.use_deterministic_algorithms(False)


def compared(what: str, found: dict[str, torch.Tensor], right: dict[str, torch.Tensor], most: float = 0.0) -> Row:
    """The largest difference of two runs' weights."""
    worst = max(float((found[name].float() - right[name].float()).abs().max()) for name in right)
    return Row(what, f"{worst:.1e} apart at most" if worst else "equal to the bit", f"{most:.0e}" if most else "0",
               worst <= most)  # fmt: skip

"""Whether a run on a GPU can be broken off, and whether one of several GPUs does as one alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from deedsr.models.resolver import model_place
from deedsr.models.system import ADAPTER
from deedsr.weights import load
from stage2 import from_config
from stage2.evaluate.gpu.bench import Bench, Row
from stage2.evaluate.gpu.training import configured, without

Weights = dict[str, Tensor]


def going_on(bench: Bench) -> Iterator[Row]:
    """Three steps at once, again, and in two parts: trained weights to the bit."""
    alike = "+trainer.deterministic=warn"
    whole = trained(bench, "whole", "steps=3", alike)
    yield compared("the same run again", trained(bench, "again", "steps=3", alike), whole)
    trained(bench, "parts", "steps=2", alike)
    yield compared("broken off after two of three", trained(bench, "parts", "steps=3", alike, "resume=changed"), whole)


def one_rank(bench: Bench) -> Iterator[Row]:
    """One process as one of several would do it, against the plain run."""
    plain = trained(bench, "plain", "steps=2")
    yield compared("DDP, one rank", trained(bench, "ddp", "steps=2", "+trainer.strategy=ddp"), plain, 0.05)
    backend, asked = torch.distributed.get_backend(), "nccl" if bench.cuda else "gloo"
    yield Row("backend", backend, asked, backend == asked)
    split = trained(bench, "fsdp", "steps=2", "trainer=fsdp", "trainer.precision=32-true")
    yield compared("FSDP2, one rank", split, plain, 0.05)


def trained(bench: Bench, name: str, *words: str) -> Weights:
    """The averaged weights of a run of stage 2 that goes on from the built-in model."""
    numbers = [
        "model=init",
        "init=built-in",
        "batch=2",
        "crop=128",
        "optimizer.warmup=0",
        "optimizer.schedule=constant",
    ]
    numbers += ["data.workers=0", "pictures=null", f"output={bench.folder / name}"]
    cfg = configured(bench, "stage2", bench.device.type, *without(*numbers), *words)
    try:
        return load(Path(from_config.train(cfg)) / ADAPTER).tensors
    finally:
        torch.use_deterministic_algorithms(False)


def compared(what: str, found: Weights, right: Weights, most: float = 0.0) -> Row:
    """How far two runs have come apart, as a share of how far they have come."""
    start = load(model_place("built-in") / ADAPTER).tensors

    def way(one: Weights, other: Weights) -> float:
        return float(sum((one[name].double() - other[name].double()).square().sum() for name in right) ** 0.5)

    apart, gone = way(found, right), way(right, start)
    return Row(what, f"{apart / gone:.1e} of their way apart" if apart else "equal to the bit",
               f"{most:g}" if most else "0", 0 < gone < float("inf") and apart <= most * gone)  # fmt: skip

"""How fast a GPU restores, beside what it could do and what diffusers' own pipeline does with it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from deedsr.devices import peak_memory
from deedsr.models import load_model
from deedsr.models.deedsr.sizes import model_size
from deedsr.options import Options
from deedsr.restorer import Restorer
from stage2.evaluate.gpu.bench import TINY, Bench, Row
from stage2.evaluate.rivals import pipeline
from stage2.evaluate.timing import count, matrix_rate, picture, reset_peak

STEPS = 10  # of each restoration that is timed


def rates(bench: Bench) -> Iterator[Row]:
    """Products of large matrices, and copies."""
    for dtype in (torch.bfloat16, torch.float32):
        yield Row(f"matrix product, {str(dtype)[6:]}", f"{matrix_rate(bench.device, dtype) / 1e12:.3g} TFLOP/s")
    block = torch.zeros(2**20 if bench.tiny else 2**30, dtype=torch.int32, device=bench.device)
    seconds = bench.seconds(block.clone)
    yield Row("copy", f"{2 * 4 * block.numel() / seconds / 1e12:.2f} TB/s, read and written")


def built_in(bench: Bench) -> Iterator[Row]:
    """Pictures a second of the built-in models."""
    lr = picture(bench.side(512))
    for name in ("built-in", "built-in-dit"):
        for dtype in (torch.float32, torch.bfloat16):
            work = Restorer(load_model(name, bench.device, dtype))
            seconds = bench.seconds(lambda work=work: work.restore(lr), 10)  # type: ignore[misc]
            yield Row(f"{name}, {bench.side(512)}², {str(dtype)[6:]}", f"{1 / seconds:.1f} images/s")


def deedsr(bench: Bench) -> Iterator[Row]:
    """Seconds of a picture on Stable Diffusion 2.1."""
    yield from restoring(bench, "sd21", 512, 2048)


def dit4sr(bench: Bench) -> Iterator[Row]:
    """Seconds of a picture on Stable Diffusion 3.5."""
    yield from restoring(bench, "dit4sr", 512, 1024)


def restoring(bench: Bench, size: str, *sides: int) -> Iterator[Row]:
    """Seconds of pictures in `STEPS` steps."""
    rate = matrix_rate(bench.device, torch.bfloat16)
    restorer = Restorer(bench.model(size, torch.bfloat16), Options(steps=2 if bench.tiny else STEPS))
    for side in map(bench.side, sides):
        yield row(bench, restorer, size, side, rate)


def diffusers(bench: Bench) -> Iterator[Row]:
    """Seconds of a picture by diffusers' own ControlNet pipeline; there is no small one."""
    if bench.tiny:
        return
    theirs, lr = pipeline(model_size("sd21"), STEPS, bench.device, torch.bfloat16), picture(512)
    yield Row("ControlNet, SD 2.1, 512², bfloat16", f"{bench.seconds(lambda: theirs(lr)):.3f} s in {STEPS} steps")


def row(bench: Bench, restorer: Restorer, size: str, side: int, rate: float) -> Row:
    """One size of picture."""
    lr, steps = picture(side), restorer.settings.steps
    reset_peak(bench.device)
    seconds = bench.seconds(lambda: restorer.restore(lr), 3 if side <= 1024 else 1)
    peak, work = peak_memory(bench.device), count(restorer.restore, lr)
    share = 100 * work / seconds / rate
    return Row(f"{TINY[size] if bench.tiny else size}, {side}², bfloat16",
               f"{seconds:.3f} s in {steps} steps, {work / 1e12:.1f} TFLOP, {share:.0f} % of a product's rate, "
               f"{peak / 2**30:.1f} GiB")  # fmt: skip


def compiled(bench: Bench) -> Iterator[Row]:
    """The network of the large model compiled, and how long that takes; on a CPU it takes too long."""
    if not bench.cuda:
        return
    model, lr = bench.model("sd21", torch.bfloat16), picture(bench.side(512))
    options = Options(steps=2 if bench.tiny else STEPS)
    plain = bench.seconds(lambda: Restorer(model, options).restore(lr))
    restorer = Restorer(model, options, compile=True)
    began = time.perf_counter()
    restorer.restore(lr)
    first = time.perf_counter() - began
    seconds = bench.seconds(lambda: restorer.restore(lr))
    yield Row("restoring", f"{seconds:.3f} s, not compiled {plain:.3f} s; the first one {first:.0f} s")

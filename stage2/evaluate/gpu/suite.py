"""The parts one after the other within a given time; what each finds goes into a table, which is written at once."""

from __future__ import annotations

import gc
import logging
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from deedsr.devices import pick_device
from deedsr.files import write_text
from stage2.evaluate.gpu import agreement, profiling, running, speed, training
from stage2.evaluate.gpu.bench import Bench, Row

Part = Callable[[Bench], Iterator[Row]]

PARTS: dict[str, Part] = {
    "deedsr": agreement.deedsr,
    "dit4sr": agreement.dit4sr,
    "degrading": agreement.degrading,
    "built_in": agreement.pictures,
    "lpips": agreement.lpips,
    **{f"step_{name}": training.step_of(name) for name in training.STEPS},
    "rates": speed.rates,
    "train_deedsr_sd21": training.deedsr_sd21,
    "train_dit4sr_sd35": training.dit4sr_sd35,
    "speed_deedsr": speed.deedsr,
    "speed_diffusers": speed.diffusers,
    "speed_built_in": speed.built_in,
    "speed_dit4sr": speed.dit4sr,
    "train_stage1_deedsr": training.stage1_deedsr,
    "going_on": running.going_on,
    "one_rank": running.one_rank,
    "kernels_deedsr_sd21": profiling.deedsr_sd21,
    "train_distilling": training.distilling,
    "kernels_dit4sr_sd35": profiling.dit4sr_sd35,
    "compiled": speed.compiled,
}
"""In order of weight: what there is no time for is at the end."""

END = 3.0  # seconds that are kept for the end


class TimeUp(Exception):
    """A part has taken all the time there was."""


@dataclass
class Table:
    """Rows by part, and the tracebacks of what went wrong. file: where it is written after every row."""

    head: list[str]
    file: Path | None
    rows: list[tuple[str, Row]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, part: str, row: Row) -> None:
        self.rows.append((part, row))
        if self.file is not None:
            write_text(self.file, self.text())

    def text(self) -> str:
        lines = [*self.head, "", "| part | what | found | asked | |", "|---|---|---|---|---|"]
        before = None
        for part, row in self.rows:
            cells = ["" if part == before else part, row.what, row.found, row.asked, "" if row.good else "**no**"]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
            before = part
        return "\n".join([*lines, *(f"\n```\n{fault}\n```" for fault in self.faults)]) + "\n"


def report(cfg: DictConfig) -> str:
    """The table of all parts, those that ``parts`` names; ``output`` has it too, from the first row on."""
    began = time.monotonic()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS adds up in any order
    device = pick_device(cfg.device)
    if strange := [name for name in cfg.parts or () if name not in PARTS]:
        raise ValueError(f"parts has no {strange[0]!r}; there are: {', '.join(PARTS)}")
    table = Table(head(device), Path(cfg.output) if cfg.output else None)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, cfg.tiny, Path(folder), began + 60 * cfg.minutes - END)
        for name in cfg.parts or PARTS:
            run(name, PARTS[name], bench, table)
    table.add("all", Row("seconds", f"{time.monotonic() - began:.0f}"))
    return table.text()


def run(name: str, part: Part, bench: Bench, table: Table) -> None:
    """A part's rows into the table; an error is one of them, and none of the others' business."""
    began = time.monotonic()
    if (left := bench.until - began) <= 0:
        table.add(name, Row("left out", "the time was up"))
        return
    try:
        with alarm(left):
            for row in part(bench):
                table.add(name, row)
    except Exception as error:
        if time.monotonic() >= bench.until:  # compilers wrap what they meet
            table.add(name, Row("broken off", "the time was up"))
            return
        words = " ".join(str(error).split())[:200]
        trail = "".join(traceback.format_tb(error.__traceback__)[-9:])
        table.faults.append(f"{name}\n{trail}{type(error).__name__}: {str(error)[:2000]}")
        table.add(name, Row("stopped", f"{type(error).__name__}: {words}", good=False))
    logging.getLogger(__name__).info("%s: %.1f s", name, time.monotonic() - began)
    table.add(name, Row("seconds", f"{time.monotonic() - began:.1f}"))
    gc.collect()  # trainers and their models know each other
    if bench.cuda:
        torch.cuda.empty_cache()


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeUp within the context after so many seconds, between two lines of Python."""

    def ring(*_: Any) -> None:
        raise TimeUp

    handler, began = signal.signal(signal.SIGALRM, ring), time.monotonic()
    others = signal.setitimer(signal.ITIMER_REAL, seconds)[0]
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, max(others - (time.monotonic() - began), 1e-3) if others else 0)
        signal.signal(signal.SIGALRM, handler)


def head(device: torch.device) -> list[str]:
    """What all of it ran on."""
    if device.type != "cuda":
        return [f"{device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}"]
    numbers = torch.cuda.get_device_properties(device)
    return [
        f"{numbers.name}, {numbers.total_memory / 2**30:.1f} GiB, torch {torch.__version__}, "
        f"cuDNN {torch.backends.cudnn.version()}, {torch.get_num_threads()} threads"
    ]

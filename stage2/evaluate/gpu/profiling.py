"""What a step of training keeps a GPU busy with, and what makes it wait."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from deedsr.data.batch import Crops
from deedsr.geometry import SCALE
from deedsr.training.run import in_bytes
from stage2.evaluate.gpu.bench import Bench, Row
from stage2.evaluate.gpu.training import configured, repeated, restoration, small, train
from stage2.evaluate.timing import picture


def deedsr_sd21(bench: Bench) -> Iterator[Row]:
    """Of one step of the shipped experiment."""
    yield from step(bench, "deedsr_sd21", "sd21")


def dit4sr_sd35(bench: Bench) -> Iterator[Row]:
    """Of one step of the shipped experiment."""
    yield from step(bench, "dit4sr_sd35", "dit4sr", "model.texts=null")


def step(bench: Bench, experiment: str, size: str, *words: str) -> Iterator[Row]:
    """Kernels, waits for the GPU, how busy that is, and with what."""
    cfg = configured(bench, "stage2", bench.device.type, f"experiment={experiment}", *words, *small(bench, size))
    watch = Profile(bench)
    hr = torch.cat([picture(SCALE * cfg.crop)] * cfg.batch)
    train(bench, cfg, restoration(bench, cfg, size), repeated(Crops(in_bytes(hr))), 4, watch)
    yield from watch.rows()


class Profile(pl.Callback):
    """Looks at the third step for waits, and at the fourth for kernels."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.waits = bench, Counter[str]()

    def on_train_batch_start(self, trainer: pl.Trainer, run: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.bench.wait()
        if batch_idx == 2 and self.bench.cuda:
            self.caught = warnings.catch_warnings(record=True)
            self.warned = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        if batch_idx == 3:
            self.profile = profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * self.bench.cuda])
            self.profile.__enter__()
            self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, run: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2 and self.bench.cuda:
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            waits = [one for one in self.warned if "synchronizing" in str(one.message)]
            self.waits.update(f"{Path(one.filename).name}:{one.lineno}" for one in waits)
        self.bench.wait()
        if batch_idx == 3:
            self.seconds = time.perf_counter() - self.began
            self.profile.__exit__(None, None, None)

    def rows(self) -> Iterator[Row]:
        """What was seen."""
        table = self.profile.key_averages()
        kernels = [one for one in table if one.device_type == DeviceType.CUDA and not one.is_user_annotation]
        spent = {one.key: one.self_device_time_total / 1e6 for one in kernels}
        launched = sum(one.count for one in kernels)
        busy = 100 * sum(spent.values()) / self.seconds
        yield Row(
            "kernels", f"{launched} kernels, busy {busy:.0f} % of {1000 * self.seconds:.0f} ms under the profiler"
        )
        places = ", ".join(f"{place} {count}" for place, count in self.waits.most_common(6))
        yield Row("waits", f"{self.waits.total()}: {places}")
        for key in sorted(spent, key=lambda key: -spent[key])[:8]:
            yield Row(key[:60], f"{1000 * spent[key]:.1f} ms")

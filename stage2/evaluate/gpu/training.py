"""Whether a GPU trains as the CPU does, and how fast, at what memory."""

from __future__ import annotations

import copy
import importlib
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from deedsr.data.batch import Crops
from deedsr.devices import peak_memory, tf32
from deedsr.geometry import SCALE
from deedsr.nested import mapped
from deedsr.training.again import Again
from deedsr.training.command import CONF, plain
from deedsr.training.fake_cuda.forecast import GIB, Need
from deedsr.training.fit import make_trainer
from deedsr.training.photographs import Batches
from deedsr.training.run import Run, in_bytes
from stage2 import from_config, scaling
from stage2.distill.student import student_run
from stage2.evaluate.gpu.bench import TINY, Bench, Row
from stage2.evaluate.memory import changed, needed
from stage2.evaluate.timing import matrix_rate, picture, reset_peak

Pool = multiprocessing.get_context("spawn").Pool
NEAR = 0.1  # how far a forecast of memory may be off

LEARNER = "stage1.from_config"
"""Named, as the commands name their work: the stages don't import each other."""


def configured(bench: Bench, primary: str, device: str, *words: str) -> DictConfig:
    """The configuration of a run on one `device` that keeps no log."""
    accelerator = "gpu" if device == "cuda" else "cpu"
    quiet = [f"trainer.accelerator={accelerator}", "trainer.devices=1", "trainer.enable_progress_bar=false"]
    quiet += ["logger=none", f"data.roots=[{bench.photos()}]", f"output={bench.folder / 'run'}"]
    GlobalHydra.instance().clear()  # what the command itself was configured with
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(primary, [*quiet, *words])


def repeated(crops: Crops) -> Again:
    """One batch again and again, as a run takes it."""
    return Again([mapped(lambda tensor, number=number: tensor[number], crops) for number in range(len(crops.hr))])


class Watch(pl.Callback):
    """Of every step the loss, the norm of the gradient, when it ended, and of step `count` the FLOPs.

    quick: of steps that are timed only the loss of the last.
    """

    def __init__(self, bench: Bench, count: int = -1, quick: bool = False) -> None:
        self.bench, self.count, self.quick = bench, count, quick
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.ends: list[float] = []
        self.flops = 0

    def on_train_batch_start(self, trainer: pl.Trainer, run: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.count:
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()

    def on_after_backward(self, trainer: pl.Trainer, run: pl.LightningModule) -> None:
        if not self.quick or trainer.global_step == trainer.max_steps - 1:
            gradients = [parameter.grad for parameter in run.parameters() if parameter.grad is not None]
            self.norms.append(torch.nn.utils.get_total_norm(gradients).item())

    def on_train_batch_end(self, trainer: pl.Trainer, run: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.count:
            self.counter.__exit__(None, None, None)
            self.flops = self.counter.get_total_flops()
        if not self.quick or trainer.global_step == trainer.max_steps:
            self.losses.append(float(outputs["loss"]))
        self.bench.wait()
        self.ends.append(time.perf_counter())


def train(bench: Bench, cfg: DictConfig, run: Run, data: Batches, steps: int, watch: pl.Callback) -> None:
    """So many steps that leave nothing behind."""
    OmegaConf.update(cfg, "trainer.fast_dev_run", steps, force_add=True)
    make_trainer(cfg, bench.folder / "run", steps, [watch]).fit(run, data)


def own_pairs(side: int, batch: int) -> Crops:
    """Pairs, so that nothing is degraded: what a device draws is its own."""
    hr = torch.cat([picture(SCALE * side).roll(16 * number, 3) for number in range(batch)])
    lr = torch.nn.functional.avg_pool2d(hr, SCALE)
    other = lr.flip(3)
    return Crops(in_bytes(hr), lr=in_bytes(lr), other=in_bytes(other), paired=torch.ones(batch, dtype=torch.bool))


def step_of(name: str) -> Callable[[Bench], Iterator[Row]]:
    """A part: loss and gradient of the first step of a small model, one of `STEPS`, against the CPU."""

    def part(bench: Bench) -> Iterator[Row]:
        primary, words, make = STEPS[name]
        right = first_step(bench, "cpu", primary, words, make)
        for precision, most in (("32-true", 1e-3), ("bf16-mixed", 0.1)):
            found = first_step(bench, bench.device.type, primary, [*words, f"trainer.precision={precision}"], make)
            loss, gradient = (abs(one / other - 1) for one, other in zip(found, right, strict=True))
            text = f"loss {found[0]:.5g}, {loss:.1e} from the CPU's, norm of the gradient {gradient:.1e}"
            good = loss <= most and gradient <= 5 * most
            yield Row(precision, text, f"{most:.0e}, {5 * most:.0e}", good)

    return part


def without(*words: str) -> list[str]:
    """Without the terms that need weights from elsewhere."""
    return ["objective.fidelity.perceptual=0", "+objective.fidelity.structure=0", *words]


def first_step(bench: Bench, device: str, primary: str, words: list[str], make: Any) -> tuple[float, float]:
    """Loss and norm of the gradient of a step on `device`."""
    given = [word for word in words if primary != "distill" or not word.startswith("+objective")]
    cfg = configured(bench, primary, device, *given)
    watch = Watch(bench)
    with tf32(False):
        train(bench, cfg, make(cfg), repeated(own_pairs(cfg.crop, cfg.batch)), 1, watch)
    return watch.losses[0], watch.norms[0]


def learner(cfg: DictConfig) -> Run:
    """The run of stage 1."""
    return importlib.import_module(LEARNER).degradation_learner(cfg)


def student(cfg: DictConfig) -> Run:
    """The run that distils."""
    return student_run(cfg, from_config.trainable_model(cfg).model)


STEPS: dict[str, tuple[str, list[str], Callable[[DictConfig], Run]]] = {
    "stage1": ("stage1", ["crop=128", "batch=4"], learner),
    "stage2": ("stage2", ["model=init", "init=built-in", *without("batch=4")], from_config.restoration_run),
    "stage2_dit": (
        "stage2",
        ["model=init", "init=built-in-dit", *without("batch=4", "crop=128"), "objective.min_snr=null"],
        from_config.restoration_run,
    ),
    "distill": ("distill", ["model=init", "init=built-in", *without("batch=4")], student),
}


def deedsr_sd21(bench: Bench) -> Iterator[Row]:
    """The shipped experiment, on one GPU."""
    cfg = configured(bench, "stage2", bench.device.type, "experiment=deedsr_sd21", *small(bench, "sd21"))
    yield from timed(bench, "stage2", cfg, restoration(bench, cfg, "sd21"), from_config.photographs(cfg))


def dit4sr_sd35(bench: Bench) -> Iterator[Row]:
    """The shipped experiment, on one GPU, with one text for all."""
    words = ["experiment=dit4sr_sd35", "model.texts=null", *small(bench, "dit4sr")]
    cfg = configured(bench, "stage2", bench.device.type, *words)
    yield from timed(bench, "stage2", cfg, restoration(bench, cfg, "dit4sr"), from_config.photographs(cfg))


def stage1_deedsr(bench: Bench) -> Iterator[Row]:
    """The shipped experiment, on one GPU."""
    tiny = ["batch=2", "crop=128", "encoder.size=small"] if bench.tiny else []
    words = ["experiment=stage1_deedsr", "trainer.sync_batchnorm=false", "data.workers=8", *tiny]
    cfg = configured(bench, "stage1", bench.device.type, *words)
    yield from timed(bench, "stage1", cfg, learner(cfg), importlib.import_module(LEARNER).photographs(cfg))


def distilling(bench: Bench) -> Iterator[Row]:
    """The shipped experiment, on one GPU, without the terms that need weights from elsewhere."""
    size = TINY["sd21"] if bench.tiny else "sd21"
    words = ["experiment=distill_sd21", f"init={size}", *small(bench)]
    words += [f"objective.fidelity.{term}=0" for term in ("perceptual", "structure")]
    cfg = configured(bench, "distill", bench.device.type, *words)
    model = restoration_model(bench, cfg, "sd21")
    model.defaults = changed(model.defaults, plain(cfg.model.defaults))
    yield from timed(bench, "distill", cfg, student_run(cfg, model), from_config.photographs(cfg))


def small(bench: Bench, size: str | None = None) -> list[str]:
    """Words that make a run tiny, its model too where its `size` is given, if the suite is."""
    if not bench.tiny:
        return []
    return ["batch=2", "crop=128", *([] if size is None else [f"model.size={TINY[size]}"])]


def restoration(bench: Bench, cfg: DictConfig, size: str) -> Run:
    """The run of a configuration with random weights."""
    return from_config.restoration_run(cfg, restoration_model(bench, cfg, size))


def restoration_model(bench: Bench, cfg: DictConfig, size: str) -> Any:
    """As `from_config.trainable_model` makes it, but of random weights."""
    model = bench.model(size)
    model.freeze()
    scaling.prepare(model, cfg.frozen_dtype, cfg.recompute, cfg.channels_last, cfg.compile)
    return model


def timed(bench: Bench, primary: str, cfg: DictConfig, run: Run, data: Batches) -> Iterator[Row]:
    """Speed, memory and work of a run's steps, photographs read from the disk and degraded in each."""
    number = 4 if bench.tiny else 10
    cfg.data.workers, watch = (0 if bench.tiny else cfg.data.workers), Watch(bench, count=1, quick=True)
    data.workers = cfg.data.workers
    with Pool(1, os.putenv, ("CUDA_VISIBLE_DEVICES", "")) as others:  # which counts meanwhile
        counted = others.apply_async(needed, (primary, copy.deepcopy(cfg)))
        reset_peak(bench.device)
        train(bench, cfg, run, data, number, watch)
        peak, reserved = peak_memory(bench.device), torch.cuda.max_memory_reserved() if bench.cuda else 0
        yield from speeds(bench, cfg, watch)
        need = counted.get()
        yield Row("counted", f"{need.kernels} kernels a step, {need.waits} waits for the GPU")
        yield memory(bench, peak, reserved, need)


def speeds(bench: Bench, cfg: DictConfig, watch: Watch) -> Iterator[Row]:
    """What was seen of a run, but for its memory."""
    good = math.isfinite(watch.losses[-1]) and math.isfinite(watch.norms[-1])
    yield Row("loss, gradient", f"{watch.losses[-1]:.4g}, {watch.norms[-1]:.4g}", "finite", good)
    laps = sorted(later - one for one, later in zip(watch.ends[2:], watch.ends[3:], strict=False))
    lap = laps[len(laps) // 2]
    yield Row("speed", f"{1 / lap:.2f} steps/s, {cfg.batch / lap:.1f} samples/s (batch {cfg.batch}, crop {cfg.crop})")
    rate, best = watch.flops / lap, matrix_rate(bench.device, torch.bfloat16)
    share = f"{100 * rate / best:.0f} % of a product's"
    yield Row("work", f"{watch.flops / 1e12:.2f} TFLOP a step, {rate / 1e12:.0f} TFLOP/s, {share}")


def memory(bench: Bench, peak: int, reserved: int, need: Need) -> Row:
    """What a GPU gave at most, beside what was said before."""
    text = f"{peak / GIB:.1f} GiB at most, {reserved / GIB:.1f} reserved; forecast {need.allocated / GIB:.1f}, "
    good = not bench.cuda or abs(reserved / need.reserved - 1) <= NEAR
    return Row("memory", f"{text}{need.reserved / GIB:.1f}", f"reserved as forecast, to {100 * NEAR:.0f} %", good)

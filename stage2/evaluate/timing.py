"""Seconds and memory of one restoration, as ratios to something else in the same run."""

from __future__ import annotations

import copy
import importlib
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from deedsr.devices import check_compiler, peak_memory, pick_device
from deedsr.diffusion.process import Process
from deedsr.files import write_json
from deedsr.geometry import SCALE
from deedsr.models import RestorationModel, load_model, random_model
from deedsr.models.deedsr.sizes import model_size
from deedsr.options import DTYPES, Options, one_of
from deedsr.restorer import Restorer
from deedsr.training.command import plain
from stage2.evaluate.rivals import Run, naive, pipeline

RANDOM = "-random"
FORECAST = "stage2.evaluate.memory"
CLEAR = Path("/proc/self/clear_refs")  # Linux: "5" starts the peak of resident memory anew
SUITES = {"gpu": "stage2.evaluate.gpu.suite"}
TOLERANCE = 2 / 255  # mean absolute difference of two outputs


@dataclass
class Timing:
    """Seconds by the clock and of the processor, memory in bytes (a GPU's if there is one), an output.

    peak: with the weights of all that is measured. working: above what was held before a run; on the CPU a lower bound,
    because memory once taken is kept.
    """

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak: int = 0
    working: int = 0
    output: Tensor | None = None

    def summary(self) -> dict[str, Any]:
        return {
            "median_seconds": statistics.median(self.seconds),
            "median_cpu_seconds": statistics.median(self.cpu_seconds),
            "images_per_second": 1 / statistics.median(self.seconds),
            "peak_gigabytes": self.peak / 1e9,
            "working_gigabytes": self.working / 1e9,
            "seconds": self.seconds,
        }


def picture(size: int) -> Tensor:
    """An input (1, 3, size/4, size/4) in [0, 1] of noise at every scale."""
    generator, side = torch.Generator().manual_seed(0), size // SCALE
    image, octave = torch.zeros(1, 3, side, side), 4
    while octave <= side:
        noise = torch.randn(1, 3, octave, octave, generator=generator) / octave
        image += torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic")
        octave *= 2
    return (image + 0.5).clamp_(0, 1)


def models(cfg: DictConfig, device: torch.device) -> tuple[RestorationModel, RestorationModel | None]:
    """The model to measure, in ``cfg.dtype``, and the naive restorer's, in float32, if there is one."""
    dtype = getattr(torch, one_of("dtype", cfg.dtype, DTYPES))
    reference = model_named(cfg.model, device, torch.float32) if cfg.against == "naive" else None
    if reference is not None:
        return copy.deepcopy(reference).to(dtype), reference
    return model_named(cfg.model, device, dtype), None


def model_named(name: str, device: torch.device, dtype: torch.dtype) -> RestorationModel:
    """The model of a name as the command takes it; random weights are drawn on the device: a CPU takes minutes."""
    if not name.endswith(RANDOM):
        return load_model(name, device, dtype)
    default = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)  # so that there is never a float32 copy
    try:
        with device:
            model = random_model(name.removesuffix(RANDOM))
    finally:
        torch.set_default_dtype(default)
    model.process = Process.from_config(model.process.config)  # its levels belong on the CPU
    return model.to(device).requires_grad_(False)


def measure(runs: dict[str, Run], lr: Tensor, device: torch.device, warmup: int, repeats: int) -> dict[str, Timing]:
    """Time runs in turn, so that what slows the machine slows all of them."""
    timings = {name: Timing() for name in runs}
    for _ in range(warmup):
        for run in runs.values():
            run(lr)
    for _ in range(repeats):
        for name, run in runs.items():
            held = reset_peak(device)
            start, cpu = time.perf_counter(), time.process_time()
            timings[name].output = run(lr)  # on the CPU, so all is done
            timings[name].seconds.append(time.perf_counter() - start)
            timings[name].cpu_seconds.append(time.process_time() - cpu)
            timings[name].peak = max(timings[name].peak, peak_memory(device))
            timings[name].working = max(timings[name].working, peak_memory(device) - held)
    return timings


def reset_peak(device: torch.device) -> int:
    """Start the peak anew from what is held now; that, as `peak_memory` counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR.exists():
        CLEAR.write_text("5")
    return peak_memory(device)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product: what the chip gives at best. On the CPU per second of a processor."""
    side, clock = (8192, time.perf_counter) if device.type == "cuda" else (512, time.process_time)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(5):
        start = clock()
        (a @ b)[0, 0].item()
        seconds.append(clock() - start)
    return 2 * side**3 / statistics.median(seconds[2:])


def count(run: Run, lr: Tensor) -> int:
    """FLOPs of one run: matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        run(lr)
    return counter.get_total_flops()


def rival(
    cfg: DictConfig, options: Options, ours: Restorer, reference: RestorationModel | None, device: torch.device
) -> dict[str, Run]:
    """What ``cfg.against`` names, by its name, if anything; ValueError for what there is not."""
    if cfg.against is None:
        return {}
    if reference is not None:
        if options.tile == 0:
            raise ValueError("against=naive works tile by tile: give options.tile a number of pixels, or null")
        return {cfg.against: naive(reference, ours.settings.with_(tile=options.tile), options.seed)}
    if cfg.against == "pipeline":
        if not cfg.model.endswith(RANDOM):
            raise ValueError("against=pipeline needs a model with random weights: model=sd21-random")
        config = model_size(cfg.model.removesuffix(RANDOM))
        return {cfg.against: pipeline(config, ours.settings.steps, device, ours.dtype)}
    try:
        other = Restorer(model_named(cfg.against, device, ours.dtype), options, cfg.compile)
    except ValueError as error:
        raise ValueError(f"against is naive, pipeline or a model ({error})") from None
    if other.settings != ours.settings:
        raise ValueError(f"{cfg.model} samples by {ours.settings}, {cfg.against} by {other.settings}: give options")
    return {cfg.against: other.restore}


def benchmark(cfg: DictConfig) -> dict[str, Any]:
    """Everything measured, as plain values; ValueError for settings that make no sense or outputs that differ."""
    if cfg.size % SCALE or cfg.size < 64:
        raise ValueError(f"size is {cfg.size}; choose a multiple of {SCALE} from 64 on")
    if cfg.repeats < 1:
        raise ValueError(f"repeats is {cfg.repeats}; it must be at least 1")
    device = pick_device(cfg.device)
    if cfg.compile:
        check_compiler(device)
    model, reference = models(cfg, device)
    options = Options(**plain(cfg.options))
    restorer, lr = Restorer(model, options, cfg.compile), picture(cfg.size)
    if not restorer.settings.asked:
        guidance = f"noise guidance {restorer.settings.guidance.weight:g}:{restorer.settings.guidance.steps}"
        raise ValueError(
            f"steps={restorer.settings.steps} with {guidance} never asks the network, so its speed would say nothing: "
            "give more steps, or options.noise_guidance=[0,0]"
        )
    runs: dict[str, Run] = {"ours": restorer.restore, **rival(cfg, options, restorer, reference, device)}
    flops = count(Restorer(model, options).restore, lr) if cfg.flops else None
    timings = measure(runs, lr, device, cfg.warmup, cfg.repeats)
    found: dict[str, Any] = {"settings": plain(cfg), "sampling": str(restorer.settings)}
    found |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": _name(device)}
    found |= {name: timing.summary() for name, timing in timings.items()}
    if flops is not None:
        rate = matrix_rate(device, restorer.dtype)
        achieved = flops / found["ours"]["median_seconds" if device.type == "cuda" else "median_cpu_seconds"]
        found["flops"] = {"per_image": flops, "per_second": achieved, "matrix": rate, "fraction": achieved / rate}
    if cfg.against is not None:
        found["ratio"] = found[cfg.against]["median_seconds"] / found["ours"]["median_seconds"]
        found["cpu_ratio"] = found[cfg.against]["median_cpu_seconds"] / found["ours"]["median_cpu_seconds"]
    if reference is not None:
        ours, theirs = timings["ours"].output, timings["naive"].output
        assert ours is not None and theirs is not None
        found["difference"] = difference(ours, theirs)
    return found


def difference(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Mean and largest absolute difference; ValueError where the mean is above TOLERANCE."""
    apart = (ours - theirs).abs()
    if not (mean := float(apart.mean())) <= TOLERANCE:  # also for NaN
        raise ValueError(f"the outputs differ by {255 * mean:.2f}/255 on average, more than {255 * TOLERANCE:g}/255")
    return {"mean": mean, "max": float(apart.max()), "tolerance_of_mean": TOLERANCE}


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def to_text(found: dict[str, Any]) -> str:
    """What matters, in a few lines."""
    lines = [found["sampling"], f"{found['device']}, {found['threads']} threads, torch {found['torch']}"]
    for name in ("ours", found["settings"]["against"]):
        if name is not None:
            of = found[name]
            lines.append(
                f"{name:<9} {of['median_seconds']:9.3f} s  (processor {of['median_cpu_seconds']:.3f} s), "
                f"{of['images_per_second']:.3f} images/s, peak {of['peak_gigabytes']:.2f} GB, "
                f"{of['working_gigabytes']:.2f} GB of it for the run"
            )
    if "ratio" in found:
        lines.append(f"ratio     {found['ratio']:9.2f}    (of processor seconds {found['cpu_ratio']:.2f})")
    if "difference" in found:
        mean, most = (255 * found["difference"][name] for name in ("mean", "max"))
        lines.append(
            f"outputs differ by {mean:.3f}/255 on average (allowed: {255 * TOLERANCE:g}), at most {most:.1f}/255"
        )
    if "flops" in found:
        of = found["flops"]
        lines.append(
            f"{of['per_image'] / 1e12:.3f} TFLOP an image, {of['per_second'] / 1e12:.3f} TFLOP/s: "
            f"{100 * of['fraction']:.1f} % of a matrix product's {of['matrix'] / 1e12:.3f}"
        )
    return "\n".join(lines) + "\n"


def report(cfg: DictConfig) -> str:
    """`benchmark`, as text, the suite, or with ``memory`` a forecast; ``output`` names a file for what is found."""
    if cfg.suite is not None:
        one_of("suite", cfg.suite, SUITES)
        return importlib.import_module(SUITES[cfg.suite]).report(cfg)
    if cfg.memory:
        return importlib.import_module(FORECAST).report(cfg)
    found = benchmark(cfg)
    if cfg.output is not None:
        write_json(cfg.output, found)
    return to_text(found)

"""What a run will need of a GPU's memory, and what restoring does, counted from tensors without numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from deedsr import models
from deedsr.data.batch import Batch, Crops
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.files import write_json, write_text
from deedsr.geometry import SCALE
from deedsr.models.contract import Text
from deedsr.models.frozen.base import stock
from deedsr.options import DTYPES, Options, one_of
from deedsr.restorer import Restorer
from deedsr.training.command import CONF, plain
from deedsr.training.fake_cuda.device import ENDLESS, fake_cuda
from deedsr.training.fake_cuda.forecast import GIB, Need, forecast, size
from deedsr.training.fake_cuda.mode import CUDA
from deedsr.training.fit import sharded
from deedsr.training.run import Run
from stage2 import from_config
from stage2.base import modules as base
from stage2.base.sizes import base_config
from stage2.distill.student import student_run
from stage2.evaluate.forecasts import Forecast, table
from stage2.vector import Vector

LEARNER = "stage1.from_config"
"""Named, as the commands name their work: the stages don't import each other."""

TOKENS = 333
"""Of a text: 77 of CLIP, 256 of T5."""

ALL = 8
"""GPUs of a machine, where a run takes all of them."""

SHIPPED = {
    "deedsr_sd21": [],
    "deedsr_sd21_24gb": [],
    "deedsr_sd21_authors": [],
    "finetune_pairs_sd21": ["init=sd21"],
    "distill_sd21": ["init=sd21"],
    "dit4sr_sd35": [],
    "dit4sr_sd35_24gb": [],
    "dit4sr_sd35_authors": [],
    "dit4sr_small": [],
    "dit4sr_small_base": [],
    "stage1_deedsr": [],
    "stage1_deedsr_authors": [],
    "built_in_stage1": [],
    "built_in_distill": [],
    "finetune_pairs": [],
    "finetune_photos": [],
}
"""Experiments, but for those that only change a word of another, and what has to be said with them."""

Made = tuple[Run, Batch]


@dataclass(frozen=True)
class Part:
    """A run, or a phase of one: its name and batch, and what makes it where there is a fake GPU."""

    name: str
    batch: int
    make: Callable[[], Made]


def report(cfg: DictConfig) -> str:
    """The forecast for ``experiment``, for ``all`` of them, or without one for restoring; ``output``: a file for it."""
    if cfg.experiment is None and cfg.run is None:
        usual, low = restoring(cfg)
        text = f"restoring to {cfg.size}² with {cfg.model} in {cfg.dtype}: {_peak(usual)}\n"
        text += f"with low_memory: {_peak(low)}\n"
        return _kept(cfg.output, text, {**usual.gigabytes(), "low_memory": low.gigabytes()})
    names = SHIPPED if cfg.experiment == "all" else {cfg.experiment: []}
    found = [one for name, words in names.items() for one in training(cfg, name, words)]
    return _kept(cfg.output, table(found), [{**asdict(one), "need": one.need.gigabytes()} for one in found])


def _kept(file: str | None, text: str, numbers: Any) -> str:
    """`text`, after it, or `numbers`, is written to a file, if one is named."""
    if file and file.endswith(".md"):
        write_text(Path(file), text)
    elif file:
        write_json(file, numbers)
    return text


def training(cfg: DictConfig, experiment: Any, words: list[str]) -> Iterator[Forecast]:
    """What the run of an experiment needs, with activations kept and recomputed where that can be chosen.

    Raises ValueError for what is no run.
    """
    primary, run = configured(cfg.run, experiment, [*words, *typed(cfg.words)])
    own, devices = run.get("recompute"), cfg.trainer.devices or run.trainer.devices
    devices, split = ALL if devices == -1 else devices, sharded(run)
    for recompute in [None] if own is None else [own, not own]:
        if recompute is not None:
            run.recompute = recompute
        for part in PARTS[primary](run):
            need = forecast(run, part.make, part.batch).on(devices, split)
            name = f"{experiment or primary}{part.name}"
            yield Forecast(name, part.batch, recompute, recompute == own, need, devices, split)


def needed(primary: str, run: DictConfig) -> Need:
    """What a step of a run needs on one device."""
    part = PARTS[primary](run)[-1]
    return forecast(run, part.make, part.batch)


def configured(primary: str | None, experiment: Any, words: list[str]) -> tuple[str, DictConfig]:
    """The configuration of a run, and the command whose it is: the one that knows all words of the experiment."""
    names = experiment if isinstance(experiment, str) else f"[{','.join(experiment or ())}]"
    given, error = [f"experiment={names}"] if experiment else [], None
    for name in [primary] if primary else PARTS:
        try:
            if composed(name, given).keys() <= composed(name, []).keys():
                return name, composed(name, [*given, *words])
        except HydraException as refused:
            error = error or refused
    raise ValueError(f"experiment={names} can't be composed: {error or f'run={primary} is another command'}")


def typed(words: DictConfig) -> list[str]:
    """Words with their values, as they are typed."""
    return [f"{name}={_value(value)}" for name, value in plain(words).items()]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_value(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_value, value)) + "]"
    return "null" if value is None else str(value)


def composed(primary: str, words: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()  # what this command was configured with
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(primary, words)


def crops(cfg: DictConfig, model: models.RestorationModel) -> Crops:
    """One sample of stage 2."""
    tile = model.encoder.config().get("tile") if cfg.vector.context else None
    side = Vector(**cfg.vector).side(cfg.crop, tile)
    hr = torch.zeros(3, side, side, dtype=torch.uint8)
    if not model.takes_text or (not OmegaConf.is_missing(cfg.model, "texts") and cfg.model.get("texts") is None):
        return Crops(hr)
    text = model.text("positive")
    return Crops(hr, torch.zeros(TOKENS, text.tokens.shape[-1]), torch.zeros(text.pooled.shape[-1]))


def bare(cfg: DictConfig) -> models.RestorationModel:
    """The model of a configuration with random weights; one that ``init`` names is read."""
    if cfg.model.system == from_config.INIT and cfg.init not in models.SIZES:
        model = from_config.as_it_is(cfg).model
    else:
        words = plain(cfg.model)
        with CUDA:
            if cfg.model.system == from_config.INIT:
                model = models.random_model(cfg.init)
                model.defaults = changed(model.defaults, plain(cfg.model.get("defaults")))
            else:
                model = models.untrained_model(from_config.with_what_is_told(words, Vector(**cfg.vector)))
        model.process = Process.from_config(model.process.config)  # its levels belong on the CPU
    from_config.make_fit(cfg, model)
    return model


def changed(settings: Settings, words: dict[str, Any]) -> Settings:
    """How to sample, with other numbers where a configuration has some."""
    others = Settings.from_dict(words)
    return replace(settings, **{name: getattr(others, name) for name in words})


def stage2_parts(cfg: DictConfig, make_run: Callable[..., Run] = from_config.restoration_run) -> list[Part]:
    def make() -> Made:
        model = bare(cfg)
        return make_run(cfg, model), crops(cfg, model)

    return [Part("", cfg.batch, make)]


def base_parts(cfg: DictConfig) -> list[Part]:
    size, seed = base_config(cfg.size, plain(cfg.overrides)), cfg.seed

    def sample(name: str) -> Crops:
        return Crops(torch.zeros(3, cfg[name].crop, cfg[name].crop, dtype=torch.uint8))

    def autoencoder() -> Made:
        return base.AutoencoderRun(stock(size.vae), cfg.autoencoder, seed), sample("autoencoder")

    def denoiser() -> Made:
        networks = stock(size.denoiser), stock(size.vae)
        return base.DenoiserRun(*networks, size.scheduler, cfg.denoiser, seed), sample("denoiser")

    second = Part(", denoiser", cfg.denoiser.batch, denoiser)
    first = Part(", autoencoder", cfg.autoencoder.batch, autoencoder)
    return [second] if cfg.autoencoder.given else [first, second]


def stage1_parts(cfg: DictConfig) -> list[Part]:
    def make() -> Made:
        hr = torch.zeros(3, cfg.crop, cfg.crop, dtype=torch.uint8)
        return importlib.import_module(LEARNER).degradation_learner(cfg), Crops(hr)

    return [Part("", cfg.batch, make)]


PARTS: dict[str, Callable[[DictConfig], list[Part]]] = {
    "stage2": stage2_parts,
    "distill": lambda cfg: stage2_parts(cfg, student_run),
    "base": base_parts,
    "stage1": stage1_parts,
}
"""Commands that train, by the names of their configurations."""


def restoring(cfg: DictConfig) -> list[Need]:
    """What restoring one picture needs, without and with ``low_memory``."""
    dtype, name = getattr(torch, one_of("dtype", cfg.dtype, DTYPES)), cfg.model.removesuffix("-random")
    default = torch.get_default_dtype()
    with fake_cuda(ENDLESS) as gpu:
        torch.set_default_dtype(dtype)
        try:
            if name in models.SIZES:
                with CUDA:
                    model = models.random_model(name).requires_grad_(False)
                model.process = Process.from_config(model.process.config)
            else:
                model = models.load_model(name, CUDA, dtype)
        finally:
            torch.set_default_dtype(default)
        if model.takes_text:
            tell(model)
        found, options, side = [], Options(**plain(cfg.options)), cfg.size // SCALE
        for low_memory in (False, True):
            restorer = Restorer(model, options, device=CUDA, low_memory=low_memory)
            gpu.memory.reset_peak()
            restorer.restore(torch.zeros(1, 3, side, side))
            parts = model.phases().values() if low_memory else [[model]]
            held = max(sum(size(module.parameters()) for module in part) for part in parts)
            found.append(Need(held, 0, 0, 0, gpu.memory.peak_allocated, gpu.memory.peak_reserved))
        return found


def tell(model: models.RestorationModel) -> None:
    """Give a model a text of all its tokens, so that it is guided by it."""
    text = model.text("positive")
    with CUDA:
        full = Text(torch.zeros(1, TOKENS, text.tokens.shape[-1]), torch.zeros_like(text.pooled))
    model.set_texts(full, full)


def _peak(need: Need) -> str:
    return f"{need.allocated / GIB:.1f} GiB of tensors at most, {need.reserved / GIB:.1f} taken from the device"

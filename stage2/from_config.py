"""A run of stage 2, from its configuration: its parts, and training with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from deedsr import models, weights
from deedsr.models.deedsr.folder import DEEDSR, encoder_of
from deedsr.models.resolver import model_place, reference
from deedsr.models.system import ADAPTER, HEADER, load_trained, trained_tensors
from deedsr.training.command import plain
from deedsr.training.fit import finished, fit
from deedsr.training.photographs import Batches, Photographs
from deedsr.training.recipe import recipe
from stage2 import scaling
from stage2.cache.samples import Cached
from stage2.module import NULL, RestorationRun
from stage2.objective import Fidelity, Objective
from stage2.texts.embedded import Texts
from stage2.vector import Vector
from stage2.watchers import watchers

INIT = "init"
"""Instead of a system in a configuration's model: it is the whole one of ``init``."""


def origin(cfg: DictConfig) -> dict[str, Any]:
    """What the samples of a run are made of, but for its photographs; the shards of a cache say the same."""
    words = cfg.recipe if isinstance(cfg.recipe, str) else plain(cfg.recipe)
    folder = cfg.model.get("texts")
    numbers = {name: cfg[name] for name in ("crop", "enlarge", "seed", *(["null_text"] if folder else []))}
    vector = {"context": cfg.vector.context} if cfg.vector.context else {}
    numbers["usm"] = cfg.usm
    base = cfg.init if cfg.model.system == INIT else cfg.model.base
    return {"base": reference(base), "recipe": words, "texts": folder, **numbers, **vector}


def trainable_model(cfg: DictConfig) -> models.TrainableModel:
    """The model of a configuration, its trainable parameters initialised from its seed, or from ``cfg.init``."""
    trainable = as_it_is(cfg) if cfg.model.system == INIT else newly_built(cfg)
    model = trainable.model
    if any(cfg.vector.values()) and not model.takes_vector:
        raise ValueError(f"vector={dict(cfg.vector)} is for models that take a degradation vector: leave it out")
    if cfg.crop % model.size.multiple:
        raise ValueError(f"crop must be a multiple of {model.size.multiple} with this model, not {cfg.crop}")
    make_fit(cfg, model)
    return trainable


def make_fit(cfg: DictConfig, model: models.RestorationModel) -> None:
    """Hold and compute `model` as a configuration says. Raises ValueError for storage in another precision."""
    scaling.prepare(model, cfg.frozen_dtype, cfg.recompute, cfg.channels_last, cfg.compile)
    if cfg.frozen_dtype == "bfloat16" and cfg.trainer.precision != "bf16-mixed":
        raise ValueError(f"frozen_dtype=bfloat16 needs trainer.precision=bf16-mixed, not {cfg.trainer.precision}")


def as_it_is(cfg: DictConfig) -> models.TrainableModel:
    """The whole model of ``cfg.init``. Raises ValueError where there is none."""
    if not cfg.init:
        raise ValueError("model=init is the model of init=…: name a model folder, a checkpoint, or built-in")
    return models.further(cfg.init, plain(cfg.model.get("defaults")), cfg.model.get("lora_rank", 0), cfg.seed)


def newly_built(cfg: DictConfig) -> models.TrainableModel:
    """A model of the configuration's parts; what is trained may start as that of ``cfg.init``."""
    words, start = plain(cfg.model), model_place(cfg.init) if cfg.init else None
    tensors = trained_tensors(start) if start else {}
    words = with_what_is_told(words, Vector(**cfg.vector), tensors)
    try:
        trainable = models.trainable_model(words, cfg.seed)
        if start:
            source = start / ADAPTER if start.is_dir() else start
            load_trained(trainable.model, tensors, source, fresh=trainable.model.additions())
    except ValueError as error:
        way = f"; or say model=init, which is the whole model of init={cfg.init}" if start else ""
        raise ValueError(f"{error}{way}") from None
    return trainable


def with_what_is_told(words: dict[str, Any], vector: Vector, tensors: Iterable[str] = ()) -> dict[str, Any]:
    """The words of a model, with the null vector that a run trains, or that its start has in `tensors`.

    Raises ValueError for a system that has none.
    """
    if not vector.dropout and NULL not in tensors:
        return words
    if words["system"] != DEEDSR.name:
        raise ValueError(f"vector.dropout is for models that take a degradation vector, not for {words['system']}")
    overrides = words["overrides"]
    return {**words, "overrides": {**overrides, "adapter": {**overrides.get("adapter", {}), "null": True}}}


def degraded_side(cfg: DictConfig) -> int:
    """HR pixels of the pictures that a configuration degrades: of the network's crop, or of what is around it."""
    vector = Vector(**cfg.vector)
    if not vector.context:
        return cfg.crop
    encoder = encoder_of(model_place(cfg.init)) if cfg.model.system == INIT else cfg.model.get("encoder")
    return vector.side(cfg.crop, None if encoder is None else weights.header(Path(encoder)).get("tile"))


def texts(cfg: DictConfig) -> Texts | None:
    """The photographs' texts, if the configuration has some."""
    folder = cfg.model.get("texts")
    return Texts(Path(folder), cfg.null_text) if folder else None


def restoration_run(cfg: DictConfig, model: models.RestorationModel | None = None) -> RestorationRun:
    """The run of a configuration, with `model`, or the one that `trainable_model` gives."""
    model = model or trainable_model(cfg).model
    options = cfg.objective
    fidelity = Fidelity(**options.fidelity) if options.fidelity else None
    objective = Objective(options.min_snr, options.time_bias, fidelity, options.rollout, options.weight)
    return RestorationRun(objective=objective, **run_words(cfg, model))


def run_words(cfg: DictConfig, model: models.RestorationModel) -> dict[str, Any]:
    """Arguments of `RestorationRun` that are the same for all kinds of runs."""
    vector = Vector(**cfg.vector)
    numbers = {name: cfg[name] for name in ("steps", "ema", "seed", "crop", "usm", "only")}
    return {"model": model, "recipe": recipe(cfg.recipe), "optimizer": cfg.optimizer, "vector": vector, **numbers}


def batches(cfg: DictConfig) -> Batches:
    """What a configuration trains on: photographs, or samples that were made of them."""
    if cfg.cache:
        return Cached(Path(cfg.cache), origin(cfg), cfg.batch, cfg.data.workers, cfg.objective.fidelity is not None)
    return photographs(cfg)


def photographs(cfg: DictConfig) -> Photographs:
    """The photographs of a configuration."""
    numbers = {name: cfg[name] for name in ("batch", "seed", "enlarge")}
    return Photographs(crop=degraded_side(cfg), text=texts(cfg), **numbers, **cfg.data)


class ModelFolder(pl.Callback):
    """Writes the model folder, with the averaged parameters, whenever a checkpoint is saved; it gets the header too."""

    def __init__(self, folder: Path, trainable: models.TrainableModel) -> None:
        self.folder, self.trainable = folder, trainable

    def on_save_checkpoint(self, trainer: pl.Trainer, run: pl.LightningModule, checkpoint: dict) -> None:
        checkpoint[HEADER] = self.trainable.header
        tensors = run.average.whole()
        if trainer.is_global_zero:
            self.trainable.save(self.folder, tensors)


def train(
    cfg: DictConfig, make_run: Callable[[DictConfig, models.RestorationModel], RestorationRun] = restoration_run
) -> Path:
    """Trains what `make_run` gives to ``cfg.steps``; returns the model folder. A finished run is left alone."""
    output = Path(cfg.output)
    folder = output / "model"
    data = batches(cfg)
    if finished(cfg, data, output, cfg.steps, folder / ADAPTER):
        return folder
    trainable = trainable_model(cfg)
    callbacks: list[pl.Callback] = [ModelFolder(folder, trainable), *watchers(cfg, data, trainable, output)]
    fit(cfg, make_run(cfg, trainable.model), data, output, cfg.steps, callbacks, folder)
    return folder

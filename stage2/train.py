"""Train stage 2: the adapter, the modulations and every attn2 on a frozen base.

    python -m stage2.train data.roots=[PHOTOS]                # the small model
    python -m stage2.train data.roots=[PHOTOS] model=sd21     # Stable Diffusion 2.1
    python -m stage2.train data.roots=[PHOTOS] init=FOLDER    # from the trained part of a model folder

``output/model`` is a model folder for `deedsr restore --model`. Run the same command again to go on where a broken-off
run stopped.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from deedsr import weights
from deedsr.degradation import Mixture, Recipe
from deedsr.models.folder import ADAPTER, ENCODER, HEADER, Header, assemble, load_encoder, save_adapter
from deedsr.models.presets import DeeDSRConfig, preset
from deedsr.models.resolver import DIFFUSERS_LAYOUT, resolve
from stage2 import scaling
from stage2.module import RestorationRun
from stage2.objective import Fidelity, Objective
from stage2.run import Crops, command, finished, fit
from stage2.samples import Cached
from stage2.validation import Validation

log = logging.getLogger(__name__)


class ModelFolder(pl.Callback):
    """Writes the model folder, with the averaged parameters, whenever a checkpoint is saved; it gets the header too."""

    def __init__(self, folder: Path, cfg: DictConfig) -> None:
        self.folder, self.cfg = folder, cfg

    def on_save_checkpoint(self, trainer: pl.Trainer, run: pl.LightningModule, checkpoint: dict) -> None:
        size = sized(self.cfg)
        header = Header(base_reference(self.cfg), size.adapter, size.sft_hidden, size.defaults)
        checkpoint[HEADER] = {**header.config(), "encoder": str(Path(self.cfg.model.encoder).resolve())}
        tensors = run.average.whole()
        if trainer.is_global_zero:
            encoder = run.model.encoder
            weights.save(self.folder / ENCODER, encoder.state_dict(), encoder.config())
            save_adapter(self.folder / ADAPTER, tensors, header)


def sized(cfg: DictConfig) -> DeeDSRConfig:
    """The numbers of a configuration; the rest of its preset is read from the base's and the encoder's files."""
    return preset(cfg.model.size, OmegaConf.to_container(cfg.model.overrides), ("adapter", "sft_hidden", "defaults"))


def base_reference(cfg: DictConfig) -> str:
    """The base's hub id, or its whole path."""
    base = Path(cfg.model.base)
    return str(base.resolve()) if base.exists() else cfg.model.base


def origin(cfg: DictConfig) -> dict[str, Any]:
    """What the samples of a run are made of, but for its photographs; the shards of a cache say the same."""
    recipe = cfg.recipe if isinstance(cfg.recipe, str) else OmegaConf.to_container(cfg.recipe, resolve=True)
    return {"base": base_reference(cfg), "recipe": recipe, "crop": cfg.crop, "seed": cfg.seed}


def build(cfg: DictConfig) -> RestorationRun:
    """The run of a configuration, its fresh parts initialised from its seed."""
    size = sized(cfg)
    encoder = load_encoder(Path(cfg.model.encoder))
    base = resolve(cfg.model.base, files=DIFFUSERS_LAYOUT)
    torch.manual_seed(cfg.seed)
    model = assemble(base, encoder, size.adapter, size.sft_hidden, size.defaults)
    if cfg.init:
        start = Path(cfg.init) / ADAPTER
        model.load_trained(weights.load(start).tensors, start)
    if cfg.crop % model.size.multiple:
        raise ValueError(f"crop must be a multiple of {model.size.multiple} with this model, not {cfg.crop}")
    scaling.prepare(model, cfg.frozen_dtype, cfg.recompute, cfg.channels_last, cfg.compile)
    if cfg.frozen_dtype == "bfloat16" and cfg.trainer.precision != "bf16-mixed":
        raise ValueError(f"frozen_dtype=bfloat16 needs trainer.precision=bf16-mixed, not {cfg.trainer.precision}")
    options = cfg.objective
    fidelity = Fidelity(**options.fidelity) if options.fidelity else None
    recipe = Recipe.level(cfg.recipe) if isinstance(cfg.recipe, str) else hydra.utils.instantiate(cfg.recipe)
    assert isinstance(recipe, Recipe | Mixture)
    objective = Objective(options.min_snr, options.time_bias, fidelity, options.rollout, options.weight)
    return RestorationRun(model, recipe, objective, cfg.optimizer, cfg.steps, cfg.ema, cfg.seed)


def train(cfg: DictConfig) -> Path:
    """Trains to ``cfg.steps``; returns the model folder. A run that has taken all its steps is left alone."""
    output = Path(cfg.output)
    if finished(output, cfg.steps, output / "model" / ADAPTER):
        return output / "model"
    if cfg.cache:
        data = Cached(Path(cfg.cache), origin(cfg), cfg.batch, cfg.data.workers, cfg.objective.fidelity is not None)
    else:
        data = Crops(cfg.data, cfg.crop, cfg.batch, cfg.seed)
    run = build(cfg)
    callbacks = [ModelFolder(output / "model", cfg)]
    if cfg.validation:
        callbacks.append(Validation(**cfg.validation))
    fit(cfg, run, data, output, cfg.steps, callbacks)
    log.info("the model is in %s", output / "model")
    return output / "model"


@hydra.main(version_base="1.3", config_path="../conf", config_name="stage2")
def main(cfg: DictConfig) -> None:
    command(train, cfg)


if __name__ == "__main__":
    main()

"""Both phases of pre-training a small base, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from deedsr.models.frozen.base import PART, Base, stock, write_part, write_scheduler
from deedsr.training.command import plain
from deedsr.training.fit import check, finished, fit
from deedsr.training.photographs import Photographs
from deedsr.training.record import LAST, move_aside
from stage2.base.modules import AutoencoderRun, DenoiserRun
from stage2.base.sizes import BaseConfig, base_config


class Part(pl.Callback):
    """Does `write` beside each checkpoint: the base has what a phase has come to."""

    def __init__(self, write: Callable[[], None]) -> None:
        self.write = write

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if trainer.is_global_zero:
            self.write()


def train_autoencoder(cfg: DictConfig, size: BaseConfig, output: Path) -> Path | None:
    """Phase 1; the scaling factor, 1/rms of the latents, goes into the autoencoder's configuration.

    Returns the folder of an autoencoder that a denoiser can learn on; None after a stop before its last step. One that
    is given is copied. Raises ValueError where it would replace one that a denoiser has learned on.
    """
    vae, dry = output / "base" / "vae", bool(cfg.trainer.get("fast_dev_run"))
    if cfg.autoencoder.given:
        given = Path(cfg.autoencoder.given)
        if not dry and not same_part(given, vae):
            keep(output)
            base = Base.open(given.parent)
            write_part(vae, base.tensors(given.name), base.config(given.name))
        return given
    crops = photographs(cfg, "autoencoder")
    cfg, folder = phase(cfg, "autoencoder"), output / "autoencoder"
    if finished(cfg, crops, folder, cfg.autoencoder.steps, vae / PART):
        return vae
    keep(output)
    torch.manual_seed(cfg.seed)
    run = AutoencoderRun(stock(size.vae), cfg.autoencoder, cfg.seed)

    def write() -> None:
        write_part(vae, run.vae.state_dict(), {**size.vae, "scaling_factor": run.scaling_factor()})

    trainer = fit(cfg, run, crops, folder, cfg.autoencoder.steps, [Part(write)], vae)
    return vae if not dry and trainer.global_step >= cfg.autoencoder.steps else None


def photographs(cfg: DictConfig, name: str) -> Photographs:
    """Those that the phase `name` learns from."""
    return Photographs(crop=cfg[name].crop, batch=cfg[name].batch, seed=cfg.seed, **cfg.data)


def phase(cfg: DictConfig, name: str) -> DictConfig:
    """The configuration of a phase, without that of the other one."""
    other = {"autoencoder": "denoiser", "denoiser": "autoencoder"}[name]
    return OmegaConf.masked_copy(cfg, [str(word) for word in cfg if word != other])


def same_part(one: Path, other: Path) -> bool:
    """Whether the folder `other` is there and holds the weights and the scaling factor of `one`."""
    if not (other / PART).is_file():
        return False
    scales = [Base.open(folder.parent).config(folder.name).get("scaling_factor") for folder in (one, other)]
    tensors, there = (Base.open(folder.parent).tensors(folder.name) for folder in (one, other))
    equal = tensors.keys() == there.keys() and all(torch.equal(tensors[name], there[name]) for name in tensors)
    return equal and scales[0] == scales[1]


def keep(output: Path) -> None:
    """Raises ValueError where a denoiser has learned on the autoencoder in `output`."""
    if (denoiser := output / "denoiser").is_dir():
        raise ValueError(
            f"{denoiser} was trained on the autoencoder in {output / 'base'}, which this would replace: take another "
            "output=…, or delete that folder to train it anew"
        )


def train_denoiser(cfg: DictConfig, size: BaseConfig, output: Path, autoencoder: Path) -> None:
    """Phase 2, on the frozen autoencoder of phase 1: the text is one zero token."""
    part = output / "base" / size.part
    crops = photographs(cfg, "denoiser")
    cfg, folder = phase(cfg, "denoiser"), output / "denoiser"
    if finished(cfg, crops, folder, cfg.denoiser.steps, part / PART):
        return
    torch.manual_seed(cfg.seed)
    denoiser, vae = stock(size.denoiser), Base.open(autoencoder.parent).load(autoencoder.name)
    run = DenoiserRun(denoiser, vae, size.scheduler, cfg.denoiser, cfg.seed)

    def write() -> None:
        write_scheduler(output / "base", size.scheduler)
        write_part(part, run.averaged(), size.denoiser)

    fit(cfg, run, crops, folder, cfg.denoiser.steps, [Part(write)], part)


def train(cfg: DictConfig) -> Path:
    """Both phases; returns the folder of the base. What is finished already is left alone."""
    output = Path(cfg.output)
    if cfg.ckpt_path:
        raise ValueError(f"ckpt_path={cfg.ckpt_path} can't be heeded here: a base has two phases, each with its own")
    check(cfg)
    size = base_config(cfg.size, plain(cfg.overrides))
    if cfg.resume == "never" and not cfg.trainer.get("fast_dev_run"):
        if any((output / name / LAST).is_file() for name in ("autoencoder", "denoiser")):
            for name in ("autoencoder", "denoiser"):
                photographs(cfg, name)  # they may be refused
            move_aside(output)
        cfg = cfg.copy()
        cfg.resume = "auto"
    autoencoder = train_autoencoder(cfg, size, output)
    if autoencoder is not None:
        train_denoiser(cfg, size, output, autoencoder)
    return output / "base"

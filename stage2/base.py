"""Pre-train the small base: the autoencoder, then the unconditional denoiser on its latents.

    python -m stage2.base data.roots=[PHOTOS]

The base is written to ``output/base`` in diffusers' layout (vae/, unet/, scheduler/). Stable Diffusion comes
pre-trained: it does not need this run. Run the same command again to go on where a broken-off run stopped.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from deedsr import weights
from deedsr.models.build import stock
from deedsr.models.presets import preset
from stage2.base_modules import AutoencoderRun, DenoiserRun
from stage2.run import Crops, fit

log = logging.getLogger(__name__)


def write_part(folder: Path, module: torch.nn.Module, config: dict) -> None:
    """`module` as diffusers writes it: ``config.json`` and ``diffusion_pytorch_model.safetensors``."""
    weights.save(folder / "diffusion_pytorch_model.safetensors", module.state_dict())
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def train_autoencoder(cfg: DictConfig, output: Path) -> dict:
    """Phase 1; returns the configuration of the trained autoencoder, its own scaling factor (1/rms) in it."""
    vae_config = preset(cfg.size).vae
    torch.manual_seed(cfg.seed)
    run = AutoencoderRun(stock(vae_config), cfg.autoencoder, cfg.seed)
    crops = Crops(cfg.data, cfg.autoencoder.crop, cfg.autoencoder.batch, cfg.seed)
    fit(cfg, run, crops, output / "autoencoder", cfg.autoencoder.steps)
    vae_config["scaling_factor"] = run.scaling_factor()
    write_part(output / "base" / "vae", run.vae, vae_config)
    return vae_config


def train_denoiser(cfg: DictConfig, output: Path, vae_config: dict) -> None:
    """Phase 2, on the frozen autoencoder of phase 1: every cross-attention sees one zero token."""
    size = preset(cfg.size)
    torch.manual_seed(cfg.seed)
    vae = stock(vae_config)
    file = output / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.load_strict(vae, weights.load(file).tensors, file)
    run = DenoiserRun(stock(size.unet), vae, size.scheduler, cfg.denoiser, cfg.seed)
    crops = Crops(cfg.data, cfg.denoiser.crop, cfg.denoiser.batch, cfg.seed)
    fit(cfg, run, crops, output / "denoiser", cfg.denoiser.steps)
    write_part(output / "base" / "unet", run.averaged(), size.unet)
    scheduler = output / "base" / "scheduler"
    scheduler.mkdir(parents=True, exist_ok=True)
    (scheduler / "scheduler_config.json").write_text(json.dumps(size.scheduler, indent=2) + "\n", encoding="utf-8")


def train(cfg: DictConfig) -> Path:
    """Both phases; returns the folder of the finished base."""
    output = Path(cfg.output)
    output.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    train_denoiser(cfg, output, train_autoencoder(cfg, output))
    log.info("the base is in %s", output / "base")
    return output / "base"


@hydra.main(version_base="1.3", config_path="../conf", config_name="base")
def main(cfg: DictConfig) -> None:
    train(cfg)


if __name__ == "__main__":
    main()

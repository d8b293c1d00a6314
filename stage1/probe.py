"""Tests what an encoder has learned: ``python -m stage1.probe weights=encoder.safetensors data.roots=[FOLDER]``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.photos import PhotoCrops, list_photos
from deedsr.degradation import Recipe
from deedsr.encoder.network import DegradationEncoder
from deedsr.encoder.probes import probe


def crops(cfg: DictConfig, split: str | None, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` crops of each photograph of a split: uint8 (N, 3, S, S), and which photograph each is of, (N,)."""
    images, photo = [], []
    for number, file in enumerate(list_photos(cfg.data.roots, split)):
        stream = PhotoCrops([file], cfg.crop, cfg.seed + number, count, cache=True)
        images += [stream.crop(0, sample) for sample in range(count)]
        photo += [number] * count
    return torch.stack(images), torch.tensor(photo)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Probes of the encoder in `cfg.weights` and, for comparison, of the same network untrained.

    Raises ValueError for weights or photographs that can't be used.
    """
    stored = weights.load(cfg.weights)
    torch.manual_seed(cfg.seed)
    encoder = DegradationEncoder(**stored.config)
    fit, _ = crops(cfg, cfg.fit.split, cfg.fit.crops)
    test, photo = crops(cfg, cfg.test.split, cfg.test.crops)
    recipe = Recipe.level(cfg.recipe)
    untrained = probe(encoder, fit, test, photo, recipe, cfg.seed)
    weights.load_strict(encoder, stored.tensors, cfg.weights)
    trained = probe(encoder, fit, test, photo, recipe, cfg.seed)
    settings = {"weights": str(cfg.weights), "crop": cfg.crop, "fit": len(fit), "test": len(test), "recipe": cfg.recipe}
    return {**settings, "trained": asdict(trained), "untrained": asdict(untrained)}


@hydra.main(config_path="../conf", config_name="probe", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """The command line: prints the table as JSON, and writes it where `output` names a file."""
    try:
        text = json.dumps(run(cfg), indent=2) + "\n"
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(text)
    if cfg.output:
        Path(cfg.output).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

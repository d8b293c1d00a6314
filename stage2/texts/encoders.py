"""Texts through the text encoders of a base, and writing that down."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from deedsr import weights
from deedsr.devices import pick_device
from deedsr.models.contract import Text
from deedsr.models.resolver import resolve
from deedsr.models.sd3.encoders import FILES, KINDS, joined, load
from deedsr.models.sd3.prompts import TEXTS
from deedsr.options import DTYPES, one_of
from deedsr.training.pace import paced
from stage2.texts.embedded import NULL

log = logging.getLogger(__name__)


def write(cfg: DictConfig) -> Path:
    """Write the embeddings that are missing; returns their folder."""
    folder, captions = Path(cfg.texts), Path(cfg.captions)
    files = sorted(captions.glob("*.txt"))
    if not files:
        raise ValueError(
            f"{captions}: holds no texts; make them with `python -m stage2.texts.captions captions={captions}`"
        )
    missing = [file for file in files if not (folder / "stems" / f"{file.stem}.safetensors").is_file()]
    place, device = resolve(cfg.base, None, FILES), pick_device(cfg.device)
    dtype = getattr(torch, one_of("dtype", cfg.dtype, DTYPES))
    encoders = [load(place, number, cfg.tokens, device, dtype) for number in KINDS]

    def embedded(text: str) -> Text:
        return joined([part for encoder in encoders for part in encoder(text)])

    fixed = {NULL: "", "positive": cfg.positive, "negative": cfg.negative}
    named = {name: vars(embedded(text)) for name, text in fixed.items()}
    tensors = {f"{name}.{part}": tensor for name, text in named.items() for part, tensor in text.items()}
    weights.save(folder / TEXTS, tensors, fixed)
    for file in paced(missing, "texts"):
        text: dict[str, Tensor] = vars(embedded(file.read_text(encoding="utf-8").strip()))
        single = {part: tensor[0] for part, tensor in text.items()}
        weights.save(folder / "stems" / f"{file.stem}.safetensors", single)
    log.info("%s: %d texts, %d of them new", folder, len(files), len(missing))
    return folder

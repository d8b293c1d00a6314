"""Texts through the text encoders of a base, and writing that down."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from omegaconf import DictConfig
from torch import Tensor

from deedsr import weights
from deedsr.devices import pick_device
from deedsr.models.sd3.folder import TEXTS
from deedsr.options import DTYPES, one_of
from deedsr.training.pace import paced
from stage2.texts.embedded import NULL

log = logging.getLogger(__name__)

TOKENS = 77  # of T5 too, in training and in sampling


def encoders(base: str, device: torch.device, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """The text encoders of `base` alone. Raises ValueError for a base that has none."""
    absent = dict.fromkeys(("transformer", "vae", "image_encoder", "feature_extractor"))
    try:
        pipe = StableDiffusion3Pipeline.from_pretrained(base, **absent, torch_dtype=dtype)
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(f"{base}: its text encoders can't be had ({str(error).strip().splitlines()[0]})") from None
    return pipe.to(device)


@torch.inference_mode()
def embedded(pipe: StableDiffusion3Pipeline, text: str) -> dict[str, Tensor]:
    """tokens (1, 2·77, D), pooled (1, P), on the CPU."""
    words = {"prompt": text, "prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False}
    tokens, _, pooled, _ = pipe.encode_prompt(**words, max_sequence_length=TOKENS)
    return {"tokens": tokens.cpu(), "pooled": pooled.cpu()}


def write(cfg: DictConfig) -> Path:
    """Write the embeddings that are missing; returns their folder."""
    folder, captions = Path(cfg.texts), Path(cfg.captions)
    files = sorted(captions.glob("*.txt"))
    if not files:
        raise ValueError(
            f"{captions}: holds no texts; make them with `python -m stage2.texts.captions captions={captions}`"
        )
    missing = [file for file in files if not (folder / "stems" / f"{file.stem}.safetensors").is_file()]
    pipe = encoders(cfg.base, pick_device(cfg.device), getattr(torch, one_of("dtype", cfg.dtype, DTYPES)))
    fixed = {NULL: "", "positive": cfg.positive, "negative": cfg.negative}
    named = {name: embedded(pipe, text) for name, text in fixed.items()}
    tensors = {f"{name}.{part}": tensor for name, text in named.items() for part, tensor in text.items()}
    weights.save(folder / TEXTS, tensors, fixed)
    for file in paced(missing, "texts"):
        text = embedded(pipe, file.read_text(encoding="utf-8").strip())
        single = {part: tensor[0] for part, tensor in text.items()}
        weights.save(folder / "stems" / f"{file.stem}.safetensors", single)
    log.info("%s: %d texts, %d of them new", folder, len(files), len(missing))
    return folder

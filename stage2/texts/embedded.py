"""Embedded texts of photographs, as `stage2.texts.embed` writes: ``stems/STEM.safetensors``, ``texts.safetensors``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from deedsr import weights
from deedsr.data.members import Photo
from deedsr.models.sd3.prompts import TEXTS

NULL = "null"


def stem_of(photo: Photo) -> str:
    """The name of a photograph without folder and ending."""
    return Path(str(photo)).stem


class Texts:
    """Gives a photograph its text, ``tokens`` (T, D) and ``pooled`` (P,), or the empty one for a `null` share.

    Raises ValueError for a text that is not there.
    """

    def __init__(self, folder: Path, null: float) -> None:
        self.folder, self.share = folder, null
        stored = weights.load(folder / TEXTS).tensors
        if f"{NULL}.tokens" not in stored:
            raise ValueError(
                f"{folder / TEXTS}: has no empty text; make it with `python -m stage2.texts.embed texts={folder}`"
            )
        self.null = {part: stored[f"{NULL}.{part}"][0] for part in ("tokens", "pooled")}

    def __call__(self, photo: Photo, generator: torch.Generator) -> dict[str, Tensor]:
        if torch.rand((), generator=generator) < self.share:
            return self.null
        file = self.folder / "stems" / f"{stem_of(photo)}.safetensors"
        if not file.is_file():
            raise ValueError(
                f"{photo}: has no text ({file}); run `python -m stage2.texts.captions` and "
                "`python -m stage2.texts.embed` again"
            )
        return weights.load(file).tensors

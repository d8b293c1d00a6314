"""Semantic fidelity: whether output and ground truth show the same things, by CLIP's image embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deedsr.metrics.loading import load, missing_weights, require
from deedsr.metrics.perceptual import Scorer
from deedsr.pictures.picture import Picture


@dataclass(frozen=True)
class ClipModel:
    """A model of open_clip.

    name: as ``ViT-B-32``; or ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``, which bring weights with them. weights: a
    published tag or a local file.
    """

    name: str = "ViT-B-32"
    weights: str | None = "laion2b_s34b_b79k"

    @property
    def label(self) -> str:
        """How reports name the model."""
        return self.name if ":" in self.name or not self.weights else f"{self.name} {Path(self.weights).name}"


def load_semantic(clip: ClipModel, device: torch.device | str = "cpu", download: bool = False) -> Scorer:
    """Cosine similarity in [-1, 1] of the image embeddings of output and ground truth, 1 where they are equal.

    Each picture goes through the model's preprocessing (resize of the short side, centre crop, normalisation).
    Raises Unavailable where open_clip or the weights are missing, are not complete, or don't fit.
    """
    model, preprocess = load(
        f"CLIP similarity ({clip.label})", "open_clip", (), lambda: _build(clip, download), download
    )
    model.to(device).eval()

    def embed(image: Tensor) -> Tensor:
        pixels = preprocess(Picture(image.cpu()).to_pil()).unsqueeze(0)
        return nn.functional.normalize(model.encode_image(pixels.to(device)).float(), dim=-1)

    def score(image: Tensor, reference: Tensor | None) -> float:
        with torch.no_grad():
            return float((embed(image) * embed(reference)).sum())

    return score


def _build(clip: ClipModel, download: bool) -> tuple[nn.Module, Callable]:
    """The model, and its preprocessing of a Pillow image."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    weights = None if ":" in clip.name else clip.weights
    if weights and not download:
        require(_missing(clip.name, weights))
    model = open_clip.create_model(clip.name, weights, require_pretrained=True, weights_only=True)
    return model, image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)


def _missing(name: str, weights: str) -> list[str]:
    """What a published tag would have to fetch; nothing for a local file."""
    from open_clip.pretrained import get_pretrained_cfg

    tag = get_pretrained_cfg(name, weights)
    if not tag:
        return []
    if not tag.get("hf_hub"):
        file = Path("~/.cache/clip").expanduser() / Path(tag["url"]).name
        return [] if file.is_file() else [str(file)]
    repository, _, leaf = tag["hf_hub"].rpartition("/")
    leaves = [leaf] if leaf else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    found = [leaf for leaf in leaves if not missing_weights((f"hub:{repository}/{leaf}",))]
    return [] if found else missing_weights((f"hub:{repository}/{leaves[-1]}",))

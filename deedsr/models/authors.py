"""How the authors of both systems restore, as sampling presets, and why our defaults differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, is_dataclass
from typing import Any

from deedsr.diffusion.sampler import Settings

DEEDSR: dict[str, Any] = {
    "sampler": "ddim",
    "steps": 50,
    "eta": 1.0,
    "spacing": "leading",
    "guidance": [1.0, 1],
    "colour": "none",
    "tile": 1024,
    "overlap": 224,
    "margin": 0,
    "tiles": "deedsr",
    "lr": "deedsr",
    "posterior": "sample",
    "rounding": "down",
}
"""The test script of arXiv 2404.00661's repository, commit 108132a, as arguments of `Settings`."""

DIT4SR: dict[str, Any] = {
    "sampler": "euler",
    "steps": 40,
    "text": [8.0],
    "colour": "adain",
    "tile": 512,
    "overlap": 192,
    "untiled": 512,
    "margin": 0,
    "tiles": "dit4sr",
    "lr": "dit4sr",
    "posterior": "sample",
    "rounding": "down",
    "words": "a sharp, detailed photograph with natural colours and fine textures",
}
"""Section 4.1 of arXiv 2503.23580 and the test script of its repository, commit 7ec9e5e. The words mean what theirs
mean; theirs are not ours to copy."""

WHY = {
    "sampler": "chosen with the steps",
    "steps": "as few as a model needs; its card measures them",
    "eta": "noise that is drawn anew in every step takes many steps to remove",
    "spacing": "leading times leave the noisiest ones out where steps are few",
    "start": "a start from the input's latent takes fewer steps",
    "noise": "what was distilled to few steps starts from the input itself",
    "guidance": "chosen with the steps, by measuring fidelity and realism",
    "text": "what was trained without texts can't be guided by one",
    "degradation": "the authors have no null vector",
    "tile": "the side that the model was trained and measured with",
    "ensemble": "the mean of turned pictures lies nearer to the truth",
    "colour": "networks shift colours; the input's low frequencies have them right",
    "coherence": "decoders of this size draw edges with teeth",
    "overlap": "tiles that are spread evenly need less",
    "untiled": "one piece has no seams, and 1024² pixels fit into memory",
    "margin": "networks fall off at the borders of what they see",
    "tiles": "answers that are blended in every step, by a Gaussian, leave no seam",
    "lr": "as training sees it: in float, in [-1, 1], nothing cut off, padded where needed",
    "posterior": "training sees the mode, too",
    "rounding": "rounding down darkens by half a level",
    "words": "a caption says what a picture shows, and no more",
}
"""Of each setting, the reason for a default that is not the authors'."""


@dataclass(frozen=True)
class Difference:
    """A setting that a model's default and its authors' have otherwise, and why."""

    name: str
    default: Any
    authors: Any
    why: str


def differences(defaults: Settings, presets: Mapping[str, Settings]) -> list[Difference]:
    """Where `defaults` are not the preset ``authors``, in the order of `Settings`; values as JSON can hold them."""
    theirs = presets["authors"]
    names = [field.name for field in fields(Settings)]
    pairs = {name: (_plain(getattr(defaults, name)), _plain(getattr(theirs, name))) for name in names}
    return [Difference(name, *pair, WHY[name]) for name, pair in pairs.items() if pair[0] != pair[1]]


def _plain(value: Any) -> Any:
    return list(astuple(value)) if is_dataclass(value) and not isinstance(value, type) else value

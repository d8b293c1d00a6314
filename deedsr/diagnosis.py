"""What is wrong with a picture: blur, noise and JPEG quality, read from its degradation vector by a small head."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deedsr import weights
from deedsr.degradation import LEVELS
from deedsr.devices import pick_device
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.folder import DIAGNOSIS, ENCODER, load_encoder
from deedsr.models.resolver import BUILT_IN, resolve
from deedsr.pictures.picture import Picture, read
from deedsr.restorer import check_size
from deedsr.tiling import windows

QUANTITIES = ("blur", "noise", "jpeg")
BOUNDS = ((0.0, math.inf), (0.0, math.inf), (1.0, 100.0))
SIGNS, OFFSETS = (1, 1, -1), (0.3, 1.0, -110.0)

GRID = 16  # pixels: tiles begin where JPEG's blocks do
MOST_TILES = 256
BATCH = 64

WORDS = {
    "blur": ((0.6, "sharp"), (1.0, "a little soft"), (2.0, "blurred"), (math.inf, "strongly blurred")),
    "noise": ((2.0, "hardly any"), (6.0, "a little"), (15.0, "clearly visible"), (math.inf, "strong")),
    "jpeg": (
        (40.0, "strongly compressed"),
        (70.0, "compressed"),
        (88.0, "lightly compressed"),
        (math.inf, "hardly compressed"),
    ),
}
"""For each quantity: words for values below a bound."""


@dataclass(frozen=True)
class Estimate:
    """A number and its standard deviation."""

    value: float
    std: float


@dataclass(frozen=True)
class Diagnosis:
    """What a picture's degradation vector says.

    blur: σ, in pixels of this picture, of the Gaussian that blurs an ideal edge as its edges are; 0.3 is as sharp as
    pixels can be. noise: standard deviation of what noise still changes in it, 0-255, less than what was added where
    JPEG took some away. jpeg: quality (libjpeg's) at which it was last compressed; 100: not at all. level: the strength
    of degradation that it looks like, the median of the probabilities in `levels`.
    """

    blur: Estimate
    noise: Estimate
    jpeg: Estimate
    level: str
    levels: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As plain values, rounded to what can be meant."""
        numbers = {
            name: {key: round(number, 2) for key, number in asdict(getattr(self, name)).items()} for name in QUANTITIES
        }
        return {**numbers, "level": self.level, "levels": {name: round(p, 3) for name, p in self.levels.items()}}

    def lines(self) -> list[str]:
        """In words and numbers."""
        blur, noise, jpeg = self.blur, self.noise, self.jpeg
        return [
            f"blur   {_word('blur', blur)}: sigma {blur.value:.1f} ± {blur.std:.1f} pixels",
            f"noise  {_word('noise', noise)}: sigma {noise.value:.0f} ± {noise.std:.0f} of 255",
            f"jpeg   {_word('jpeg', jpeg)}: quality {jpeg.value:.0f} ± {jpeg.std:.0f} of 100",
            f"level  {self.level} ({', '.join(f'{name} {p:.0%}' for name, p in self.levels.items())})",
        ]


def _word(quantity: str, estimate: Estimate) -> str:
    """How strong it is, in words."""
    return next(word for bound, word in WORDS[quantity] if estimate.value < bound)


class DiagnosisHead(nn.Module):
    """Degradation vector -> mean and variance of each of `QUANTITIES`, and the levels' probabilities.

    vector: length of the vector. tile: side in pixels of the pictures that it was fitted to; others are cut into such.
    hidden: width of the two hidden layers.
    """

    mean: Tensor
    scale: Tensor
    centre: Tensor
    spread: Tensor
    widen: Tensor

    def __init__(self, vector: int, tile: int = 64, hidden: int = 64) -> None:
        super().__init__()
        self.vector, self.tile, self.hidden = vector, tile, hidden
        self.register_buffer("mean", torch.zeros(vector))
        self.register_buffer("scale", torch.ones(vector))
        self.register_buffer("centre", torch.zeros(len(QUANTITIES)))
        self.register_buffer("spread", torch.ones(len(QUANTITIES)))
        self.register_buffer("widen", torch.ones(len(QUANTITIES)))
        self.layers = nn.Sequential(
            nn.Linear(vector, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * len(QUANTITIES) + len(LEVELS)),
        )

    def config(self) -> dict[str, int]:
        """The constructor's arguments."""
        return {"vector": self.vector, "tile": self.tile, "hidden": self.hidden}

    def raw(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D) -> means and log-variances of standardised `to_scale`, (B, 3) each, and the levels' logits (B, 3)."""
        count = len(QUANTITIES)
        out = self.layers((vector - self.mean) / self.scale)
        return out[:, :count], out[:, count : 2 * count].clamp(-8, 4), out[:, 2 * count :]

    def forward(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D) -> means and standard deviations on `to_scale`, (B, 3) each, and probabilities of `LEVELS` (B, 3)."""
        mean, log_variance, logits = self.raw(vector)
        std = (log_variance / 2).exp() * self.spread * self.widen
        return mean * self.spread + self.centre, std, logits.softmax(1)


def to_scale(values: Tensor) -> Tensor:
    """Values of `QUANTITIES` (..., 3) on a scale where errors are alike.

    log(blur + 0.3), log(noise + 1), and log(110 − jpeg), which follows JPEG's quantisation steps.
    """
    return ((values + values.new_tensor(OFFSETS)) * values.new_tensor(SIGNS)).log()


def from_scale(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of `to_scale` for means and, to the first order, standard deviations (..., 3); values within bounds."""
    low, high = mean.new_tensor(BOUNDS).T
    value = mean.exp() * mean.new_tensor(SIGNS) - mean.new_tensor(OFFSETS)
    return value.clamp(low, high), std * mean.exp()


def median_level(probabilities: Tensor) -> Tensor:
    """The position in `LEVELS`, which are in order, at which half of the probability (..., 3) is reached: (...)."""
    return (probabilities.cumsum(-1)[..., :-1] < 0.5).sum(-1)


def load_head(file: Path, encoder: DegradationEncoder) -> DiagnosisHead:
    """The head in `file`. Raises ValueError if there is none or it does not fit the encoder."""
    if not file.is_file():
        raise ValueError(
            f"{file.parent}: has no {file.name}, which a diagnosis needs; "
            f"make it with `python -m stage1.head weights={file.with_name(ENCODER)} data.roots=[PHOTOS] output={file}`"
        )
    stored = weights.load(file)
    try:
        head = DiagnosisHead(**stored.config)
    except TypeError as error:
        raise ValueError(f"{file}: its header does not describe a diagnosis head ({error})") from None
    if head.vector != encoder.dimension:
        raise ValueError(f"{file}: reads {head.vector} numbers, but the encoder gives {encoder.dimension}")
    weights.load_strict(head, stored.tensors, file)
    return head.eval()


class Diagnoser:
    """Diagnoses pictures.

    >>> Diagnoser.from_pretrained()("photo.jpg").noise
    """

    def __init__(self, encoder: DegradationEncoder, head: DiagnosisHead, device: torch.device | str = "cpu") -> None:
        self.encoder, self.head = encoder.to(device).eval(), head.to(device).eval()
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(cls, name: str = BUILT_IN, device: str = "auto") -> Diagnoser:
        """From ``built-in``, a model folder or an id. Raises ValueError for one that is missing or has no head."""
        folder = resolve(name)
        encoder = load_encoder(folder / ENCODER)
        return cls(encoder, load_head(folder / DIAGNOSIS, encoder), pick_device(device))

    @torch.inference_mode()
    def __call__(self, image: Picture | str | Path) -> Diagnosis:
        """Diagnose a picture or a file: the mean of what its tiles say, each weighted by how sure it is.

        Raises ValueError for one that can't be read or is smaller than 8 pixels.
        """
        picture = image if isinstance(image, Picture) else read(image)
        parts = [self.head(self.encoder(tiles.to(self.device))) for tiles in self.tiles(picture.rgb).split(BATCH)]
        mean, std, levels = (torch.cat(column).double().cpu() for column in zip(*parts, strict=True))
        precision = std**-2  # (N, 3)
        pooled = (mean * precision).sum(0) / precision.sum(0)
        value, deviation = from_scale(pooled, precision.mean(0).rsqrt())  # tiles err alike: no division by √N
        estimates = dict(zip(QUANTITIES, map(Estimate, value.tolist(), deviation.tolist()), strict=True))
        probabilities = levels.mean(0)
        level = LEVELS[int(median_level(probabilities))]
        return Diagnosis(**estimates, level=level, levels=dict(zip(LEVELS, probabilities.tolist(), strict=True)))

    def tiles(self, rgb: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (N, 3, h, w): tiles of the size that the head knows, at most 256, evenly chosen."""
        check_size(rgb)
        places = windows(rgb.shape[-2], rgb.shape[-1], self.head.tile, 0)
        aligned = (
            replace(place, top=place.top - place.top % GRID, left=place.left - place.left % GRID)
            for place in places[:: math.ceil(len(places) / MOST_TILES)]
        )
        return torch.cat([rgb[place.slices] for place in aligned])

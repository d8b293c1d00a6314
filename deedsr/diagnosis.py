"""What is wrong with a picture: blur, noise and JPEG quality, read from its degradation vector by a small head."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deedsr.degradation import LEVELS
from deedsr.devices import pick_device
from deedsr.geometry import check_size
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.folder import encoder_of, load_encoder
from deedsr.models.deedsr.head import (
    DIAGNOSIS,
    ENCODER,
    QUANTITIES,
    DiagnosisHead,
    from_scale,
    load_head,
    median_level,
)
from deedsr.models.resolver import BUILT_IN, model_place
from deedsr.pictures.picture import Picture, read
from deedsr.tiling import windows

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
    of degradation that it looks like, the median of the probabilities in `levels`. strangeness: above 1,
    more than half of the picture is unlike all that the head was fitted to; None of a head from before there was it.
    """

    blur: Estimate
    noise: Estimate
    jpeg: Estimate
    level: str
    levels: dict[str, float]
    strangeness: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values, rounded to what can be meant."""
        numbers = {
            name: {key: round(number, 2) for key, number in asdict(getattr(self, name)).items()} for name in QUANTITIES
        }
        found: dict[str, Any] = {
            **numbers,
            "level": self.level,
            "levels": {name: round(p, 3) for name, p in self.levels.items()},
        }
        if self.strangeness is not None:
            found["strangeness"] = round(self.strangeness, 2)
        return found

    def lines(self) -> list[str]:
        """In words and numbers."""
        blur, noise, jpeg = self.blur, self.noise, self.jpeg
        lines = [
            f"blur   {_word('blur', blur)}: sigma {blur.value:.1f} ± {blur.std:.1f} pixels",
            f"noise  {_word('noise', noise)}: sigma {noise.value:.0f} ± {noise.std:.0f} of 255",
            f"jpeg   {_word('jpeg', jpeg)}: quality {jpeg.value:.0f} ± {jpeg.std:.0f} of 100",
            f"level  {self.level} ({', '.join(f'{name} {p:.0%}' for name, p in self.levels.items())})",
        ]
        if self.strangeness is not None and self.strangeness > 1:
            lines.append(
                f"warning: unlike what the model was trained on, {self.strangeness:.1f} times as far as 99 % of it: "
                "trust neither the numbers nor what dials leave in"
            )
        return lines


def _word(quantity: str, estimate: Estimate) -> str:
    """How strong it is, in words."""
    return next(word for bound, word in WORDS[quantity] if estimate.value < bound)


class Diagnoser:
    """Diagnoses pictures.

    >>> Diagnoser.from_pretrained()("photo.jpg").noise
    """

    def __init__(self, encoder: DegradationEncoder, head: DiagnosisHead, device: torch.device | str = "cpu") -> None:
        self.encoder, self.head = encoder.to(device).eval(), head.to(device).eval()
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(cls, name: str = BUILT_IN, device: str = "auto") -> Diagnoser:
        """From ``built-in``, a model folder, a checkpoint, an id, or a folder with an encoder and its head alone.

        Raises ValueError for one that is missing or has no head.
        """
        place = Path(name)
        file = encoder_of(place if (place / ENCODER).is_file() else model_place(name))
        encoder = load_encoder(file)
        return cls(encoder, load_head(file.with_name(DIAGNOSIS), encoder), pick_device(device))

    @torch.inference_mode()
    def __call__(self, image: Picture | str | Path) -> Diagnosis:
        """Diagnose a picture or a file: the mean of what its tiles say, each weighted by how sure it is.

        Raises ValueError for one that can't be read or is smaller than 8 pixels.
        """
        picture = image if isinstance(image, Picture) else read(image)
        tiles = self.tiles(picture.visible)
        vectors = torch.cat([self.encoder(part.to(self.device)) for part in tiles.split(BATCH)])
        mean, std, levels = (column.double().cpu() for column in self.head(vectors))
        precision = std**-2  # (N, 3)
        pooled = (mean * precision).sum(0) / precision.sum(0)
        value, deviation = from_scale(pooled, precision.mean(0).rsqrt())  # tiles err alike: no division by √N
        blur, noise, jpeg = map(Estimate, value.tolist(), deviation.tolist())
        probabilities = levels.mean(0)
        level = LEVELS[int(median_level(probabilities))]
        strangeness = float(self.head.strangeness(vectors).median()) if self.head.judges else None
        return Diagnosis(blur, noise, jpeg, level, dict(zip(LEVELS, probabilities.tolist(), strict=True)), strangeness)

    def tiles(self, rgb: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (N, 3, h, w): tiles of the size that the head knows, at most 256, evenly chosen."""
        check_size(rgb)
        places = windows(rgb.shape[-2], rgb.shape[-1], self.head.tile, 0)
        aligned = (
            replace(place, top=place.top - place.top % GRID, left=place.left - place.left % GRID)
            for place in places[:: math.ceil(len(places) / MOST_TILES)]
        )
        return torch.cat([rgb[place.slices] for place in aligned])

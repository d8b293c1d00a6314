"""What the dials do: curves of noise, sharpness and blockiness over the position of each dial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from deedsr.degradation import apply
from deedsr.degradation.operations import luma
from deedsr.degradation.statistics import BLOCK, blockiness, noise_sigma
from deedsr.diagnosis import Diagnoser
from deedsr.dials import turned
from deedsr.geometry import SCALE
from deedsr.metrics.evaluation import track
from deedsr.metrics.table import interval
from deedsr.options import Dials
from deedsr.pictures.picture import Picture
from deedsr.randomness import content_seed, seeded
from stage2.evaluate.degradation.pictures import WHOLE, Field, Scenes, cut
from stage2.evaluate.degradation.recipes import recipe
from stage2.evaluate.degradation.restoring import Arm
from stage2.evaluate.rows import eight_bits

DIALS = {"deblur": ("sharpness", 1), "denoise": ("noise", -1), "dejpeg": ("blockiness", -1)}
"""The measure that each is to move, and in which direction."""
MEASURES = ("sharpness", "noise", "blockiness")
CALM, PATCH = 0.25, 16  # share of the patches that noise is measured in, and their side, LR pixels
STEEP = 0.98  # quantile of the gradients that says how sharp a picture is
MONOTONE = 0.9  # least rank correlation that counts as a dial which only goes one way


def measures(image: Tensor) -> Tensor:
    """`MEASURES` of RGB pictures (B, 3, H, W) in [0, 1]: (B, 3).

    sharpness: logarithm of the 98 % quantile of the luma's gradient. noise: `noise_sigma`, 0-255, that a quarter of the
    patches of 16² has less of, as detail counts as noise elsewhere; and blockiness:
    `deedsr.degradation.statistics.blockiness` of 8 pixels, both of the luma averaged down to LR size, where the input's
    noise and blocks are.
    """
    plane = luma(image) * 255
    gradient = (plane.diff(dim=-1)[..., 1:, :].square() + plane.diff(dim=-2)[..., 1:].square()).sqrt().flatten(1)
    steep = gradient.double().quantile(STEEP, dim=1).clamp_min(1e-3).log()
    small = F.avg_pool2d(plane, SCALE)
    patches = small.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).flatten(1, 3)  # (B, n, 16, 16)
    calm = noise_sigma(patches).double().quantile(CALM, dim=1)
    return torch.stack([steep, calm, blockiness(small, BLOCK)[:, 0].double()], 1)


@dataclass(frozen=True)
class Piece:
    """A piece of a photograph, hr (1, 3, S, S), and what comes of it, lr (1, 3, S/4, S/4)."""

    photo: int
    hr: Tensor
    lr: Tensor


@dataclass(frozen=True)
class Response:
    """How the curves are made. recipe: all three at one strength. field: what the network sees. positions: of a dial,
    while the others are at 1. crops: of each photograph.
    """

    recipe: str = "blur-4+noise-12+jpeg-45"
    field: Field = 256
    positions: Sequence[float] = (0.0, 0.5, 1.0, 1.5, 2.0)
    crops: int = 2

    def pieces(self, scenes: Scenes) -> list[Piece]:
        """The pictures that the curves are of: `crops` of each photograph, of the first seed."""
        pieces = []
        for index in range(len(scenes)):
            seed, photo, crop = scenes.place(index)
            if seed == scenes.seeds[0] and crop < self.crops:
                degradation = recipe(self.recipe).sample(seeded(seed, photo, crop, 0, 4), 1)
                pieces.append(Piece(photo, hr := scenes.hr(index), apply(hr, degradation)))
        return pieces

    def run(self, arm: Arm, scenes: Scenes, progress: bool) -> dict[str, Any]:
        """What `found` says."""
        diagnoser, outputs, pieces = Diagnoser.from_pretrained(), [], self.pieces(scenes)
        for piece in track(pieces, len(pieces), progress, f"{arm.name}, dials"):
            lr, _ = cut(piece.lr, piece.hr, self.field)
            with torch.no_grad():
                restored = arm.restore(lr, arm.vector(piece.lr), self.field == WHOLE).clamp(0, 1)
            found, seed = diagnoser(Picture(piece.lr)), content_seed(lr, arm.options.seed)
            rows = [turned(restored, dials, found, seed) for dials in self._positions()]
            outputs.append(measures(eight_bits(torch.cat(rows))))
        return {"model": arm.name, **self._of_pieces(outputs, pieces)}

    def _positions(self) -> list[Dials]:
        """Of each dial in turn, with the others at 1."""
        return [Dials(**{dial: position}) for dial in DIALS for position in self.positions]

    def _of_pieces(self, outputs: Sequence[Tensor], pieces: Sequence[Piece]) -> dict[str, Any]:
        """`found` of each piece's `measures` at all positions of each dial in turn, (dials·positions, 3)."""
        shape = (len(pieces), len(DIALS), len(self.positions), len(MEASURES))
        truth = torch.cat([measures(cut(piece.lr, piece.hr, self.field)[1]) for piece in pieces])
        return self.found(torch.stack(list(outputs)).view(shape), truth, [piece.photo for piece in pieces])

    def found(self, outputs: Tensor, truth: Tensor, photos: Sequence[int]) -> dict[str, Any]:
        """The curves of N pictures. outputs: `measures` (N, dials, positions, 3); truth: of the ground truth (N, 3).

        All in standard deviations of a measure over the ground truth of different pictures. monotone: the share of
        pictures whose Spearman correlation of position and own measure is at least .9 in the dial's direction. moved:
        the median change of each measure from the first position to the last. selectivity: the own measure's over the
        larger of the others'. curves: means over pictures of the change from where the dial is at 1, with 95 %
        intervals over photographs.
        """
        spread = truth.std(0)
        middle = min(range(len(self.positions)), key=lambda at: abs(self.positions[at] - 1))
        dials = {}
        for number, (dial, (measure, sign)) in enumerate(DIALS.items()):
            own, curve = MEASURES.index(measure), (outputs[:, number] - outputs[:, number, middle, None]) / spread
            order = [sign * _spearman(self.positions, row) for row in outputs[:, number, :, own].tolist()]
            moved = (curve[:, -1] - curve[:, 0]).median(0).values
            others = max(abs(float(moved[at])) for at in range(len(MEASURES)) if at != own)
            dials[dial] = {
                "measure": measure,
                "spearman": float(np.median(order)),
                "monotone": float(np.mean([value >= MONOTONE for value in order])),
                "moved": dict(zip(MEASURES, moved.tolist(), strict=True)),
                "selectivity": sign * float(moved[own]) / max(others, 1e-9),
                "curves": {name: _curve(curve[:, :, at], photos) for at, name in enumerate(MEASURES)},
            }
        units = dict(zip(MEASURES, spread.tolist(), strict=True))
        return {"positions": list(self.positions), "pictures": len(photos), "units": units, "dials": dials}


def _spearman(positions: Sequence[float], values: Sequence[float]) -> float:
    """Rank correlation; 0 where nothing changes."""
    if min(values) == max(values):
        return 0.0
    return round(float(spearmanr(positions, values).statistic), 9)  # 0.9 may come as 0.8999…


def _curve(changes: Tensor, photos: Sequence[int]) -> list[dict[str, Any]]:
    """(N, positions) -> at each position the mean, and its interval over photographs."""
    names = sorted(set(photos))
    of = [changes[[at for at, photo in enumerate(photos) if photo == name]].mean(0).tolist() for name in names]
    return [{"mean": float(np.mean(column)), "interval": list(interval(column))} for column in zip(*of, strict=True)]

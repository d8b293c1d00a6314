"""The head that reads a degradation vector: blur, noise and JPEG quality, and how strange it is."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from deedsr import weights
from deedsr.degradation import LEVELS
from deedsr.models.deedsr.encoder import DegradationEncoder

ENCODER, DIAGNOSIS = "encoder.safetensors", "diagnosis.safetensors"
"""DIAGNOSIS: the head that reads this encoder; a model may lack it."""

QUANTITIES = ("blur", "noise", "jpeg")
BOUNDS = ((0.0, math.inf), (0.0, math.inf), (1.0, 100.0))
SIGNS, OFFSETS = (1, 1, -1), (0.3, 1.0, -110.0)
CLEAN = (0.34, 0.0, 100.0)
"""Of each quantity where nothing is wrong. The blur is `edge_sigma` of an antialiased down-sampling."""

FAMILIAR = ("whiten", "reach")
"""Buffers that files from before there was `strangeness` lack."""


class DiagnosisHead(nn.Module):
    """Degradation vector -> mean and variance of each of `QUANTITIES`, and the levels' probabilities.

    vector: length D of the vector. tile: side in pixels of the pictures that it was fitted to; others are cut into
    such. hidden: width of the two hidden layers. The buffers `whiten` (D, D): Σ^(−1/2), but for a factor, of the
    vectors' covariance Σ. `reach`: of a whitened vector, the root mean square that 99 % of the pictures held back from
    the fit are below.
    """

    mean: Tensor
    scale: Tensor
    centre: Tensor
    spread: Tensor
    widen: Tensor
    whiten: Tensor
    reach: Tensor
    file: Path | None = None

    def __init__(self, vector: int, tile: int = 64, hidden: int = 64) -> None:
        super().__init__()
        self.vector, self.tile, self.hidden = vector, tile, hidden
        count = len(QUANTITIES)
        self.register_buffer("mean", torch.zeros(vector))
        self.register_buffer("scale", torch.ones(vector))
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        self.register_buffer("widen", torch.ones(count))
        self.register_buffer("whiten", torch.zeros(vector, vector))
        self.register_buffer("reach", torch.zeros(()))
        self.layers = nn.Sequential(
            nn.Linear(vector, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * count + len(LEVELS)),
        )

    def config(self) -> dict[str, int]:
        """The constructor's arguments."""
        return {"vector": self.vector, "tile": self.tile, "hidden": self.hidden}

    @property
    def judges(self) -> bool:
        """Whether `strangeness` is known; not of a head that was fitted before there was one."""
        return bool(self.reach > 0)

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

    def strangeness(self, vector: Tensor) -> Tensor:
        """(B, D) -> (B,): above 1, the vector lies outside of what the head was fitted to.

        Raises ValueError for a head that was fitted before there was strangeness.
        """
        if not self.judges:
            file = self.file or Path(DIAGNOSIS)
            raise ValueError(f"{file}: knows no strangeness yet; make it anew with {command(file)}")
        return ((vector - self.mean) @ self.whiten).square().mean(1).sqrt() / self.reach


def to_scale(values: Tensor) -> Tensor:
    """Values of `QUANTITIES` (..., 3) on a scale where errors are alike.

    log(blur + 0.3), log(noise + 1), and log(110 − jpeg), which follows JPEG's quantisation steps.
    """
    return ((values + values.new_tensor(OFFSETS)) * values.new_tensor(SIGNS)).log()


def from_scale(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of `to_scale` for means and, to the first order, standard deviations (..., 3); values within bounds."""
    value = mean.exp() * mean.new_tensor(SIGNS) - mean.new_tensor(OFFSETS)
    return _bounded(value), std * mean.exp()


def _bounded(values: Tensor) -> Tensor:
    low, high = values.new_tensor(BOUNDS).T
    return values.clamp(low, high)


def median_level(probabilities: Tensor) -> Tensor:
    """The position in `LEVELS`, which are in order, at which half of the probability (..., 3) is reached: (...)."""
    return (probabilities.cumsum(-1)[..., :-1] < 0.5).sum(-1)


def load_head(file: Path, encoder: DegradationEncoder) -> DiagnosisHead:
    """The head in `file`, frozen. Raises ValueError if there is none or it does not fit the encoder."""
    if not file.is_file():
        raise ValueError(f"{file.parent}: has no {file.name}, which a diagnosis needs; make it with {command(file)}")
    stored = weights.load(file)
    try:
        head = DiagnosisHead(**stored.config)
    except TypeError as error:
        raise ValueError(f"{file}: its header does not describe a diagnosis head ({error})") from None
    if head.vector != encoder.dimension:
        given = f"reads {head.vector} numbers, but the encoder gives {encoder.dimension}"
        raise ValueError(f"{file}: {given}; make it anew with {command(file)}")
    weights.load_strict(head, stored.tensors, file, allow_missing=FAMILIAR)
    head.file = file
    return head.eval().requires_grad_(False)


def command(file: Path) -> str:
    """What makes the head in `file`, for messages."""
    return f"`python -m stage1.head weights={file.with_name(ENCODER)} data.roots=[PHOTOS] output={file}`"

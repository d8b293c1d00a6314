"""A restorer of others as a teacher: one sharp picture of each LR image, where ground truth is one of many."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from deedsr.geometry import SCALE
from stage2.base.modules import Frozen


class Teacher(Frozen):
    """A frozen network that enlarges four times, from a file that the package spandrel reads.

    Of what an LR image leaves open, ground truth teaches the mean of all pictures that fit; the picture of a network
    is a function of it, which can be learned without averaging.

    weights: as RealESRGAN_x4plus.pth. share: of the samples whose ground truth its picture replaces. Raises ValueError
    for a share outside [0, 1], and for a file that is missing, unknown, or of another kind of network.
    """

    def __init__(self, weights: str, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"teacher.share is {share}; it must be at least 0 and at most 1")
        super().__init__(load(Path(weights)))
        self.share = share

    def forward(self, lr: Tensor) -> Tensor:
        """(B, 3, h, w) in [0, 1] → (B, 3, 4h, 4w) in [0, 1]."""
        with torch.no_grad():
            return self.network(lr).float().clamp(0, 1)


def load(file: Path) -> nn.Module:
    """The network in `file`; errors as of `Teacher`."""
    try:
        from spandrel import ImageModelDescriptor, ModelLoader
    except ImportError:
        raise ValueError("a teacher needs the package spandrel: pip install 'deedsr[train]'") from None
    if not file.is_file():
        raise ValueError(f"teacher.weights: {file} is missing; teacher=null trains without")
    try:
        found = ModelLoader(device="cpu").load_from_file(file)
    except Exception as error:  # whatever a third party raises of a file
        raise ValueError(f"teacher.weights: {file} holds no network that spandrel knows ({error})") from None
    kind = found.architecture.name
    if not isinstance(found, ImageModelDescriptor) or (found.scale, found.input_channels) != (SCALE, 3):
        raise ValueError(
            f"teacher.weights: {file} holds {kind}, enlarging {found.scale} times; a teacher takes RGB pictures and "
            f"enlarges {SCALE} times"
        )
    return found.model

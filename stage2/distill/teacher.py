"""A restorer of others as a teacher: one sharp picture of each LR image, where ground truth is one of many."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from deedsr.colour import match
from deedsr.geometry import SCALE, resize
from deedsr.options import one_of
from deedsr.training.run import pixels
from stage2.base.modules import Frozen

SIGHTS = ("lr", "hr")
"""What a teacher may enlarge."""


class Teacher(Frozen):
    """A frozen network that enlarges four times, from a file that the package spandrel reads.

    Of what an LR image leaves open, ground truth teaches the mean of all pictures that fit; the picture of a network
    is a function of it, which can be learned without averaging.

    weights: as RealESRGAN_x4plus.pth. share: of the samples whose ground truth its picture replaces. of: what it
    enlarges: the student's ``lr``, or the ground truth ``hr`` shrunk four times, so that it is not led astray by what
    damaged the LR image and draws what is there; that picture has the coarse colours of the ground truth. Raises
    ValueError for a share outside [0, 1], for another `of` than `SIGHTS`, and for a file that is missing, unknown, or
    of another kind of network.
    """

    def __init__(self, weights: str, share: float, of: str = "lr") -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"teacher.share is {share}; it must be at least 0 and at most 1")
        one_of("teacher.of", of, SIGHTS)
        super().__init__(load(Path(weights)))
        self.share, self.of = share, of

    def forward(self, lr: Tensor, hr: Tensor) -> Tensor:
        """LR images (B, 3, h, w) in [0, 1] and their ground truth (B, 3, 4h, 4w), bytes → (B, 3, 4h, 4w) in [0, 1]."""
        with torch.no_grad():
            if self.of == "lr":
                return self.network(lr).float().clamp(0, 1)
            photo = pixels(hr)
            return match(self.network(resize(photo, (lr.shape[-2], lr.shape[-1]))).float(), photo)


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

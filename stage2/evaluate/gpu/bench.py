"""What the parts of the suite share: a place to work, models with random weights, and rows of the table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deedsr.models import RestorationModel
from deedsr.models.contract import Text
from deedsr.models.sd3.model import SD3Restoration
from deedsr.pictures.picture import Picture, write
from stage2.evaluate.timing import model_named, picture

TINY = {"sd21": "small", "dit4sr": "dit4sr_small"}
TOKENS = 333  # of a text: 77 of CLIP, 256 of T5


@dataclass(frozen=True)
class Row:
    """A line of the table. asked: what it should be; good: whether it is."""

    what: str
    found: str
    asked: str = ""
    good: bool = True


@dataclass(frozen=True)
class Bench:
    """tiny: everything as small as can be, to try the suite itself. folder: to write to. until: by time.monotonic."""

    device: torch.device
    tiny: bool
    folder: Path
    until: float

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def side(self, pixels: int) -> int:
        """HR pixels, a multiple of what every model takes."""
        return 128 if self.tiny else pixels

    def model(self, size: str, dtype: torch.dtype = torch.float32) -> RestorationModel:
        """One with random weights, of which none is zero, and with texts of the usual length."""
        model = model_named(f"{TINY[size] if self.tiny else size}-random", self.device, dtype)
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.02)
        if isinstance(model, SD3Restoration):
            config, like = model.transformer.config, {"device": self.device, "dtype": dtype}
            text = Text(
                torch.randn(1, TOKENS, config.joint_attention_dim, **like),
                torch.randn(1, config.pooled_projection_dim, **like),
            )
            model.set_texts(text, text)
        return model

    def photos(self) -> Path:
        """A folder of pictures to train on."""
        folder = self.folder / "photos"
        if not folder.exists():
            folder.mkdir()
            image = picture(4 * self.side(640))
            for number in range(4):
                rgb = image.roll((64 * number, 0), (2, 3)).rot90(number, (2, 3))
                write(folder / f"{number}.png", Picture(rgb))
        return folder

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], times: int = 3) -> float:
        """The median of how long `work` takes, after it was done once."""
        work()
        found = []
        for _ in range(1 if self.tiny else times):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - began)
        return sorted(found)[len(found) // 2]


def apart(found: Tensor, right: Tensor) -> float:
    """The relative error, ‖found − right‖ / ‖right‖."""
    found, right = found.double().cpu(), right.double().cpu()
    return float((found - right).norm() / right.norm())


def close(what: str, error: float, most: float) -> Row:
    """A relative error, of which `most` is allowed."""
    return Row(what, f"{error:.1e} apart", f"{most:.0e}", error <= most)  # NaN is not

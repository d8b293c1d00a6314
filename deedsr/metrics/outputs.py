"""What is scored: a system's output with its ground truth and its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from deedsr.data.pairs import read_rgb
from deedsr.geometry import dimensions, resize_8bit
from deedsr.options import Options


@dataclass(frozen=True)
class Sample:
    """A restored picture, its ground truth and what it was restored from: (1, 3, H, W) RGB in [0, 1]; `lr` smaller.

    others: outputs of other systems for the same input, by name. Raises ValueError, naming `stem`, where the sizes
    don't belong together.
    """

    stem: str
    restored: Tensor
    hr: Tensor | None = None
    lr: Tensor | None = None
    others: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        same = {**self.others} if self.hr is None else {"hr": self.hr, **self.others}
        for name, image in same.items():
            if image.shape != self.restored.shape:
                sizes = f"restored is {dimensions(self.restored)} and {name} is {dimensions(image)}"
                raise ValueError(f"{self.stem}: {sizes}")
        if self.lr is not None:
            (height, width), (low_height, low_width) = self.restored.shape[-2:], self.lr.shape[-2:]
            if height * low_width != width * low_height or low_height > height:
                sizes = f"lr is {dimensions(self.lr)}, which doesn't scale to {dimensions(self.restored)}"
                raise ValueError(f"{self.stem}: {sizes}")

    def check(self, options: Options) -> None:
        """Raises ValueError where what is restored with `options` would not be as large as the ground truth."""
        if self.lr is None or self.hr is None:
            return
        height, width = options.output_size(*self.lr.shape[-2:])
        if self.hr.shape[-2:] != (height, width):
            raise ValueError(
                f"{self.stem}: hr is {dimensions(self.hr)}; {options.outscale:g} times lr, which is "
                f"{dimensions(self.lr)}, would be {width}×{height}"
            )


def load(stem: str, files: Mapping[str, Path]) -> Sample:
    """The sample of a stem from its files by role: ``restored``, ``hr``, ``lr``; all other roles are `others`."""
    pictures = {role: read_rgb(path) for role, path in files.items()}
    named = {role: pictures.pop(role) for role in ("restored", "hr", "lr") if role in pictures}
    return Sample(stem, **named, others=pictures)


def bicubic(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Pillow's bicubic up-sampling to (height, width), through 8 bits, as rows of this name are computed in papers."""
    return resize_8bit(lr.cpu(), size)

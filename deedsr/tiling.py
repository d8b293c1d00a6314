"""Overlapping windows over an image, and Gaussian-weighted blending of what a function gives for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import EllipsisType
from typing import TypeVar

import torch
from torch import Tensor

from deedsr.devices import free_memory, lacks_memory

T = TypeVar("T")

# Standard deviation of a window's weight over its side: a neighbour that overlaps by an eighth of the side
# weighs 33 times as much at the window's edge, and 400 times by a quarter, so an edge leaves no seam.
SIGMA = 1 / 8
SIGMAS = {"even": SIGMA, "dit4sr": 0.1, "deedsr": None}
"""The ways to lay tiles, by the standard deviation of a tile's weight over its side, None where all of it counts alike.

even: spread evenly, all of one size, their answers blended in every step. dit4sr, as DiT4SR's authors do: squares at
equal strides from the upper left corner, the last flush with the end; the autoencoder sees the picture in one piece.
deedsr, as DeeDSR's authors do: at equal strides, too, but every tile is sampled, decoded and coloured by itself.
"""

MORE = 4
"""Times as many pixels as in its first group a GPU may take at a time: beyond, launching is not what takes the time."""
SHARE = 0.8
"""Of its free memory for a group; what the groups give is put together beside it."""


@dataclass(frozen=True)
class Window:
    """A rectangle of an image, in pixels of that image."""

    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> int:
        """Pixels."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[EllipsisType, slice, slice]:
        """Index that cuts the window out of a tensor: ``image[window.slices]``, any leading dimensions."""
        return ..., slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def scaled(self, scale: int | float | Fraction) -> Window:
        """The same rectangle where every pixel became ``scale`` pixels; the result must be whole pixels."""
        if scale == 1:
            return self
        ratio = Fraction(scale).limit_denominator(4096)
        sides = [side * ratio for side in (self.top, self.left, self.height, self.width)]
        assert all(side.denominator == 1 for side in sides), f"{self} times {scale} is not whole pixels"
        return Window(*(int(side) for side in sides))


def windows(
    height: int, width: int, tile: int, overlap: int, multiple: int | None = None, strided: bool = False
) -> list[Window]:
    """Windows of side ``tile`` that cover an image row by row, neighbours sharing at least ``overlap`` pixels.

    They are spread evenly, all of one size; along a side no longer than ``tile`` there is one window as long as the
    side. multiple: as many windows, but no larger than their overlaps need, of a side that is a multiple of
    this. strided: instead at equal distances from the start, sharing exactly `overlap`, the last flush with the end.
    Raises ValueError for a tile that is not positive or an overlap outside 0 … tile - 1.
    """
    if tile < 1:
        raise ValueError(f"tile is {tile}: it must be at least 1 pixel")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap is {overlap}: it must be at least 0 and less than the tile, {tile}")
    if strided:
        (rows, tall), (columns, wide) = (_strides(length, tile, overlap) for length in (height, width))
    else:
        (rows, tall), (columns, wide) = (_starts(length, tile, overlap, multiple) for length in (height, width))
    return [Window(top, left, tall, wide) for top in rows for left in columns]


def around(window: Window, height: int, width: int, reach: int) -> tuple[Window, Window]:
    """A window of an image with up to `reach` pixels on all sides, and where in that the window is."""
    top, left = max(window.top - reach, 0), max(window.left - reach, 0)
    bottom, right = min(window.top + window.height + reach, height), min(window.left + window.width + reach, width)
    inner = Window(window.top - top, window.left - left, window.height, window.width)
    return Window(top, left, bottom - top, right - left), inner


def _starts(length: int, tile: int, overlap: int, multiple: int | None) -> tuple[list[int], int]:
    """Where the windows along one side start, and their side."""
    if length <= tile:
        return [0], length
    count = math.ceil((length - overlap) / (tile - overlap))
    if multiple is not None:
        least = (length + (count - 1) * overlap) / count
        tile = min(tile, math.ceil(least / multiple) * multiple)
    return [round(index * (length - tile) / (count - 1)) for index in range(count)], tile


def _strides(length: int, tile: int, overlap: int) -> tuple[list[int], int]:
    """As `_starts`, at equal distances."""
    if length <= tile:
        return [0], length
    last = length - tile
    return [*range(0, last, tile - overlap), last], tile


def blend(
    function: Callable[[Window], Tensor],
    windows: Iterable[Window],
    height: int,
    width: int,
    scale: int | float | Fraction = 1,
) -> Tensor:
    """Apply a function to every window of an image (height, width) and blend the answers, each by a Gaussian.

    ``function(window)`` gives (B, C, window.height · scale, window.width · scale); the result is
    (B, C, height · scale, width · scale) in float32. ``scale`` is output pixels per pixel of the windows.
    """
    return merge(((window, function(window)) for window in windows), height, width, scale)


def merge(
    pieces: Iterable[tuple[Window, Tensor]],
    height: int,
    width: int,
    scale: int | float | Fraction = 1,
    sigma: float | None = SIGMA,
) -> Tensor:
    """:func:`blend` for pieces that are computed already, or as they are drawn from a generator.

    sigma: standard deviation of a piece's weight over its side; None weighs all of it alike.
    The mean is kept as it runs, m ← m + (x - m) · w / Σw, so that pieces which agree come back to the bit.
    """
    whole = Window(0, 0, height, width).scaled(scale)
    mean = total = None
    for window, piece in pieces:
        place = window.scaled(scale)
        assert piece.shape[-2:] == (place.height, place.width), f"{tuple(piece.shape)} for {place}"
        if mean is None or total is None:
            mean = piece.new_zeros((*piece.shape[:-2], whole.height, whole.width), dtype=torch.float32)
            total = piece.new_zeros((whole.height, whole.width), dtype=torch.float32)
        weight = _weight(place, piece.device, sigma)
        part = total[place.slices].add_(weight)
        inside = mean[place.slices]
        inside += (piece.float() - inside) * (weight / part)
    assert mean is not None, "no windows"
    return mean


def _weight(window: Window, device: torch.device, sigma: float | None) -> Tensor:
    """Weight (height, width): 1 at the window's centre, a Gaussian of standard deviation `sigma` times each side."""
    if sigma is None:
        return torch.ones(window.height, window.width, device=device)
    vertical, horizontal = (
        torch.exp(-0.5 * (((torch.arange(side, device=device) + 0.5) / side - 0.5) / sigma) ** 2)
        for side in (window.height, window.width)
    )
    return vertical[:, None] * horizontal[None, :]


class Groups:
    """Takes windows in groups alike in size.

    most: windows of a group; None for as many as have `pixels` together, but at least one. device: a GPU that takes up
    to `MORE` times as many pixels, as far as it has memory, once a first group of the same `kind` of work has shown how
    much of it a pixel needs. Where memory lacks all the same, groups are halved, and `most` says so from then on.
    """

    def __init__(self, most: int | None, pixels: int = 0, device: torch.device | None = None) -> None:
        self.most, self.pixels, self.device = most, pixels, device
        self.needs: dict[str, float] = {}

    def __call__(
        self, function: Callable[[list[Window]], Tensor], windows: Sequence[Window], kind: str = ""
    ) -> Iterator[tuple[list[Window], Tensor]]:
        """Each group with what the function gives for it; raises what that raises, of memory for a single window."""
        left = list(windows)
        while left:
            group = left[: self._size(left, kind)]
            try:
                output = self._called(function, group, kind)
            except (MemoryError, RuntimeError) as error:
                if len(group) == 1 or not lacks_memory(error):
                    raise
                output = None  # and on, where the error is gone, which holds what was in memory
            if output is None:
                self.most = len(group) // 2
            else:
                yield group, output
                left = left[len(group) :]

    def _size(self, left: Sequence[Window], kind: str) -> int:
        """Of the next group, so that none is nearly empty."""
        most = self.most or self._fitting(left[0], kind)
        return -(-len(left) // -(-len(left) // most))

    def _fitting(self, window: Window, kind: str) -> int:
        """How many windows of a size there may be at a time."""
        pixels: float = self.pixels
        if self.device is not None and kind in self.needs:
            pixels = min(MORE * pixels, SHARE * free_memory(self.device) / self.needs[kind])
        return max(1, int(pixels / window.area))

    def _called(self, function: Callable[[list[Window]], Tensor], group: list[Window], kind: str) -> Tensor:
        """What the function gives for a group; of a first one with a note of the memory that it needs."""
        if self.device is None or self.most is not None or kind in self.needs:
            return function(group)
        torch.cuda.empty_cache()  # or it would work in what others have left
        before = torch.cuda.memory_reserved(self.device)
        output = function(group)
        taken = torch.cuda.memory_reserved(self.device) - before
        self.needs[kind] = max(taken, 1) / sum(window.area for window in group)
        return output

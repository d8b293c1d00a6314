"""Pictures in files, and as the library sees them: float32 RGB tensors (1, 3, H, W) in [0, 1]."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from deedsr import colour
from deedsr.files import replacing
from deedsr.pictures import encoding, exif
from deedsr.pictures.decoding import Raster, decode, described, frames
from deedsr.pictures.formats import INSTALL, Format, check_fits, format_of, needed
from deedsr.pictures.metadata import Density

T = TypeVar("T")

LUMA = (0.299, 0.587, 0.114)
LEVEL = 1 / 255


@dataclass
class Picture:
    """A picture with what its file says about it.

    rgb: (1, 3, H, W) and alpha: (1, 1, H, W), both float32 in [0, 1]. bits: per channel, 8 or 16. grey: stored as one
    channel. icc: colour profile. exif: EXIF data, its orientation applied and reset. format: Pillow's name of the file
    format that it came from, or ``RAW``. xmp, iptc: packets as they are. density: of its print. lossless: whether it
    came from a file of WebP that lost nothing. notes: what of its file was not taken, each a phrase.
    """

    rgb: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    format: str = "PNG"
    xmp: bytes | None = None
    iptc: bytes | None = None
    density: Density | None = None
    lossless: bool = False
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.rgb.shape[-2], self.rgb.shape[-1]

    @property
    def transparent(self) -> bool:
        """Whether any pixel is not wholly opaque."""
        return self.alpha is not None and bool((self.alpha < 1).any())

    @property
    def visible(self) -> Tensor:
        """`rgb` with what lies under wholly transparent pixels drawn from those near them: nobody has seen it."""
        return self.rgb if self.alpha is None else colour.filled(self.rgb, self.alpha > 0)

    @property
    def colourless(self) -> bool:
        """Whether its channels are one, however it is stored: none differs by more than a level of 255."""
        rgb = self.visible
        return self.grey or bool((rgb.amax(1) - rgb.amin(1)).max() <= 1.01 * LEVEL)

    def stripped(self) -> Picture:
        """Without metadata, but with the colour profile, as its colours would else be others."""
        return replace(self, exif=None, xmp=None, iptc=None, density=None)

    def save(self, path: str | Path, quality: int | None = None) -> list[str]:
        """:func:`write` this picture."""
        return write(path, self, quality)

    def to_pil(self) -> Image.Image:
        """The picture as an 8-bit Pillow image of mode L, LA, RGB or RGBA."""
        pixels = _quantised(self, np.dtype(np.uint8))
        return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def read(path: str | Path, frame: int | None = None) -> Picture:
    """Read a picture: 8 or 16 bits, grey, RGB, CMYK or palette, with or without transparency, turned upright.

    frame: number from 0 of a picture in a file of several; None takes the first, and `Picture.notes` says so. Raises
    OSError if the file can't be opened and ValueError, which names the file and the way out, for one that is empty,
    broken or larger than `deedsr.pictures.decoding.MAX_PIXELS`.
    """
    return from_bytes(Path(path).read_bytes(), path, frame)


def from_bytes(data: bytes, name: str | Path, frame: int | None = None) -> Picture:
    """`read` for what a file called `name` holds."""
    return explained(lambda: _from_raster(decode(data, Path(name).suffix, frame)), data, name)


def frame_count(path: str | Path) -> int:
    """How many pictures a file holds; errors as `read`."""
    data = Path(path).read_bytes()
    return explained(lambda: frames(data, Path(path).suffix), data, path)


def explained(function: Callable[[], T], data: bytes, name: str | Path) -> T:
    """What `function` makes of the bytes of a file called `name`. Raises ValueError with the name and the way out."""
    if not data:
        raise ValueError(f"{name}: the file is empty; copy it again from where it came")
    if needed(data):
        raise ValueError(f"{name}: pictures of this kind need more: {INSTALL}; or convert it to PNG")
    try:
        return function()
    except UnidentifiedImageError:
        raise ValueError(f"{name}: not a picture that can be read; convert it to PNG or JPEG") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    except MemoryError:  # not the file's fault
        raise
    except Exception as error:  # Pillow's, in many types, by format and damage
        raise ValueError(f"{name}: the picture is broken ({error}); copy it again from where it came") from None


def from_pil(image: Image.Image) -> Picture:
    """A Pillow image of any 8-bit mode, or of 16-bit grey, as a Picture, turned upright."""
    image.load()
    return _from_raster(described(image))


def _from_raster(raster: Raster) -> Picture:
    """A picture as a file holds it, turned upright, as the library sees it."""
    pixels, turn = raster.pixels, exif.orientation(raster.exif)
    channels, bits = pixels.shape[2], 8 * raster.pixels.itemsize
    values = torch.from_numpy(pixels.astype(np.float32)).div_(2**bits - 1).permute(2, 0, 1)[None]  # (1, C, H, W)
    values = _turned(values, turn).contiguous()
    alpha = values[:, -1:].clone() if channels in (2, 4) else None
    grey = channels < 3
    rgb = values[:, :1].repeat(1, 3, 1, 1) if grey else values[:, :3].contiguous()
    density = raster.density or exif.density(raster.exif)
    if density is not None and turn >= 5:
        density = density.turned()
    return Picture(
        rgb, alpha, bits, grey, raster.icc, exif.upright(raster.exif), raster.format,
        raster.xmp, raster.iptc, density, raster.lossless, raster.notes,
    )  # fmt: skip


def _turned(values: Tensor, orientation: int) -> Tensor:
    """Undo an EXIF orientation: 2-4 are flips, 5-8 flips of the transposed picture."""
    if orientation >= 5:
        values = values.transpose(-1, -2)
    flips = {2: (-1,), 3: (-2, -1), 4: (-2,), 6: (-1,), 7: (-2, -1), 8: (-2,)}
    return values.flip(flips[orientation]) if orientation in flips else values


def write(path: str | Path, picture: Picture, quality: int | None = None) -> list[str]:
    """Write a picture in the format of the file name's extension, whole or not at all.

    quality: 1 … 100 of JPEG, WebP, AVIF, HEIC and JPEG XL, 95 unless said; WebP that came lossless stays so. Returns
    what the format could not hold, each a phrase. Raises ValueError if it can't hold the picture's size or transparency
    and OSError if writing fails.
    """
    path = Path(path)
    check_fits(path, *picture.size, picture.transparent)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no regular file; choose another name")
    content, lost = encode(picture, format_of(path), quality)
    with replacing(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return lost


def encode(picture: Picture, kind: Format, quality: int | None = None) -> tuple[bytes, list[str]]:
    """The bytes of a picture's file in a format, and what that could not hold, each a phrase."""
    deep = kind.deep and picture.bits == 16
    pixels = _quantised(picture, np.dtype(np.uint16 if deep else np.uint8), alpha=kind.alpha)
    raster = Raster(
        pixels, kind.name, picture.icc, picture.exif, picture.xmp, picture.iptc, picture.density, picture.lossless
    )
    return encoding.encode(raster, kind, quality), encoding.losses(raster, picture.bits == 16, kind)


def luma(rgb: Tensor) -> Tensor:
    """Brightness (B, 1, H, W) of (B, 3, H, W)."""
    return sum(weight * rgb[:, [index]] for index, weight in enumerate(LUMA))


def _quantised(picture: Picture, dtype: np.dtype, alpha: bool = True) -> np.ndarray:
    """Pixels (H, W, C) rounded to integers, C = 1 … 4 as the picture is grey and has alpha."""
    planes = [luma(picture.rgb)[0, 0]] if picture.grey else list(picture.rgb[0])
    if alpha and picture.alpha is not None:
        planes.append(picture.alpha[0, 0])
    top = np.iinfo(dtype).max
    pixels = np.empty((*picture.size, len(planes)), dtype)
    for index, plane in enumerate(planes):
        pixels[..., index] = plane.detach().float().cpu().mul(top).round_().clamp_(0, top).numpy()
    return pixels

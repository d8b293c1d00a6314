"""Pictures in files, and as the library sees them: float32 RGB tensors (1, 3, H, W) in [0, 1]."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from deedsr.files import replacing
from deedsr.pictures import exif, rasters
from deedsr.pictures.formats import Format, check_fits, format_of

MAX_PIXELS = 2**26  # of an input: four times larger on each side it would take 13 GB as float32
JPEG_QUALITY = 95  # with 4:4:4 chroma
LUMA = (0.299, 0.587, 0.114)


@dataclass
class Picture:
    """A picture with what its file says about it.

    rgb: (1, 3, H, W) and alpha: (1, 1, H, W), both float32 in [0, 1]. bits: per channel, 8 or 16. grey: the three
    channels are one. icc: colour profile. exif: EXIF data, its orientation applied and reset. format: Pillow's name of
    the file format that it came from.
    """

    rgb: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    format: str = "PNG"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.rgb.shape[-2], self.rgb.shape[-1]

    @property
    def transparent(self) -> bool:
        """Whether any pixel is not wholly opaque."""
        return self.alpha is not None and bool((self.alpha < 1).any())

    def save(self, path: str | Path) -> None:
        """:func:`write` this picture."""
        write(path, self)

    def to_pil(self) -> Image.Image:
        """The picture as an 8-bit Pillow image of mode L, LA, RGB or RGBA."""
        pixels = _quantised(self, np.dtype(np.uint8))
        return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def read(path: str | Path) -> Picture:
    """Read a picture: 8 or 16 bits, grey, RGB, CMYK or palette, with or without transparency, turned upright.

    Raises OSError if the file can't be opened and ValueError, which names the file and the way out, for one that is
    empty, broken, no single picture or larger than MAX_PIXELS.
    """
    data = Path(path).read_bytes()
    if not data:
        raise ValueError(f"{path}: the file is empty; copy it again from where it came")
    try:
        return _decode(data)
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a picture that can be read; convert it to PNG or JPEG") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except MemoryError:  # not the file's fault
        raise
    except Exception as error:  # Pillow's, in many types, by format and damage
        raise ValueError(f"{path}: the picture is broken ({error}); copy it again from where it came") from None


def from_pil(image: Image.Image) -> Picture:
    """A Pillow image of any 8-bit mode, or of 16-bit grey, as a Picture, turned upright."""
    file = image.format or "PNG"
    metadata = exif.read(image)
    turn = exif.orientation(metadata)
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK":
        image, profile = _from_cmyk(image, profile), None
    pixels = np.asarray(image if image.mode.startswith("I;16") else _in_plain_mode(image))
    return _from_pixels(pixels.reshape(*pixels.shape[:2], -1), turn, profile, exif.upright(metadata), file)


def _decode(data: bytes) -> Picture:
    """A picture from the bytes of its file. Raises ValueError and what Pillow raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning)  # of corrupt metadata
        try:
            image = Image.open(io.BytesIO(data))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ValueError(f"more than {MAX_PIXELS} pixels, maybe a decompression bomb; crop it first") from None
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}; crop it first")
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise ValueError(f"holds {image.n_frames} pictures; save the one that you want as a file of its own")
        image.load()  # finds a truncated file
        depth = rasters.bit_depth(data, image)
        if depth not in (1, 2, 4, 8, 16):
            raise ValueError(f"pictures of {depth} bits a channel can't be read; convert it to 8 or 16 bits")
        return _from_deep(data, image) if depth == 16 else from_pil(image)


def _from_deep(data: bytes, image: Image.Image) -> Picture:
    """A picture of 16 bits; `image` is what Pillow says of it."""
    pixels = rasters.decode_deep(data, image)
    metadata = exif.read(image)
    grey = image.mode.startswith("I") or (image.format == "PNG" and data[25] in (0, 4))
    if grey and pixels.shape[2] == 4:  # OpenCV spreads grey with alpha
        pixels = pixels[..., [0, 3]]
    key = image.info.get("transparency")
    if pixels.shape[2] == 1 and isinstance(key, int):
        alpha = np.where(pixels == key, 0, 65535).astype(np.uint16)
        pixels = np.concatenate([pixels, alpha], axis=2)
    profile = image.info.get("icc_profile")
    return _from_pixels(pixels, exif.orientation(metadata), profile, exif.upright(metadata), image.format or "PNG")


def _from_pixels(pixels: np.ndarray, turn: int, icc: bytes | None, metadata: bytes | None, file: str) -> Picture:
    """A picture from pixels (H, W, C) of uint8 or uint16 with 1 to 4 channels, and the EXIF orientation to undo."""
    channels = pixels.shape[2]
    bits = 8 * pixels.itemsize
    values = torch.from_numpy(pixels.astype(np.float32)).div_(2**bits - 1).permute(2, 0, 1)[None]  # (1, C, H, W)
    values = _turned(values, turn).contiguous()
    alpha = values[:, -1:].clone() if channels in (2, 4) else None
    grey = channels < 3
    rgb = values[:, :1].repeat(1, 3, 1, 1) if grey else values[:, :3].contiguous()
    return Picture(rgb, alpha, bits, grey, icc, metadata, file)


def _turned(values: Tensor, orientation: int) -> Tensor:
    """Undo an EXIF orientation: 2-4 are flips, 5-8 flips of the transposed picture."""
    if orientation >= 5:
        values = values.transpose(-1, -2)
    flips = {2: (-1,), 3: (-2, -1), 4: (-2,), 6: (-1,), 7: (-2, -1), 8: (-2,)}
    return values.flip(flips[orientation]) if orientation in flips else values


def _from_cmyk(image: Image.Image, profile: bytes | None) -> Image.Image:
    """CMYK to sRGB, by `profile` if it is a usable one."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _in_plain_mode(image: Image.Image) -> Image.Image:
    """The image in mode L, LA, RGB or RGBA."""
    if image.mode in ("F", "I", "LAB", "HSV"):
        raise ValueError(f"pictures of kind {image.mode} can't be read; convert it to RGB")
    transparent = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode == "La":
        return image.convert("LA")
    if transparent:
        return image.convert("RGBA").convert("LA") if grey else image.convert("RGBA")
    return image.convert("L" if grey else "RGB")


def write(path: str | Path, picture: Picture) -> None:
    """Write a picture in the format of the file name's extension, whole or not at all.

    Kept where the format can hold it: 16 bits (PNG, TIFF), transparency (not JPEG and BMP), ICC and EXIF (not BMP).
    JPEG and WebP have quality 95. Raises ValueError if the format can't hold the picture's size or transparency and
    OSError if writing fails.
    """
    path = Path(path)
    check_fits(path, *picture.size, picture.transparent)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no regular file; choose another name")
    content = encode(picture, format_of(path))
    with replacing(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def encode(picture: Picture, kind: Format) -> bytes:
    """The bytes of a picture's file in a format."""
    deep = kind.deep and picture.bits == 16
    pixels = _quantised(picture, np.dtype(np.uint16 if deep else np.uint8), alpha=kind.alpha)
    if kind.name == "TIFF":
        return rasters.encode_tiff(pixels, picture.icc, picture.exif)
    if deep:
        return rasters.encode_png(pixels, picture.icc, picture.exif)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    options: dict[str, object] = {}
    if picture.icc:
        options["icc_profile"] = picture.icc
    if picture.exif and (kind.name != "JPEG" or len(picture.exif) < 65520):  # a JPEG segment holds 64 KB
        options["exif"] = exif.PREFIX + picture.exif
    if kind.name == "JPEG":
        options |= {"quality": JPEG_QUALITY, "subsampling": "4:4:4"}
    if kind.name == "WEBP":
        options |= {"quality": JPEG_QUALITY, "exact": True}
    file = io.BytesIO()
    image.save(file, kind.name, **options)
    return file.getvalue()


def _quantised(picture: Picture, dtype: np.dtype, alpha: bool = True) -> np.ndarray:
    """Pixels (H, W, C) rounded to integers, C = 1 … 4 as the picture is grey and has alpha."""
    rgb = picture.rgb[0]
    planes = [sum(weight * plane for weight, plane in zip(LUMA, rgb, strict=True))] if picture.grey else list(rgb)
    if alpha and picture.alpha is not None:
        planes.append(picture.alpha[0, 0])
    top = np.iinfo(dtype).max
    pixels = np.empty((*picture.size, len(planes)), dtype)
    for index, plane in enumerate(planes):
        pixels[..., index] = plane.detach().float().cpu().mul(top).round_().clamp_(0, top).numpy()
    return pixels

"""From the bytes of a picture's file to pixels, and to what else the file says."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from deedsr.pictures import exif, metadata, rasters
from deedsr.pictures.formats import INSTALL, RAW, READERS
from deedsr.pictures.metadata import Density

MAX_PIXELS = 2**26  # of an input: four times larger on each side it would take 13 GB as float32
MAX_TEXT = 2**26  # bytes of one text or profile in a PNG file
LAYERS = ("MPO", "PSD", "ICO")  # their further pictures are previews, layers and sizes of the first
_DNG = 50706  # its version, in a directory of TIFF
_CRX, _RAF = b"ftypcrx ", b"FUJIFILMCCD-RAW "


@dataclass(frozen=True)
class Raster:
    """A picture as files hold it.

    pixels: (H, W, C) of uint8 or uint16, C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. format: Pillow's name. icc,
    exif, xmp, iptc, density: what the file says besides; the orientation in EXIF is not applied yet. lossless: whether
    a format that may lose something did not. notes: what of the file was not taken, each a phrase.
    """

    pixels: np.ndarray
    format: str = "PNG"
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    density: Density | None = None
    lossless: bool = False
    notes: tuple[str, ...] = ()


def decode(data: bytes, suffix: str = "", frame: int | None = None) -> Raster:
    """The picture in the bytes of a file, of several the first, or number `frame` from 0.

    suffix: of the file's name, by which camera RAW is known. Raises ValueError and what Pillow raises.
    """
    if suffix.lower() in RAW or data[4:12] == _CRX or data[:16] == _RAF or _DNG in exif.tags(data):
        return _developed(data)
    with _patient():
        image = _opened(data)
        count = _frames(image)
        if frame:
            image.seek(frame)
        sideways = image.format == "TIFF" and image.tag_v2.get(exif.ORIENTATION, 1) >= 5
        image.load()  # finds a truncated file, and turns TIFF upright
        if image.format in ("PNG", "TIFF") and rasters.bit_depth(data, image) == 16:
            pixels = rasters.decode_deep(data, image)
        elif image.format == "HEIF" and image.info.get("bit_depth", 8) > 8:
            pixels = _deep_heif(data, image.tell())
        else:
            pixels = _plain(image)
        raster = described(image, pixels)
    if sideways and raster.density is not None:
        raster = replace(raster, density=raster.density.turned())
    notes = [f"holds {count} pictures, the first was taken; `frames` takes all"] if frame is None and count > 1 else []
    depth = _deeper(data, image)
    if depth > 8 and pixels.dtype == np.uint8:
        notes.append(f"its {depth} bits a channel became 8")
    return replace(raster, notes=(*notes, *raster.notes), lossless=_has_chunk(data, b"VP8L"))


def frames(data: bytes, suffix: str = "") -> int:
    """How many pictures the bytes of a file hold; errors as `decode`."""
    if suffix.lower() in RAW:
        return 1
    with _patient():
        return _frames(_opened(data))


def described(image: Image.Image, pixels: np.ndarray | None = None) -> Raster:
    """A loaded Pillow image with all that it says; pixels: in place of its own, where Pillow reads others."""
    profile, notes = image.info.get("icc_profile") or None, []
    if image.mode == "CMYK":
        notes, profile = ["its CMYK colours became sRGB"], None
    if pixels is None:
        pixels = _plain(image)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    space, fitting = (profile or b"")[16:20], (b"RGB ", b"GRAY") if pixels.shape[2] < 3 else (b"RGB ",)
    if profile and space in (b"GRAY", b"CMYK", b"Lab ", b"RGB ") and space not in fitting:
        notes.append(f"its colour profile is for {space.decode().strip()} pixels and was left out")
        profile = None
    packet = metadata.xmp(image)
    if packet:  # the pixels get turned, and nobody is to turn them again
        packet = re.sub(rb"(tiff:Orientation(?:=['\"]|>)\s*)[2-8]", rb"\g<1>1", packet)
    print_size = metadata.density(image)
    return Raster(
        pixels,
        image.format or "PNG",
        profile,
        exif.without_thumbnail(exif.read(image)),
        packet,
        metadata.iptc(image),
        print_size,
        notes=tuple(notes),
    )


@contextmanager
def _patient() -> Iterator[None]:
    """With Pillow's warnings of huge pictures as errors, those of corrupt metadata unsaid, and room for long texts."""
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT, 4 * MAX_TEXT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)
            yield
    except ValueError as error:
        if "MAX_TEXT" in str(error):
            raise ValueError(f"holds a text of more than {MAX_TEXT} bytes; save it anew without") from None
        raise
    finally:
        PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = limits


def _opened(data: bytes) -> Image.Image:
    """A Pillow image whose size is known to be bearable."""
    try:
        image = Image.open(io.BytesIO(data), formats=[*READERS, *register()])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"more than {MAX_PIXELS} pixels, maybe a decompression bomb; crop it first") from None
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}; crop it first")
    return image


@cache
def register() -> list[str]:
    """The formats of the extra ``formats`` that are installed, made known to Pillow."""
    names = []
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
        names.append("HEIF")
    except ImportError:
        pass
    try:
        import pillow_jxl  # noqa: F401

        names.append("JXL")
    except ImportError:
        pass
    return names


def _frames(image: Image.Image) -> int:
    return 1 if image.format in LAYERS else getattr(image, "n_frames", 1)


def _plain(image: Image.Image) -> np.ndarray:
    """Pixels of a Pillow image, of 16 bits where it is grey and has them."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "CMYK":
        image = _from_cmyk(image, image.info.get("icc_profile"))
    return np.asarray(_in_plain_mode(image))


def _from_cmyk(image: Image.Image, profile: bytes | None) -> Image.Image:
    """CMYK to sRGB, by `profile` if it is a usable one."""
    converted = to_srgb(image, profile) if profile else None
    return image.convert("RGB") if converted is None else converted


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """An 8-bit image in the colours of `profile` as sRGB, RGB or RGBA; None where the profile is no use."""
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


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


def _deep_heif(data: bytes, number: int) -> np.ndarray:
    """Pixels of one picture of a HEIC file of more than 8 bits, in 16."""
    import pillow_heif

    return np.asarray(pillow_heif.open_heif(data, convert_hdr_to_8bit=False)[number]).astype(np.uint16)


def _developed(data: bytes) -> Raster:
    """Camera RAW in sRGB with the camera's white balance, 16 bits, turned upright."""
    try:
        import rawpy
    except ImportError:
        raise ValueError(f"camera RAW needs more: {INSTALL}; or develop it to TIFF first") from None
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            pixels = raw.postprocess(use_camera_wb=True, output_bps=16, output_color=rawpy.ColorSpace.sRGB)
    except rawpy.LibRawError as error:
        raise ValueError(f"camera RAW that can't be developed ({error}); develop it to TIFF first") from None
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise ValueError(f"{pixels.shape[1]}x{pixels.shape[0]} pixels, more than {MAX_PIXELS}; crop it first")
    return Raster(pixels.astype(np.uint16), "RAW", exif=exif.of_raw(data))


def _deeper(data: bytes, image: Image.Image) -> int:
    """Bits per channel of formats that Pillow reads in 8 without a word."""
    if image.format == "AVIF" and (place := data.find(b"av1C")) >= 0 and place + 7 <= len(data):
        flags = data[place + 6]
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    if image.format == "JPEG2000" and (place := data.find(b"\xff\x4f\xff\x51")) >= 0 and place + 43 <= len(data):
        return (data[place + 42] & 0x7F) + 1  # Ssiz of the first component
    if image.format == "PPM" and (found := re.match(rb"P[36]\s(?:#[^\n]*\s)*\s*\d+\s+\d+\s+(\d+)\s", data[:512])):
        return max(8, int(found[1]).bit_length())
    return 8


def _has_chunk(data: bytes, name: bytes) -> bool:
    """Whether a WebP file has a chunk of this name."""
    place = 12
    while data[:4] == b"RIFF" and place + 8 <= len(data):
        if data[place : place + 4] == name:
            return True
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return False

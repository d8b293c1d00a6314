"""From pixels, and all else that a picture says, to the bytes of its file."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from deedsr.pictures import exif, rasters
from deedsr.pictures.decoding import Raster, register, to_srgb
from deedsr.pictures.formats import Format
from deedsr.pictures.metadata import SEGMENT, jpeg_density, jpeg_segments, png_chunks

QUALITY = 95  # with 4:4:4 chroma


def losses(raster: Raster, deep: bool, kind: Format) -> list[str]:
    """What of a picture a format can't hold, each a phrase. deep: whether the picture has 16 bits."""
    found = []
    if deep and not kind.deep:
        found.append(f"its 16 bits a channel became 8, as {kind.name} holds no more here")
    if raster.icc and not kind.icc and not _is_srgb(raster.icc):
        found.append(f"its colours became sRGB, as {kind.name} holds no colour profile here")
    for name, held in (("exif", kind.exif), ("xmp", kind.xmp), ("iptc", kind.iptc)):
        data = getattr(raster, name)
        if data and not held:
            found.append(f"its {name.upper()} data are left out, as {kind.name} holds none here")
        elif data and not _fits(data, kind):
            found.append(f"its {len(data)} bytes of {name.upper()} data are left out, as JPEG holds {SEGMENT}")
    return found


def encode(raster: Raster, kind: Format, quality: int | None = None) -> bytes:
    """The bytes of a picture's file in a format, without what `losses` says. quality: 1 … 100 of a lossy one."""
    size = raster.pixels.shape[:2]
    raster = replace(raster, exif=exif.fitting(raster.exif, size, raster.density))
    if not kind.density and raster.density and raster.exif is None:
        raster = replace(raster, exif=exif.of_print(raster.density))
    if raster.icc and not kind.icc:
        raster = _in_srgb(raster, raster.icc)
    if kind.name == "TIFF":
        return rasters.encode_tiff(raster.pixels, raster.icc, raster.exif, raster.xmp, raster.iptc, raster.density)
    if kind.name == "PNG":
        data = rasters.encode_png(raster.pixels, raster.icc, raster.exif) if _deep(raster) else _by_pillow(raster, kind)
        return data[:33] + png_chunks(raster.xmp, raster.iptc, raster.density) + data[33:]
    data = _by_pillow(raster, kind, quality)
    if kind.name == "JPEG" and raster.density and not raster.density.inches:
        data = jpeg_density(data, raster.density)
    return data


def _deep(raster: Raster) -> bool:
    return raster.pixels.dtype == np.uint16


def _by_pillow(raster: Raster, kind: Format, quality: int | None = None) -> bytes:
    """The file as Pillow writes it, of 8 bits."""
    pixels = raster.pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    options: dict[str, object] = {}
    if raster.icc and kind.icc:
        options["icc_profile"] = raster.icc
    if raster.exif and kind.exif and _fits(raster.exif, kind):
        options["exif"] = exif.PREFIX + raster.exif
    if raster.xmp and kind.xmp and kind.name != "PNG" and _fits(raster.xmp, kind):
        options["xmp"] = raster.xmp
    if raster.density and raster.density.inches and kind.name in ("JPEG", "BMP"):
        options["dpi"] = tuple(min(side, 65535) for side in (raster.density.across, raster.density.down))
    if kind.lossy:
        options["quality"] = quality or QUALITY
    if kind.name == "JPEG":
        records = raster.iptc if raster.iptc and _fits(raster.iptc, kind) else None
        options |= {"subsampling": "4:4:4", "extra": jpeg_segments(records)}
    elif kind.name == "WEBP":
        options |= {"exact": True, "lossless": raster.lossless and quality is None}
    elif kind.name == "AVIF":
        options["subsampling"] = "4:4:4"
    elif kind.name == "HEIF":
        options["chroma"] = 444
    elif kind.name == "JXL":
        options["lossless"] = quality == 100  # which the plugin takes for a mistake else
    if kind.module:
        register()
    file = io.BytesIO()
    image.save(file, kind.name, **options)
    return file.getvalue()


def _fits(data: bytes, kind: Format) -> bool:
    """Whether EXIF, XMP or IPTC data are short enough: a segment of a JPEG file holds 64 KB."""
    return kind.name != "JPEG" or len(data) <= SEGMENT


def _is_srgb(profile: bytes) -> bool:
    """Whether a profile calls itself sRGB; b"_SRG" is how libjxl abbreviates it."""
    plain = profile.replace(b"\0", b"")
    return b"sRGB" in plain or b"_SRG" in plain


def _in_srgb(raster: Raster, profile: bytes) -> Raster:
    """The same in sRGB, of 8 bits, without the profile."""
    pixels = raster.pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    converted = None if _is_srgb(profile) else to_srgb(image, profile)
    if converted is not None:
        pixels = np.asarray(converted)
    return replace(raster, pixels=pixels, icc=None)

"""What Pillow can't do: 16-bit PNG and TIFF files in colour, and compressed TIFF files that keep EXIF data.

Pixels here are numpy arrays (height, width, channels) of uint8 or uint16 with 1 (grey), 2 (grey, alpha), 3 (RGB) or
4 (RGBA) channels.
"""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from deedsr.pictures import exif
from deedsr.pictures.metadata import IPTC_TIFF, XMP_TIFF, Density, chunk

_PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # channels → colour type
_LEVEL = 4  # of zlib: a little larger than the default and twice as fast
_STRIP_ROWS = 256
_CHUNK = 2**24
UNREADABLE = "this kind of 16-bit picture can't be read; convert it to an RGB PNG"
_DEFLATE, _HORIZONTAL, _STRAIGHT_ALPHA = 8, 2, 2


def bit_depth(data: bytes, image: Image.Image) -> int:
    """Bits per channel of an encoded PNG or TIFF picture that Pillow has opened.

    Raises ValueError for depths and kinds of numbers that can't be read.
    """
    if image.format == "PNG":
        return data[24]
    depth = max(image.tag_v2.get(258, (1,)))
    if not set(image.tag_v2.get(339, (1,))) <= {1, 4}:
        raise ValueError("numbers with a sign or a point in place of whole ones can't be read; convert it to 16 bits")
    if depth not in (1, 2, 4, 8, 16):
        raise ValueError(f"pictures of {depth} bits a channel can't be read; convert it to 8 or 16 bits")
    return depth


def decode_deep(data: bytes, image: Image.Image) -> np.ndarray:
    """Pixels of a 16-bit PNG or TIFF file, opened as `image`, in uint16; TIFF's orientation is applied, EXIF's is not.

    Of a file with several pages it is the one that `image` is at. Raises ValueError if the file can't be decoded to 16
    bits, and for kinds of TIFF that OpenCV takes for others: planes one after another, other colours than grey and RGB,
    white as zero, premultiplied colours.
    """
    tiff = image.format == "TIFF"
    planes, colours, extra, samples = (image.tag_v2.get(tag) if tiff else None for tag in (284, 262, 338, 277))
    if tiff and ((planes == 2 and samples != 1) or colours not in (1, 2) or extra == (1,)):
        raise ValueError(UNREADABLE)
    try:
        encoded = np.frombuffer(data, np.uint8)
        if tiff and image.tell():
            pixels = cv2.imdecodemulti(encoded, cv2.IMREAD_UNCHANGED)[1][image.tell()]
        else:
            pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except (cv2.error, IndexError):
        pixels = None
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError(UNREADABLE)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    channels = pixels.shape[2]
    pixels = pixels[..., [2, 1, 0, 3][:channels]] if channels >= 3 else pixels
    if extra == (0,):  # no transparency, but a selection or the like
        return pixels[..., :-1]
    grey = image.mode.startswith("I") or (not tiff and data[25] in (0, 4))
    if grey and channels == 4:  # OpenCV spreads grey with alpha
        pixels = pixels[..., [0, 3]]
    key = image.info.get("transparency")
    if isinstance(key, int | tuple) and pixels.shape[2] in (1, 3):
        alpha = np.where((pixels == np.array(key)).all(2, keepdims=True), 0, 65535).astype(np.uint16)
        pixels = np.concatenate([pixels, alpha], axis=2)
    return pixels


def encode_png(pixels: np.ndarray, icc: bytes | None, exif_data: bytes | None) -> bytes:
    """A 16-bit PNG file (PNG specification, third edition: chunks of section 11, filter "up" of section 9)."""
    height, width, channels = pixels.shape
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOUR[channels], 0, 0, 0))]
    if icc:
        parts.append(chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if exif_data:
        parts.append(chunk(b"eXIf", exif_data))
    content = zlib.compress(filtered.data, _LEVEL)
    parts += [chunk(b"IDAT", content[at : at + _CHUNK]) for at in range(0, len(content), _CHUNK)]
    parts.append(chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encode_tiff(
    pixels: np.ndarray,
    icc: bytes | None,
    exif_data: bytes | None,
    xmp: bytes | None = None,
    iptc: bytes | None = None,
    density: Density | None = None,
) -> bytes:
    """An 8- or 16-bit TIFF file (TIFF 6.0), compressed by deflate with horizontal differences.

    Grey with alpha is written as RGBA, because few programs read it.
    """
    if pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    height, width, channels = pixels.shape
    strips = [_strip(pixels[top : top + _STRIP_ROWS]) for top in range(0, height, _STRIP_ROWS)]
    sizes = [len(strip) for strip in strips]
    tags = ImageFileDirectory_v2()
    _copy_exif(tags, exif_data)
    tags[256], tags[257] = width, height
    tags[258] = (8 * pixels.itemsize,) * channels
    tags[259], tags[317] = _DEFLATE, _HORIZONTAL
    tags[262] = 1 if channels == 1 else 2  # black is zero | RGB
    tags[273] = tuple(sum(sizes[:index]) for index in range(len(sizes)))  # offsets, from the end of the directory
    tags[277], tags[278], tags[279], tags[284] = channels, _STRIP_ROWS, tuple(sizes), 1
    if channels == 4:
        tags[338] = _STRAIGHT_ALPHA
    for tag, value in ((34675, icc), (XMP_TIFF, xmp), (IPTC_TIFF, iptc)):
        if value:
            tags[tag] = value
    if density is not None:
        tags[exif.ACROSS], tags[exif.DOWN] = density.across, density.down
        tags[exif.UNIT] = 2 if density.inches else 1
    file = io.BytesIO()
    tags.save(file)
    return file.getvalue() + b"".join(strips)


def _strip(pixels: np.ndarray) -> bytes:
    """Rows with every sample but a row's first replaced by its difference to the sample on its left."""
    differences = pixels.copy()
    differences[:, 1:] -= pixels[:, :-1]
    return zlib.compress(differences.astype(differences.dtype.newbyteorder("<")).tobytes(), _LEVEL)


def _copy_exif(tags: ImageFileDirectory_v2, data: bytes | None) -> None:
    """Put what can be written of EXIF data into a TIFF directory."""
    plain, directories = exif.writable(exif.parse(data))
    for tag, value in (plain | directories).items():
        tags[tag] = value

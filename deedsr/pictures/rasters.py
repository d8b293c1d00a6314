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

_PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # channels → colour type
_LEVEL = 4  # of zlib: a little larger than the default and twice as fast
_STRIP_ROWS = 256
_CHUNK = 2**24
UNREADABLE = "this kind of 16-bit picture can't be read; convert it to an RGB PNG"
_DEFLATE, _HORIZONTAL, _STRAIGHT_ALPHA = 8, 2, 2


def bit_depth(data: bytes, image: Image.Image) -> int:
    """Bits per channel of an encoded picture that Pillow has opened; of files other than PNG and TIFF, 8."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,)))
    return 16 if image.mode in ("I", "I;16", "I;16B", "I;16L") else 8


def decode_deep(data: bytes, image: Image.Image) -> np.ndarray:
    """Pixels of a 16-bit PNG or TIFF file, opened as `image`, in uint16; TIFF's orientation is applied, EXIF's is not.

    Raises ValueError if the file can't be decoded to 16 bits, and for kinds of TIFF that OpenCV takes for others:
    planes one after another, other colours than grey and RGB, white as zero, premultiplied colours.
    """
    tiff = image.format == "TIFF"
    planes, colours, extra, samples = (image.tag_v2.get(tag) if tiff else None for tag in (284, 262, 338, 277))
    if tiff and ((planes == 2 and samples != 1) or colours not in (1, 2) or extra == (1,)):
        raise ValueError(UNREADABLE)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError(UNREADABLE)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    channels = pixels.shape[2]
    pixels = pixels[..., [2, 1, 0, 3][:channels]] if channels >= 3 else pixels
    return pixels[..., :-1] if extra == (0,) else pixels  # no transparency, but a selection or the like


def encode_png(pixels: np.ndarray, icc: bytes | None, exif_data: bytes | None) -> bytes:
    """A 16-bit PNG file (PNG specification, third edition: chunks of section 11, filter "up" of section 9)."""
    height, width, channels = pixels.shape
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    parts = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOUR[channels], 0, 0, 0))]
    if icc:
        parts.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if exif_data:
        parts.append(_chunk(b"eXIf", exif_data))
    content = zlib.compress(filtered.data, _LEVEL)
    parts += [_chunk(b"IDAT", content[at : at + _CHUNK]) for at in range(0, len(content), _CHUNK)]
    parts.append(_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file: length, kind, content and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encode_tiff(pixels: np.ndarray, icc: bytes | None, exif_data: bytes | None) -> bytes:
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
    if icc:
        tags[34675] = icc
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

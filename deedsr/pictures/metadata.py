"""What picture files say beside their pixels and EXIF: XMP, IPTC and the print resolution."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image

IPTC_TIFF, XMP_TIFF, PHOTOSHOP_TIFF = 33723, 700, 34377
IPTC_RESOURCE = 0x0404
SEGMENT = 65502
"""Bytes that a segment of a JPEG file holds of EXIF, XMP or IPTC data, beside what it begins with."""


@dataclass(frozen=True)
class Density:
    """Pixels of a printed picture across and down: to the inch, or in their proportion alone."""

    across: float
    down: float
    inches: bool = True

    def times(self, across: float, down: float) -> Density:
        """Of the same print, with more pixels."""
        return Density(self.across * across, self.down * down, self.inches)

    def turned(self) -> Density:
        """Of the same print, a quarter turn on."""
        return Density(self.down, self.across, self.inches)


def density(image: Image.Image) -> Density | None:
    """What an opened picture says of its print; None for nothing, and for no more than square pixels."""
    info = image.info
    pair, inches = info.get("dpi"), True
    if image.format == "TIFF" and image.tag_v2.get(296, 2) == 1:
        inches = False
    if pair is None:
        inches = False
        pair = info.get("aspect") or (info.get("jfif_density") if info.get("jfif_unit") == 0 else None)
    missing = image.format == "TIFF" and 282 not in image.tag_v2
    if missing or (image.format in ("JPEG", "MPO") and "jfif_unit" not in info):  # Pillow would make one up
        return None
    with suppress(TypeError, ValueError, ZeroDivisionError, IndexError):
        across, down = float(pair[0]), float(pair[1])
        if 0 < across < 1e6 and 0 < down < 1e6 and (inches or across != down):
            return Density(across, down, inches)
    return None


def xmp(image: Image.Image) -> bytes | None:
    """The XMP packet of an opened picture."""
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or raw_profile(image, "xmp")
    if isinstance(found, str):
        found = found.encode("utf-8", "surrogateescape")
    return found if isinstance(found, bytes) and found else None


def iptc(image: Image.Image) -> bytes | None:
    """The IPTC records of an opened picture."""
    resources = image.info.get("photoshop")
    found: Any = resources.get(IPTC_RESOURCE) if isinstance(resources, dict) else None
    if image.format == "TIFF":
        stored = image.tag_v2._tagdata  # whatever type the records were given, their bytes
        found = stored.get(IPTC_TIFF) or stored.get(PHOTOSHOP_TIFF)
    found = found or raw_profile(image, "iptc") or raw_profile(image, "8bim")
    if isinstance(found, bytes) and found[:4] == b"8BIM":
        found = _resource(found)
    return found.rstrip(b"\0") if isinstance(found, bytes) and found[:1] == b"\x1c" else None


def _resource(block: bytes) -> bytes | None:
    """The IPTC records among Photoshop's resources, each of which is a signature, a number, a name and its content."""
    at = 0
    with suppress(struct.error, IndexError):
        while block[at : at + 4] == b"8BIM":
            number, name = struct.unpack_from(">HB", block, at + 4)
            at += 7 + name + (name + 1) % 2
            size = struct.unpack_from(">I", block, at)[0]
            if number == IPTC_RESOURCE:
                return block[at + 4 : at + 4 + size]
            at += 4 + size + size % 2
    return None


def resource(records: bytes) -> bytes:
    """IPTC records as one of Photoshop's resources, as JPEG files and ImageMagick's profiles hold them."""
    padding = b"\0" * (len(records) % 2)
    return b"8BIM" + struct.pack(">HHI", IPTC_RESOURCE, 0, len(records)) + records + padding


def raw_profile(image: Image.Image, kind: str) -> bytes | None:
    """A profile as ImageMagick writes it into a text of a PNG file, in hexadecimal digits."""
    text = image.info.get(f"Raw profile type {kind}")
    with suppress(ValueError):
        if isinstance(text, str):
            return bytes.fromhex("".join(text.split("\n")[3:]))
    return None


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file: length, kind, content and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_chunks(packet: bytes | None, records: bytes | None, print_size: Density | None) -> bytes:
    """XMP, IPTC and the print resolution as chunks that stand behind a PNG file's header."""
    parts = []
    if print_size is not None:
        per = 1 / 0.0254 if print_size.inches else 1 / min(print_size.across, print_size.down, 1)
        sides = (round(print_size.across * per), round(print_size.down * per))
        parts.append(chunk(b"pHYs", struct.pack(">IIB", *sides, int(print_size.inches))))
    if packet:
        parts.append(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
    if records:
        digits = resource(records).hex()
        lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
        text = f"\niptc\n{len(digits) // 2:8}\n{lines}\n".encode()
        parts.append(chunk(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text)))
    return b"".join(parts)


def jpeg_segments(records: bytes | None) -> bytes:
    """IPTC records as a segment of a JPEG file."""
    if not records:
        return b""
    content = b"Photoshop 3.0\0" + resource(records)
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content


def jpeg_density(data: bytes, print_size: Density) -> bytes:
    """The same JPEG file, whose JFIF header says what the print's proportion is."""
    if data[2:4] != b"\xff\xe0" or data[6:11] != b"JFIF\0":
        return data
    across, down = print_size.across, print_size.down
    most = max(across, down, 1)
    scale = 65535 / most if most > 65535 else 1 / min(across, down, 1)
    sides = (min(round(side * scale), 65535) for side in (across, down))
    return data[:13] + struct.pack(">BHH", 0, *sides) + data[18:]

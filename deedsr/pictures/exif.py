"""EXIF data as raw bytes (a TIFF structure, without the ``Exif`` prefix of JPEG files)."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import Image

PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
_SHORT = 3
BROKEN = (ArithmeticError, AttributeError, KeyError, OSError, SyntaxError, TypeError, ValueError, struct.error)
"""What Pillow raises for entries that it can't read or write."""
# Tags that describe how a TIFF file lays out its pixels, or that are stored apart (ICC, XMP, IPTC, Photoshop).
LAYOUT = {
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291),
    *(292, 293, 297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 337, 338, 339, 340),
    *(341, 342, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532, 700, 32995, 32996, 32997, 33723, 34377, 34675),
}


def read(image: Image.Image) -> bytes | None:
    """The EXIF data of an opened (and, for TIFF, loaded) Pillow image; None if there is none."""
    if image.format == "TIFF":
        return _from_tiff(image)
    data = image.info.get("exif")
    if data is None and "Raw profile type exif" in image.info:  # as ImageMagick writes into PNG
        try:
            data = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
        except ValueError:
            return None
    return data.removeprefix(PREFIX) if data else None


def _from_tiff(image: Image.Image) -> bytes | None:
    """EXIF data from the directories of a TIFF file, which hold its layout as well."""
    plain, directories = writable(image.getexif())
    plain.pop(ORIENTATION, None)
    kept = Image.Exif()
    for tag, value in plain.items():
        kept[tag] = value
    for tag, entries in directories.items():
        kept.get_ifd(tag).update(entries)
    return kept.tobytes().removeprefix(PREFIX) if plain or directories else None


def writable(found: Image.Exif) -> tuple[dict[int, Any], dict[int, dict[int, Any]]]:
    """What of `found` can be written and says nothing of pixels' layout: entries, and directories of entries.

    Cameras and editors store what no TIFF directory may hold, as a negative number where there is no sign; such
    entries are left out.
    """
    plain = _writable_entries(found, LAYOUT | {EXIF_IFD, GPS_IFD, INTEROP_IFD})
    directories = {}
    for tag in (EXIF_IFD, GPS_IFD):
        with suppress(*BROKEN):
            if tag in found:
                directories[tag] = _writable_entries(found.get_ifd(tag), {INTEROP_IFD}, tag)
    return plain, directories


def _writable_entries(entries: Mapping[int, Any], left_out: set[int], directory: int | None = None) -> dict[int, Any]:
    """Those of `entries`, of the first directory or of `directory`, that Pillow can write, without `left_out`."""
    kept = {}
    for tag in entries.keys() - left_out:
        with suppress(*BROKEN):
            alone = Image.Exif()
            (alone if directory is None else alone.get_ifd(directory))[tag] = entries[tag]
            alone.tobytes()
            kept[tag] = entries[tag]
    return kept


def orientation(data: bytes | None) -> int:
    """The orientation 1 … 8 in EXIF data; 1 (upright) if it is missing or not readable."""
    place = _orientation_place(data)
    if data is None or place is None:
        return 1
    order, offset = place
    value = struct.unpack_from(order + "H", data, offset)[0]
    return value if 1 <= value <= 8 else 1


def upright(data: bytes | None) -> bytes | None:
    """The same EXIF data with the orientation set to 1; every other byte stays, so offsets in maker notes hold."""
    place = _orientation_place(data)
    if data is None or place is None:
        return data
    order, offset = place
    changed = bytearray(data)
    struct.pack_into(order + "H", changed, offset, 1)
    return bytes(changed)


def _orientation_place(data: bytes | None) -> tuple[str, int] | None:
    """Byte order and offset of the orientation's value in the first directory."""
    orders = {b"II*\0": "<", b"MM\0*": ">"}
    if data is None or data[:4] not in orders:
        return None
    order = orders[data[:4]]
    try:
        start = struct.unpack_from(order + "I", data, 4)[0]
        for index in range(struct.unpack_from(order + "H", data, start)[0]):
            entry = start + 2 + 12 * index
            tag, kind, count = struct.unpack_from(order + "HHI", data, entry)
            if (tag, kind, count) == (ORIENTATION, _SHORT, 1) and entry + 12 <= len(data):
                return order, entry + 8
    except struct.error:
        return None
    return None


def parse(data: bytes | None) -> Image.Exif:
    """EXIF data as Pillow's object; empty if there is none or it can't be read."""
    found = Image.Exif()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # of corrupt data
        try:
            found.load(data)
        except BROKEN:
            return Image.Exif()
    return found

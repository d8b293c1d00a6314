"""EXIF data as raw bytes (a TIFF structure, without the ``Exif`` prefix of JPEG files)."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from typing import Any

from PIL import Image

from deedsr.pictures.metadata import Density, raw_profile

PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
WIDTHS, HEIGHTS = (256, 40962), (257, 40963)  # in pixels, of the first directory and of EXIF's own
ACROSS, DOWN, UNIT = 282, 283, 296
_SHORT, _LONG, _RATIONAL = 3, 4, 5
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
        return _from_tiff(image.getexif())
    data = image.info.get("exif") or raw_profile(image, "exif")
    return data.removeprefix(PREFIX) if data else None


def _from_tiff(found: Image.Exif, most: int = 0xFFFF) -> bytes | None:
    """EXIF data from the directories of a TIFF file, which hold its layout as well. most: the highest tag."""
    plain, directories = writable(found)
    plain = {tag: value for tag, value in plain.items() if tag <= most and tag != ORIENTATION}
    kept = Image.Exif()
    for tag, value in plain.items():
        kept[tag] = value
    for tag, entries in directories.items():
        kept.get_ifd(tag).update(entries)
    return kept.tobytes().removeprefix(PREFIX) if plain or directories else None


def of_raw(data: bytes) -> bytes | None:
    """The EXIF data of a camera RAW file that is laid out as TIFF, as most are, without what says how to develop it."""
    return _from_tiff(parse(data), most=0x9FFF) if data[:2] in (b"II", b"MM") else None


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
            alone, value = Image.Exif(), entries[tag]
            if isinstance(value, str) and not value.isascii():  # Pillow reads each byte as a letter, and writes `?`
                value = value.encode("latin-1" if max(value) < "\u0100" else "utf-8")
            (alone if directory is None else alone.get_ifd(directory))[tag] = value
            alone.tobytes()
            kept[tag] = value
    return kept


def orientation(data: bytes | None) -> int:
    """The orientation 1 … 8 in EXIF data; 1 (upright) if it is missing or not readable."""
    order, plain, _ = _first(data)
    kind, count, place = plain.get(ORIENTATION, (0, 0, 0))
    if data is None or (kind, count) != (_SHORT, 1):
        return 1
    value = struct.unpack_from(order + "H", data, place)[0]
    return value if 1 <= value <= 8 else 1


def upright(data: bytes | None) -> bytes | None:
    """The same EXIF data with the orientation set to 1; every other byte stays, so offsets in maker notes hold."""
    order, plain, _ = _first(data)
    kind, count, place = plain.get(ORIENTATION, (0, 0, 0))
    if data is None or (kind, count) != (_SHORT, 1):
        return data
    changed = bytearray(data)
    struct.pack_into(order + "H", changed, place, 1)
    return bytes(changed)


def without_thumbnail(data: bytes | None) -> bytes | None:
    """The same EXIF data without the thumbnail, which shows another picture; nothing else moves."""
    order, _, link = _first(data)
    if data is None or link is None:
        return data
    changed = bytearray(data)
    start = struct.unpack_from(order + "I", data, link)[0]
    struct.pack_into(order + "I", changed, link, 0)
    entries, end = _directory(data, start, order) if start else ({}, None)
    with suppress(KeyError, struct.error):
        place, size = (struct.unpack_from(order + "I", data, entries[tag][2])[0] for tag in (513, 514))
        if data[place : place + 2] == b"\xff\xd8" and place + size <= len(data):
            changed[place : place + size] = bytes(size)
            if end is not None:
                changed[start : end + 4] = bytes(end + 4 - start)
            if place + size == len(data):
                del changed[place:]
    return bytes(changed)


def fitting(data: bytes | None, size: tuple[int, int], density: Density | None) -> bytes | None:
    """The same EXIF data with the sizes and the density of a picture of `size` = (height, width), where it says any."""
    order, plain, _ = _first(data)
    if data is None or not plain:
        return data
    changed, entries = bytearray(data), [plain]
    with suppress(KeyError, struct.error):
        start = struct.unpack_from(order + "I", data, plain[EXIF_IFD][2])[0]
        entries.append(_directory(data, start, order)[0])
    numbers: dict[int, float] = {**dict.fromkeys(HEIGHTS, size[0]), **dict.fromkeys(WIDTHS, size[1])}
    if density is not None and ACROSS in plain and DOWN in plain:
        numbers |= {ACROSS: density.across, DOWN: density.down, UNIT: 2 if density.inches else 1}
    for directory in entries:
        for tag in directory.keys() & numbers.keys():
            _put(changed, order, directory[tag], numbers[tag])
    return bytes(changed)


def density(data: bytes | None) -> Density | None:
    """What EXIF data says of a picture's print; None for nothing."""
    found = parse(data)
    with suppress(*BROKEN):
        unit = {1: 1.0, 3: 2.54}.get(found.get(UNIT, 2), 1.0)
        across, down = float(found[ACROSS]) * unit, float(found[DOWN]) * unit
        if 0 < across < 1e6 and 0 < down < 1e6:
            return Density(across, down, found.get(UNIT, 2) != 1)
    return None


def of_print(density: Density) -> bytes:
    """EXIF data that says how large a picture is printed, and nothing else."""
    found = Image.Exif()
    found[ACROSS], found[DOWN], found[UNIT] = density.across, density.down, 2 if density.inches else 1
    return found.tobytes().removeprefix(PREFIX)


def _put(data: bytearray, order: str, entry: tuple[int, int, int], value: float) -> None:
    """Write a number in place of the one that an entry has."""
    kind, count, place = entry
    with suppress(struct.error):
        if kind == _RATIONAL and count == 1:
            ratio = Fraction(value).limit_denominator(1000)
            struct.pack_into(
                order + "II", data, struct.unpack_from(order + "I", data, place)[0], *ratio.as_integer_ratio()
            )
        elif kind == _SHORT and count == 1 and value < 65536:
            struct.pack_into(order + "H", data, place, int(value))
        elif kind in (_SHORT, _LONG) and count == 1:
            struct.pack_into(order + "HII", data, place - 6, _LONG, 1, int(value))


def tags(data: bytes) -> set[int]:
    """Those of the first directory of EXIF data, or of a TIFF file; none of other bytes."""
    return set(_first(data)[1])


def _first(data: bytes | None) -> tuple[str, dict[int, tuple[int, int, int]], int | None]:
    """Byte order, and the first directory as `_directory` has it; empty if it can't be read."""
    orders = {b"II*\0": "<", b"MM\0*": ">"}
    if data is None or data[:4] not in orders or len(data) < 8:
        return "<", {}, None
    order = orders[data[:4]]
    return order, *_directory(data, struct.unpack_from(order + "I", data, 4)[0], order)


def _directory(data: bytes, start: int, order: str) -> tuple[dict[int, tuple[int, int, int]], int | None]:
    """By tag an entry's type, its count and where its value is; and where the next directory's place is told.

    What is cut off is left out.
    """
    entries: dict[int, tuple[int, int, int]] = {}
    try:
        count = struct.unpack_from(order + "H", data, start)[0]
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number, _ = struct.unpack_from(order + "HHII", data, entry)
            entries[tag] = (kind, number, entry + 8)
        struct.unpack_from(order + "I", data, start + 2 + 12 * count)
    except struct.error:
        return entries, None
    return entries, start + 2 + 12 * count


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

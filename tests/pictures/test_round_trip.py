"""What files of every kind keep when they are read and written again, in one table."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from deedsr.pictures import encoding, exif, metadata
from deedsr.pictures.decoding import Raster
from deedsr.pictures.formats import FORMATS
from deedsr.pictures.metadata import Density
from deedsr.pictures.picture import Picture, read

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><title>Ein B\xc3\xa4r</title></x:xmpmeta>'
IPTC = b"\x1c\x02\x05\x00\x05title\x1c\x02\x50\x00\x06author"
ALL = ("icc", "exif", "xmp", "iptc", "density")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    mode: its pixels, of `depth` bits. turn: EXIF orientation. has: what it says beside. out: extension of what it is
    written to, its own unless said. lost: what is not kept, and why not. near: levels of 255 that pixels may differ by,
    on average; None: not a bit.
    """

    suffix: str
    mode: str
    depth: int = 8
    turn: int = 1
    has: tuple[str, ...] = ()
    out: str = ""
    lost: dict[str, str] = field(default_factory=dict)
    near: float | None = None
    options: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.suffix[1:]}-{self.mode}{self.depth}-turn{self.turn}{self.out.replace('.', '-to-')}"


WEB = ("icc", "exif", "xmp")
LOSSLESS = {"lossless": True}
KINDS = [
    Kind(".png", "1", has=ALL),
    Kind(".png", "L", has=ALL),
    Kind(".png", "LA", has=ALL),
    Kind(".png", "RGB", has=ALL),
    Kind(".png", "RGBA", has=ALL),
    Kind(".png", "P", has=ALL),
    Kind(".png", "PA", has=ALL),
    Kind(".png", "L", 16, has=ALL),
    Kind(".png", "LA", 16, has=ALL),
    Kind(".png", "RGB", 16, has=ALL),
    Kind(".png", "RGBA", 16, has=ALL),
    Kind(".png", "RGB", turn=6, has=ALL),
    Kind(".png", "RGB", 16, turn=5, has=ALL),
    Kind(".png", "RGB"),
    Kind(".tif", "1", has=ALL),
    Kind(".tif", "L", has=ALL),
    Kind(".tif", "RGB", has=ALL),
    Kind(".tif", "RGBA", has=ALL),
    Kind(".tif", "CMYK", has=("exif", "density"), near=1, lost={"mode": "becomes RGB, with a word"}),
    Kind(".tif", "L", 16, has=ALL),
    Kind(".tif", "LA", 16, has=ALL, lost={"mode": "grey with alpha is written as RGBA, as few programs read it"}),
    Kind(".tif", "RGB", 16, has=ALL),
    Kind(".tif", "RGBA", 16, has=ALL),
    Kind(".tif", "RGB", turn=8, has=ALL),
    Kind(".tif", "RGB"),
    Kind(".jpg", "L", has=ALL, near=3),
    Kind(".jpg", "RGB", has=ALL, near=3),
    Kind(".jpg", "RGB", turn=6, has=ALL, near=3),
    Kind(".jfif", "RGB", turn=3, has=ALL, near=3),
    Kind(".jpeg", "CMYK", has=("exif", "density"), near=6, lost={"mode": "becomes RGB, with a word"}),
    Kind(".jpg", "RGB", near=3),
    Kind(".webp", "RGB", has=WEB, near=4),
    Kind(".webp", "RGBA", turn=7, has=WEB, near=4),
    Kind(".webp", "RGB", has=WEB, options=LOSSLESS),
    Kind(".webp", "RGBA", has=WEB, options=LOSSLESS),
    Kind(".bmp", "L", has=("density",)),
    Kind(".bmp", "RGB", has=("density",)),
    Kind(".bmp", "P", has=("density",)),
    Kind(".avif", "L", has=WEB, near=3, lost={"mode": "Pillow reads AVIF as RGB; it stays without colour"}),
    Kind(".avif", "RGB", has=WEB, near=4),
    Kind(".avif", "RGBA", turn=2, has=WEB, near=4),
    Kind(".heic", "RGB", has=WEB, near=4),
    Kind(".heic", "RGBA", has=WEB, near=4),
    Kind(".heic", "RGB", 16, has=WEB, near=4, lost={"depth": "is written in 8 bits, with a word"}),
    Kind(".jxl", "L", has=("exif",), near=3),
    Kind(".jxl", "RGB", has=("exif",), near=3),
    Kind(".jxl", "RGBA", turn=6, has=("exif",), near=3),
    Kind(".png", "RGB", has=ALL, out=".jpg", near=3),
    Kind(".jpg", "RGB", turn=6, has=ALL, out=".png", near=3),
    Kind(".jpg", "RGB", has=ALL, out=".tif", near=3),
    Kind(".tif", "RGB", has=ALL, out=".png"),
    Kind(".png", "RGB", 16, has=ALL, out=".jpg", near=3, lost={"depth": "JPEG holds 8 bits, with a word"}),
    Kind(".png", "RGB", 16, has=ALL, out=".tif"),
    Kind(".tif", "RGBA", 16, has=ALL, out=".png"),
    Kind(".png", "RGB", has=ALL, out=".webp", near=4, lost={"iptc": "WebP holds none, with a word"}),
    Kind(".png", "RGB", has=ALL, out=".avif", near=4, lost={"iptc": "AVIF holds none, with a word"}),
    Kind(
        ".jpg",
        "RGB",
        has=ALL,
        out=".bmp",
        near=3,
        lost=dict.fromkeys(("icc", "exif", "xmp", "iptc"), "BMP holds none, with a word"),
    ),
    Kind(".gif", "P", out=".png"),
    Kind(".tga", "RGBA", out=".png"),
    Kind(".ppm", "RGB", out=".png"),
    Kind(".pgm", "L", 16, out=".tif"),
    Kind(".jp2", "RGB", out=".png", options={"irreversible": False}),
]


def stored(kind: Kind) -> np.ndarray:
    """Pixels (12, 18, C), upright: smooth, so that lossy formats keep them, in levels that every mode can have."""
    rows, columns = np.mgrid[:12, :18]
    planes = [110 + 4 * rows + 3 * columns, 200 - 5 * rows, 60 + 6 * columns]
    planes = planes[:1] if kind.mode in ("L", "LA", "1") else planes
    if kind.mode == "1":
        planes = [255 * (rows > columns)]
    if kind.mode in ("P", "PA"):
        planes = [np.where(rows > columns, 255, 51), np.where(rows > 5, 102, 0), np.where(columns > 5, 255, 153)]
    if kind.mode in ("LA", "RGBA", "PA"):
        planes.append(np.where(columns > 9, 255, 128 if kind.mode != "PA" else 0))
    pixels = np.stack(planes, -1).astype(np.uint16)
    return (pixels * 257 if kind.depth == 16 else pixels.astype(np.uint8)).astype(f"uint{kind.depth}")


def some_exif(kind: Kind) -> bytes:
    data = Image.Exif()
    data[271] = "Maker"
    data[306] = "2024:05:06 07:08:09"
    if kind.turn != 1:
        data[274] = kind.turn
    data[282], data[283], data[296] = 300.0, 150.0, 2
    data.get_ifd(exif.EXIF_IFD)[40962] = 18
    data.get_ifd(exif.GPS_IFD)[2] = (10.0, 20.0, 30.0)
    return data.tobytes()


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """As a camera held that way stores an upright picture: the inverse of EXIF's table."""
    pixels = {2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1]}.get(turn, pixels)
    upright = {5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}.get(turn)
    if upright is None:
        return np.ascontiguousarray(pixels)
    rows, columns = upright
    flipped = pixels[:: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(flipped.swapaxes(0, 1))


def write_file(path: Path, kind: Kind) -> None:
    """A file as other programs write it: by Pillow, where Pillow can."""
    pixels, says = turned(stored(kind), kind.turn), set(kind.has)
    data = some_exif(kind)
    if kind.depth == 16 and kind.suffix in (".png", ".tif"):
        said = {"icc": ICC, "exif": data.removeprefix(exif.PREFIX), "xmp": XMP, "iptc": IPTC}
        print_size = Density(300, 150) if "density" in says else None
        raster = Raster(pixels, density=print_size, **{name: said[name] for name in says - {"density"}})
        path.write_bytes(encoding.encode(raster, FORMATS[kind.suffix]))
        return
    if kind.depth == 16 and kind.suffix == ".heic":
        import pillow_heif

        size = (pixels.shape[1], pixels.shape[0])
        deep = pillow_heif.from_bytes("RGB;16", size, pixels.tobytes())
        deep.save(path, quality=100, chroma=444, icc_profile=ICC, exif=data, xmp=XMP)
        return
    if kind.suffix == ".pgm":
        path.write_bytes(b"P5 18 12 65535\n" + pixels.astype(">u2").tobytes())
        return
    image = Image.fromarray(pixels.squeeze())
    if kind.mode == "P":
        image = image.quantize(16)
    elif kind.mode == "PA":
        image = image.quantize(16, method=Image.Quantize.FASTOCTREE)
    elif kind.mode in ("1", "CMYK"):
        image = image.convert(kind.mode)
    image.save(path, **options_of(kind, data), **kind.options)


def options_of(kind: Kind, data: bytes) -> dict[str, object]:
    """What Pillow must be told to write all that a kind of file says."""
    says = set(kind.has)
    options: dict[str, object] = {}
    if kind.near is not None and kind.suffix != ".png":
        options["quality"] = 99
    if kind.suffix == ".heic":
        options["chroma"] = 444
    if "icc" in says:
        options["icc_profile"] = ICC
    if "exif" in says:
        options["exif"] = data
    if "density" in says:
        options["dpi"] = (300, 150)
    if "xmp" in says and kind.suffix not in (".png", ".tif"):
        options["xmp"] = XMP
    if kind.suffix == ".png" and "xmp" in says:
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
        digits = IPTC.hex()
        text.add_text("Raw profile type iptc", f"\niptc\n{len(IPTC):8}\n{digits}\n", zip=True)
        options["pnginfo"] = text
    if kind.suffix == ".tif" and "xmp" in says:
        whole = exif.parse(data)
        whole[700], whole[33723] = XMP, IPTC
        options["exif"] = whole
    if kind.suffix in (".jpg", ".jfif", ".jpeg") and "iptc" in says:
        options["extra"] = metadata.jpeg_segments(IPTC)
    return options


def test_the_table_is_long_enough() -> None:
    assert len({str(kind) + str(kind.has) + str(kind.options) for kind in KINDS}) >= 40


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_file_keeps_what_it_is_and_says(tmp_path: Path, kind: Kind) -> None:
    for suffix in (kind.suffix, kind.out):
        module = FORMATS[suffix].module if suffix in FORMATS else None
        if module and not find_spec(module):
            pytest.skip(f"{module} is not installed, of the extra formats")
    source, target = tmp_path / f"in{kind.suffix}", tmp_path / f"out{kind.out or kind.suffix}"
    write_file(source, kind)
    first = read(source)
    said = [*first.notes, *first.save(target)]
    again = read(target)

    expected = stored(kind).astype(float) / (2**kind.depth - 1)
    for picture in (first, again):
        check_pixels(picture, expected, kind)
    assert first.bits == kind.depth
    assert again.bits == (8 if "depth" in kind.lost else kind.depth)
    assert again.grey == (kind.mode in ("L", "LA", "1") and "mode" not in kind.lost)
    assert again.colourless == (kind.mode in ("L", "LA", "1"))
    check_metadata(first, kind, kind.has)
    check_metadata(again, kind, [name for name in kind.has if name not in kind.lost])
    if "xmp" in kind.has and "xmp" not in kind.lost:
        assert XMP in target.read_bytes()
    if kind.options == LOSSLESS:
        assert again.lossless
    assert bool(said) == any("with a word" in reason for reason in kind.lost.values()), said


def check_pixels(picture: Picture, expected: np.ndarray, kind: Kind) -> None:
    assert picture.size == expected.shape[:2]
    colours = expected[..., : 3 if expected.shape[2] > 2 else 1]
    seen = np.ones(expected.shape[:2], bool)
    if expected.shape[2] in (2, 4):
        seen = expected[..., -1] > 0
        assert np.abs(picture.alpha[0, 0].numpy() - expected[..., -1]).max() <= (kind.near or 0) / 255 + 1e-6
    difference = np.abs(picture.rgb[0].permute(1, 2, 0).numpy() - colours)[seen]
    assert difference.mean() * 255 <= (kind.near or 0) + 1e-4


def check_metadata(picture: Picture, kind: Kind, says: list[str] | tuple[str, ...]) -> None:
    assert (picture.icc == ICC) == ("icc" in says)
    assert (picture.xmp == XMP) == ("xmp" in says)
    assert (picture.iptc == IPTC) == ("iptc" in says)
    found = exif.parse(picture.exif)
    assert (found.get(271) == "Maker") == ("exif" in says)
    if "exif" in says:
        assert found[306] == "2024:05:06 07:08:09"
        assert found.get(274, 1) == 1
        assert found.get_ifd(exif.GPS_IFD)[2] == (10.0, 20.0, 30.0)
    if "density" in says or "exif" in says:  # which has it as well
        sides = (picture.density.across, picture.density.down)
        expected = (150, 300) if kind.turn >= 5 else (300, 150)
        assert sides == pytest.approx(expected, rel=1e-3)

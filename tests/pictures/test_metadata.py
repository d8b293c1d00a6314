"""What files say beside their pixels, where other programs get it wrong, and what is said where it can't be kept."""

from __future__ import annotations

import io
import struct
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from deedsr.pictures import exif, rasters
from deedsr.pictures.decoding import Raster
from deedsr.pictures.encoding import encode
from deedsr.pictures.formats import PNG
from deedsr.pictures.metadata import Density, chunk
from deedsr.pictures.picture import Picture, from_bytes, read

TEXT = "Jürgen Müller 写真 ©".encode()


def pixels(height: int = 12, width: int = 18, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype)


def with_thumbnail() -> bytes:
    """EXIF data of a camera that was held upright: orientation 6, the sensor's sizes, and a thumbnail as it lay."""
    small = io.BytesIO()
    Image.new("RGB", (16, 12), (250, 20, 20)).save(small, "JPEG")
    small = small.getvalue()

    def directory(entries: list[tuple[int, int, int, int]], following: int) -> bytes:
        body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return struct.pack("<H", len(entries)) + body + struct.pack("<I", following)

    second = 8 + 2 + 2 * 12 + 4
    third = second + 2 + 2 * 12 + 4
    end = third + 2 + 3 * 12 + 4
    data = b"II*\0" + struct.pack("<I", 8) + directory([(274, 3, 1, 6), (0x8769, 4, 1, second)], third)
    data += directory([(40962, 3, 1, 18), (40963, 4, 1, 12)], 0)
    return data + directory([(259, 3, 1, 6), (513, 4, 1, end), (514, 4, 1, len(small))], 0) + small


def test_the_thumbnail_goes_and_the_sizes_are_the_pictures(tmp_path):
    data = with_thumbnail()
    Image.fromarray(pixels()).save(tmp_path / "a.jpg", exif=exif.PREFIX + data)
    picture = read(tmp_path / "a.jpg")
    assert picture.size == (18, 12)
    assert b"\xff\xd8" not in picture.exif
    assert len(picture.exif) < len(data)
    large = replace(picture, rgb=torch.rand(1, 3, 70000, 9))
    large.save(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        found = image.getexif()
        assert found[274] == 1
        assert dict(found.get_ifd(exif.EXIF_IFD)) == {40962: 9, 40963: 70000}
        assert found.get_ifd(-1) == {}


@pytest.mark.parametrize("data", [b"", b"nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x02\x01"])
def test_broken_exif_stays_as_it_is(data):
    assert exif.without_thumbnail(data) == data
    assert exif.fitting(data, (5, 6), Density(1, 1)) == data


@pytest.mark.parametrize("target", ["a.tif", "a.png", "a.jpg", "deep.tif"])
@pytest.mark.parametrize("source", ["tif", "jpg"])
def test_text_that_is_not_ascii_keeps_its_bytes(tmp_path, source, target):
    entry = struct.pack("<HHHII", 1, 315, 2, len(TEXT) + 1, 26) + b"\0\0\0\0" + TEXT + b"\0"
    Image.fromarray(pixels()).save(tmp_path / "in.jpg", exif=exif.PREFIX + b"II*\0\x08\0\0\0" + entry)
    tags = exif.parse(b"II*\0\x08\0\0\0" + entry)
    assert tags[315].encode("latin-1") == TEXT
    (tmp_path / "in.tif").write_bytes(rasters.encode_tiff(pixels(), None, b"II*\0\x08\0\0\0" + entry))
    assert TEXT in (tmp_path / "in.tif").read_bytes()
    picture = read(tmp_path / f"in.{source}")
    replace(picture, bits=16 if "deep" in target else 8).save(tmp_path / target)
    assert TEXT + b"\0" in (tmp_path / target).read_bytes()


def test_long_texts_and_profiles_in_png_are_no_reason_to_stop(tmp_path):
    packet = b"<x>" + b"ancestor " * 200_000 + b"</x>"
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=True)
    text.add_text("workflow", "node " * 400_000, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(1_300_000)
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    Image.fromarray(pixels()).save(tmp_path / "a.png", pnginfo=text, icc_profile=profile)
    picture = read(tmp_path / "a.png")
    assert (picture.xmp, picture.icc) == (packet, profile)
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    assert picture.save(tmp_path / "a.jpg") == [
        f"its {len(packet)} bytes of XMP data are left out, as JPEG holds 65502"
    ]
    picture.save(tmp_path / "b.png")
    assert read(tmp_path / "b.png").xmp == packet


def test_a_text_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("deedsr.pictures.decoding.MAX_TEXT", 1000)
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "node " * 4000, zip=True)
    Image.fromarray(pixels()).save(tmp_path / "a.png", pnginfo=text)
    with pytest.raises(ValueError, match=r"a\.png: holds a text of more than 1000 bytes; save it anew without"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("density", [Density(300, 300), Density(72, 144), Density(2, 1, inches=False)])
def test_print_resolution_and_pixel_aspect(tmp_path, suffix, density):
    Picture(torch.rand(1, 3, 9, 9), density=density).save(tmp_path / f"a{suffix}")
    found = read(tmp_path / f"a{suffix}").density
    assert (found.across, found.down) == pytest.approx((density.across, density.down), rel=1e-3)
    assert found.inches == density.inches
    if density.inches:
        with Image.open(tmp_path / f"a{suffix}") as image:
            assert image.info["dpi"] == pytest.approx((density.across, density.down), rel=1e-3)


def test_a_picture_turned_by_its_xmp_is_not_turned_twice(tmp_path):
    packet = b'<x:xmpmeta xmlns:tiff="t" tiff:Orientation="6"><tiff:Orientation>8</tiff:Orientation></x:xmpmeta>'
    Image.fromarray(pixels()).save(tmp_path / "a.jpg", xmp=packet)
    assert read(tmp_path / "a.jpg").xmp == packet.replace(b'"6"', b'"1"').replace(b">8<", b">1<")


def profile(space: bytes) -> bytes:
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[16:20] = space
    return bytes(data)


@pytest.mark.parametrize(
    ("mode", "space", "kept"),
    [
        ("RGB", b"GRAY", False),
        ("RGB", b"CMYK", False),
        ("L", b"CMYK", False),
        ("L", b"RGB ", True),
        ("L", b"GRAY", True),
    ],
)
def test_a_profile_for_other_pixels_is_left_out_with_a_word(tmp_path, mode, space, kept):
    image = Image.fromarray(pixels()).convert(mode)
    (tmp_path / "a.png").write_bytes(encode(Raster(np.asarray(image).reshape(12, 18, -1), icc=profile(space)), PNG))
    picture = read(tmp_path / "a.png")
    assert (picture.icc is not None) == kept
    assert len(picture.notes) == (not kept)
    assert kept or picture.notes[0] == f"its colour profile is for {space.decode()} pixels and was left out"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("signed", "numbers with a sign"),
        ("float", "numbers with a sign"),
        ("12 bits", "of 12 bits a channel"),
        ("32 bits", "32 bits"),
    ],
)
def test_depths_that_would_be_misread_are_refused(tmp_path, kind, message):
    array = pixels(dtype=np.uint16)
    data = rasters.encode_tiff(array, None, None)
    changed = {
        "signed": (339, (2, 2, 2)),
        "float": (339, (3, 3, 3)),
        "12 bits": (258, (12,) * 3),
        "32 bits": (258, (32,) * 3),
    }
    tag, value = changed[kind]
    save = ImageFileDirectory_v2.save

    def altered(self, file):
        self[tag] = value
        return save(self, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFileDirectory_v2, "save", altered)
        data = rasters.encode_tiff(array, None, None)
    with pytest.raises(ValueError, match=f"{message}|not a picture that can be read"):
        from_bytes(data, "a.tif")


def test_colour_with_a_transparent_key_in_sixteen_bits(tmp_path):
    array = pixels(dtype=np.uint16)
    data = rasters.encode_png(array, None, None)
    key = chunk(b"tRNS", struct.pack(">HHH", *map(int, array[3, 4])))
    alpha = from_bytes(data[:33] + key + data[33:], "a.png").alpha
    assert alpha[0, 0, 3, 4] == 0
    assert alpha.sum() == alpha.numel() - 1


@pytest.mark.parametrize("lossless", [True, False])
def test_lossless_webp_stays_so(tmp_path, lossless):
    Image.fromarray(pixels()).save(tmp_path / "a.webp", lossless=lossless)
    picture = read(tmp_path / "a.webp")
    assert picture.lossless == lossless
    picture.save(tmp_path / "b.webp")
    assert torch.equal(read(tmp_path / "b.webp").rgb, picture.rgb) == lossless
    picture.save(tmp_path / "c.webp", quality=30)
    assert not read(tmp_path / "c.webp").lossless


def test_quality_is_of_the_file(tmp_path):
    picture = Picture(torch.rand(1, 3, 64, 64))
    sizes = []
    for quality in (20, None, 99):
        picture.save(tmp_path / "a.jpg", quality)
        sizes.append((tmp_path / "a.jpg").stat().st_size)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2]


def test_what_a_format_cannot_hold_is_said(tmp_path):
    wide = profile(b"RGB ").replace(b"s\0R\0G\0B", b"w\0i\0d\0e").replace(b"sRGB", b"wide")
    picture = Picture(torch.rand(1, 3, 9, 9), bits=16, icc=wide, exif=with_thumbnail(), xmp=b"<x/>", iptc=b"\x1c\x02")
    assert picture.save(tmp_path / "a.png") == []
    assert picture.save(tmp_path / "a.bmp") == [
        "its 16 bits a channel became 8, as BMP holds no more here",
        "its colours became sRGB, as BMP holds no colour profile here",
        "its EXIF data are left out, as BMP holds none here",
        "its XMP data are left out, as BMP holds none here",
        "its IPTC data are left out, as BMP holds none here",
    ]
    assert picture.stripped().save(tmp_path / "b.jpg") == ["its 16 bits a channel became 8, as JPEG holds no more here"]
    assert read(tmp_path / "b.jpg").icc == wide


def test_postscript_and_other_programs_are_never_started(tmp_path):
    Image.fromarray(pixels()).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match="not a picture that can be read"):
        read(tmp_path / "a.png")


def test_kinds_that_need_more_say_what(monkeypatch):
    monkeypatch.setattr("deedsr.pictures.formats.find_spec", lambda name: None)
    for data in (b"\0\0\0\x18ftypheic\0\0\0\0mif1", b"\xff\x0a\0\0", b"\0\0\0\x0cJXL \r\n\x87\n"):
        with pytest.raises(
            ValueError, match=r"a\.png: pictures of this kind need more: pip install 'deedsr\[formats\]'"
        ):
            from_bytes(data, "a.png")


def negative() -> bytes:
    """A DNG file: a sensor's mosaic under a light that makes green three times as bright as red and blue."""
    height, width = 64, 96
    mosaic = np.full((height, width), 30000, np.uint16)
    mosaic[::2, ::2] = mosaic[1::2, 1::2] = 10000
    tags = ImageFileDirectory_v2()
    tags[254], tags[256], tags[257], tags[258], tags[259], tags[262] = 0, width, height, 16, 1, 32803
    tags[271], tags[274], tags[306] = "Maker", 1, "2024:05:06 07:08:09"
    tags[273], tags[277], tags[278], tags[279] = 0, 1, height, 2 * height * width
    types = {33421: 3, 33422: 1, 50706: 1, 50708: 2, 50714: 4, 50717: 4, 50721: 10, 50728: 5, 50778: 3}
    values = {33421: (2, 2), 33422: b"\0\1\1\2", 50706: b"\1\4\0\0", 50708: "Maker One", 50714: 0, 50717: 65535}
    values |= {50721: (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), 50728: (0.3333, 1.0, 0.3333), 50778: 21}
    for tag, kind in types.items():
        tags.tagtype[tag] = kind
        tags[tag] = values[tag]
    file = io.BytesIO()
    tags.save(file)
    return file.getvalue() + mosaic.astype("<u2").tobytes()


@pytest.mark.parametrize("name", ["a.dng", "a.tif"])
def test_camera_raw_is_developed_in_its_own_colours(tmp_path, name):
    if not find_spec("rawpy"):
        pytest.skip("rawpy is not installed, of the extra formats")
    (tmp_path / name).write_bytes(negative())
    picture = read(tmp_path / name)
    assert (picture.bits, picture.format, picture.size[0]) == (16, "RAW", pytest.approx(64, abs=4))
    assert exif.parse(picture.exif)[306] == "2024:05:06 07:08:09"
    red, green, blue = picture.rgb[0, :, 16:48, 16:80].mean((1, 2)).tolist()
    assert max(red, green, blue) < 1.6 * min(red, green, blue)  # the camera's white balance took the light out
    picture.save(tmp_path / "out.tif")
    assert read(tmp_path / "out.tif").bits == 16


def test_raw_without_what_develops_it_says_so(tmp_path, monkeypatch):

    monkeypatch.setitem(sys.modules, "rawpy", None)
    (tmp_path / "a.dng").write_bytes(negative())
    with pytest.raises(ValueError, match=r"a\.dng: camera RAW needs more: pip install 'deedsr\[formats\]'"):
        read(tmp_path / "a.dng")

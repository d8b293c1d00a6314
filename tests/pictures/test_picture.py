"""Picture files of every kind that people have: what is read, and what is kept when it is written."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from deedsr.pictures import exif, rasters
from deedsr.pictures import picture as images
from deedsr.pictures.picture import Picture, read, write

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def some_exif(orientation: int | None = None) -> bytes:
    data = Image.Exif()
    data[271] = "Maker"
    data[306] = "2024:05:06 07:08:09"
    if orientation is not None:
        data[274] = orientation
    data.get_ifd(exif.EXIF_IFD)[36867] = "2024:05:06 07:08:09"
    data.get_ifd(exif.EXIF_IFD)[37500] = b"\x01\x02maker note"
    data.get_ifd(exif.GPS_IFD)[1] = "N"
    data.get_ifd(exif.GPS_IFD)[2] = (10.0, 20.0, 30.0)
    return data.tobytes()


def pixels(channels: int, dtype: type = np.uint8, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype)


def check_metadata(path, orientation: int | None = None) -> None:
    with Image.open(path) as image:
        image.load()
        assert image.info.get("icc_profile") == ICC
        found = image.getexif()
        assert found[271] == "Maker"
        assert found.get(274) in ((1, None) if orientation else (None,))
        assert found.get_ifd(exif.EXIF_IFD)[36867] == "2024:05:06 07:08:09"
        assert found.get_ifd(exif.EXIF_IFD)[37500] == b"\x01\x02maker note"
        assert found.get_ifd(exif.GPS_IFD)[2] == (10.0, 20.0, 30.0)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp", ".jpg"])
def test_eight_bits_round_trip(tmp_path, channels, mode, suffix):
    array = pixels(channels)
    if suffix in (".jpg", ".bmp") and channels in (2, 4):
        array[..., -1] = 255  # opaque: may be dropped
    source = tmp_path / "in.png"
    Image.fromarray(array.squeeze(), mode).save(source, icc_profile=ICC, exif=some_exif())
    picture = read(source)
    assert (picture.bits, picture.grey, picture.alpha is not None) == (8, channels < 3, channels in (2, 4))
    target = tmp_path / f"out{suffix}"
    write(target, picture)
    if suffix in (".png", ".tif"):
        again = np.asarray(Image.open(target))
        expected = array[..., [0, 0, 0, 1]] if (suffix, channels) == (".tif", 2) else array
        assert np.array_equal(again, expected.squeeze())
    if suffix != ".bmp":
        check_metadata(target)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("in.png", target.name)] == []


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_round_trip(tmp_path, channels, suffix):
    array = pixels(channels, np.uint16, 300, 31)  # more rows than a strip of TIFF
    source = tmp_path / "in.png"
    source.write_bytes(rasters.encode_png(array, ICC, some_exif().removeprefix(exif.PREFIX)))
    picture = read(source)
    assert (picture.bits, picture.grey, picture.alpha is not None) == (16, channels < 3, channels in (2, 4))
    target = tmp_path / f"out{suffix}"
    write(target, picture)
    check_metadata(target)
    stored = cv2.imread(str(target), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    expected = array[..., [0, 0, 0, 1]] if channels == 2 else array
    expected = expected[..., [2, 1, 0, 3][: expected.shape[2]]] if expected.shape[2] > 2 else expected[..., 0]
    assert np.array_equal(stored, expected)
    again = read(target)
    assert again.bits == 16
    assert torch.equal(again.rgb, picture.rgb)
    assert picture.alpha is None or torch.equal(again.alpha, picture.alpha)


def test_sixteen_bit_png_is_what_opencv_writes(tmp_path):
    array = pixels(3, np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), array[..., ::-1])
    assert np.array_equal(read(tmp_path / "a.png").rgb[0].permute(1, 2, 0).numpy(), array.astype(np.float32) / 65535)


def test_sixteen_bits_become_eight_where_the_format_has_no_more(tmp_path):
    picture = Picture(torch.rand(1, 3, 16, 16), bits=16)
    picture.save(tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg").bits == 8


def test_grey_with_a_transparent_key_in_sixteen_bits(tmp_path):
    array = pixels(1, np.uint16)
    data = rasters.encode_png(array, None, None)
    chunk = b"tRNS" + struct.pack(">H", int(array[3, 4, 0]))
    key = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(data[:33] + key + data[33:])
    alpha = read(tmp_path / "a.png").alpha
    assert alpha[0, 0, 3, 4] == 0
    assert alpha.mean() > 0.9


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (20, 10))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([index % 3 for index in range(200)])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0, 128]))
    picture = read(tmp_path / "a.png")
    assert picture.rgb[0, :, 0, 0].tolist() == [1, 0, 0]
    assert picture.alpha[0, 0, 0, :3].mul(255).tolist() == [255, 0, 128]
    image.save(tmp_path / "b.png")
    assert read(tmp_path / "b.png").alpha is None


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "P"])
def test_other_kinds_become_rgb_or_grey(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    packed = {"compression": "tiff_lzw"} if path.suffix == ".tif" else {}  # Pillow 12.3 can't read its own plain YCbCr
    Image.new("RGB", (16, 12), (255, 255, 255)).convert(mode).save(path, **packed)
    picture = read(path)
    assert picture.grey == (mode == "1")
    assert picture.rgb.min() > 0.99
    assert picture.size == (12, 16)


def test_cmyk_jpeg_goes_through_its_profile_and_drops_it(tmp_path):
    Image.new("CMYK", (16, 12), (0, 255, 255, 0)).save(tmp_path / "a.jpg", icc_profile=ICC)  # not a CMYK profile
    picture = read(tmp_path / "a.jpg")
    assert picture.icc is None
    red, green, blue = picture.rgb[0].mean((1, 2)).tolist()
    assert red > 0.95
    assert max(green, blue) < 0.1


def upright_array() -> np.ndarray:
    array = np.zeros((12, 18, 3), np.uint8)
    array[:6, :9] = 255  # a white quarter at the top left
    array[:6, 9:] = (200, 0, 0)
    array[6:, :9] = (0, 120, 0)
    return array


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif", "png16", "tif16"])
def test_orientation_is_applied_and_its_tag_reset(tmp_path, orientation, kind):
    upright = torch.from_numpy(upright_array()).permute(2, 0, 1)
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored = images._turned(upright, inverse).permute(1, 2, 0).numpy()
    path = tmp_path / f"in.{kind[:3].rstrip('1')}".replace(".web", ".webp")
    data = some_exif(orientation)
    if kind == "png16":
        path.write_bytes(rasters.encode_png(stored.astype(np.uint16) * 257, ICC, data.removeprefix(exif.PREFIX)))
    elif kind.startswith("tif"):
        deep = np.ascontiguousarray(stored.astype(np.uint16) * 257 if kind == "tif16" else stored)
        path.write_bytes(with_tiff_orientation(deep, data, orientation))
    else:
        options = {"quality": 100, "subsampling": 0} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=data, icc_profile=ICC, **options)
    picture = read(path)
    assert picture.size == (12, 18)
    difference = (picture.rgb[0] * 255 - upright).abs()
    difference[:, 4:8] = difference[:, :, 7:11] = 0  # JPEG rings at the edges
    assert difference.max() < 8
    assert picture.bits == (16 if kind.endswith("16") else 8)
    for suffix in (".png", ".jpg", ".tif", ".webp"):
        write(tmp_path / f"out{suffix}", picture)
        check_metadata(tmp_path / f"out{suffix}", orientation)


def with_tiff_orientation(array: np.ndarray, data: bytes, orientation: int) -> bytes:
    """A TIFF file whose own directory holds the orientation, as cameras write it."""
    hidden = exif.LAYOUT.copy()
    assert exif.ORIENTATION not in hidden
    encoded = rasters.encode_tiff(array, ICC, data.removeprefix(exif.PREFIX))
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.tag_v2.get(exif.ORIENTATION) == orientation
    return encoded


def test_upright_changes_two_bytes_only():
    data = some_exif(6).removeprefix(exif.PREFIX)
    assert exif.orientation(data) == 6
    changed = exif.upright(data)
    assert exif.orientation(changed) == 1
    assert sum(a != b for a, b in zip(data, changed, strict=True)) == 1


@pytest.mark.parametrize("data", [b"", b"nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x02\x01"])
def test_broken_exif_is_no_reason_to_stop(data):
    assert exif.orientation(data) == 1
    assert exif.upright(data) == data
    assert len(exif.parse(data)) == 0


def odd_exif() -> bytes:
    """A maker, and a direction as no TIFF directory may hold it: text."""
    data = Image.Exif()
    data[271] = "Maker"
    data.get_ifd(exif.GPS_IFD)[1] = "N"
    encoded = bytearray(data.tobytes())
    struct.pack_into(">H", encoded, encoded.index(struct.pack(">HHI", 1, 2, 2)), 17)  # GPSImgDirection, a rational
    return bytes(encoded)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_what_no_file_may_hold_is_left_out(tmp_path, suffix):
    Image.fromarray(pixels(3)).save(tmp_path / "a.jpg", exif=odd_exif())
    picture = read(tmp_path / "a.jpg")
    assert exif.parse(picture.exif).get_ifd(exif.GPS_IFD)[17] == "N"
    picture.save(tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.getexif()[271] == "Maker"
    assert read(tmp_path / f"out{suffix}").size == picture.size


def test_every_cut_of_a_file_is_a_broken_picture_or_a_picture(tmp_path):
    first, second = (Image.fromarray(pixels(count)) for count in (3, 4))
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second.convert("RGB")])
    whole, cut, refused = (tmp_path / "two.tif").read_bytes(), tmp_path / "cut.tif", 0
    for length in range(10, len(whole), 97):
        cut.write_bytes(whole[:length])
        try:
            picture = read(cut)
        except ValueError as error:
            assert "cut.tif: " in str(error)
            refused += 1
        else:
            assert np.array_equal(np.asarray(picture.to_pil()), np.asarray(first))
    assert refused > 10


def test_exif_too_long_for_jpeg_is_left_out(tmp_path):
    data = Image.Exif()
    data[270] = "x" * 70000
    picture = Picture(torch.rand(1, 3, 16, 16), exif=data.tobytes().removeprefix(exif.PREFIX))
    picture.save(tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg").exif is None
    picture.save(tmp_path / "a.png")
    assert exif.parse(read(tmp_path / "a.png").exif)[270] == "x" * 70000


def test_jpeg_is_written_with_full_chroma(tmp_path):
    Picture(torch.rand(1, 3, 32, 32)).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
        assert max(image.quantization[0]) <= 12  # quality 95


def test_pillow_there_and_back():
    array = pixels(4)
    picture = images.from_pil(Image.fromarray(array))
    assert np.array_equal(np.asarray(picture.to_pil()), array)

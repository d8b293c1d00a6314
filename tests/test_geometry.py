"""Tensors (padding, resampling), and files that can't be read or written."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from deedsr.geometry import SizeRequirement, pad_to, resize, upsample
from deedsr.pictures import decoding, rasters
from deedsr.pictures.picture import Picture, read, write


def pixels(channels: int, dtype: type = np.uint8, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype)


# -- tensors


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 130), (1, 7), (127, 64)])
def test_pad_meets_the_requirement_and_keeps_the_image(height, width):
    image = torch.rand(2, 3, height, width)
    padded = pad_to(image, SizeRequirement(64, 128))
    assert padded.shape[-2] == max(128, -(-height // 64) * 64)
    assert padded.shape[-1] == max(128, -(-width // 64) * 64)
    assert torch.equal(padded[..., :height, :width], image)
    if height > 1 and padded.shape[-2] > height:
        assert torch.equal(padded[..., height, :width], image[..., height - 2, :])


def test_a_side_that_is_a_multiple_already_is_not_padded():
    image = torch.rand(1, 3, 64, 192)
    assert pad_to(image, SizeRequirement(64, 64)) is image


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 130), (1, 7), (9, 64)])
def test_a_margin_mirrors_on_all_sides(height, width):
    image = torch.rand(1, 3, height, width)
    padded = pad_to(image, SizeRequirement(16, 16), margin=8)
    assert tuple(padded.shape[-2:]) == (-(-(height + 16) // 16) * 16, -(-(width + 16) // 16) * 16)
    assert torch.equal(padded[..., 8 : 8 + height, 8 : 8 + width], image)
    if min(height, width) > 8:
        turned = torch.nn.functional.pad(image, (8, 8, 8, 8), mode="reflect")
        assert torch.equal(padded[..., : height + 16, : width + 16], turned)


def test_upsample_is_torch_bicubic_clamped():
    image = (torch.rand(1, 3, 9, 13) > 0.5).float()
    raw = torch.nn.functional.interpolate(image, scale_factor=4, mode="bicubic", align_corners=False)
    assert raw.max() > 1
    assert torch.equal(upsample(image), raw.clamp(0, 1))


def test_resize_agrees_with_pillow():
    array = pixels(1, np.uint8, 40, 52)[..., 0]
    ours = resize(torch.from_numpy(array).float()[None, None] / 255, (31, 90))[0, 0] * 255
    pillow = np.asarray(Image.fromarray(array.astype(np.float32), "F").resize((90, 31), Image.Resampling.BICUBIC))
    assert np.abs(ours.numpy() - pillow.clip(0, 255)).max() < 0.01


# -- files: what is refused


def png_bytes(size: tuple[int, int] = (64, 64)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(3, np.uint8, size[1], size[0])).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG that claims 60000 x 60000 pixels."""
    data = bytearray(png_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def deep(size: int) -> bytes:
    return rasters.encode_png(pixels(3, np.uint16, size, size), None, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"this is no picture", "not a picture"),
        (png_bytes()[:-3000], "broken"),
        (png_bytes()[:50], "broken"),
        (deep(64)[:-3000], "broken"),
        (bomb(), "decompression bomb"),
    ],
)
def test_bad_files_are_one_line_with_the_name(tmp_path, data, message):
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)  # the way out


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".bmp"])
def test_truncated_files_of_every_format(tmp_path, suffix):
    write(tmp_path / f"a{suffix}", Picture(torch.rand(1, 3, 64, 64)))
    data = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"broken|not a picture|can't be read"):
        read(tmp_path / f"a{suffix}")


def test_too_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 63 * 64)
    (tmp_path / "a.png").write_bytes(png_bytes())
    with pytest.raises(ValueError, match="crop it"):
        read(tmp_path / "a.png")


def test_a_file_of_several_pictures(tmp_path):
    frames = [Image.new("RGB", (16, 16), (value, 0, 0)) for value in (0, 100)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    first = read(tmp_path / "a.webp")
    assert first.notes == ("holds 2 pictures, the first was taken; `frames` takes all",)
    assert first.rgb[0, 0].max() == 0
    second = read(tmp_path / "a.webp", frame=1)
    assert second.notes == ()
    assert (second.rgb[0, 0] * 255).unique().tolist() == [100]


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"), [("a.gif", r"can't write \.gif"), ("a", "no extension"), ("a.jpg", "no transparency")]
)
def test_what_a_format_cannot_hold(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / name, Picture(torch.rand(1, 3, 16, 16), alpha=torch.full((1, 1, 16, 16), 0.5)))
    assert list(tmp_path.iterdir()) == []


def test_webp_has_a_longest_side(tmp_path):
    with pytest.raises(ValueError, match="16383"):
        write(tmp_path / "a.webp", Picture(torch.rand(1, 3, 1, 16384)))


def test_a_device_is_not_replaced():
    with pytest.raises(ValueError, match=r"extension|regular"):
        write("/dev/full", Picture(torch.rand(1, 3, 16, 16)))
    assert not os.path.isfile("/dev/full")


def test_a_link_to_a_device_is_not_replaced(tmp_path):
    (tmp_path / "a.png").symlink_to("/dev/full")
    with pytest.raises(ValueError, match="no regular file"):
        write(tmp_path / "a.png", Picture(torch.rand(1, 3, 16, 16)))
    assert (tmp_path / "a.png").is_symlink()


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path):
    resource = pytest.importorskip("resource")
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            write(target, Picture(torch.rand(1, 3, 64, 64)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"old"


def test_an_interrupt_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.png", Picture(torch.rand(1, 3, 16, 16)))
    assert list(tmp_path.iterdir()) == []

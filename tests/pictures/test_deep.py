"""16-bit pictures that OpenCV or Pillow alone would misread."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from deedsr.pictures import picture as images
from deedsr.pictures import rasters
from deedsr.pictures.picture import read


def pixels(channels: int) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 65535, (20, 30, channels), dtype=np.uint16)


def deep_tiff(path, array: np.ndarray, tags: dict[int, object], strips: bytes | None = None) -> None:
    """A 16-bit TIFF file with other `tags`, and other `strips`, than `encode_tiff` gives it."""
    save, strip = ImageFileDirectory_v2.save, rasters._strip

    def changed(self, file):
        for tag, value in tags.items():
            self[tag] = value
        return save(self, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFileDirectory_v2, "save", changed)
        patch.setattr(rasters, "_strip", lambda rows: strip(rows) if strips is None else strips)
        path.write_bytes(rasters.encode_tiff(array, None, None))


@pytest.mark.parametrize("kind", ["white is zero", "premultiplied", "planes"])
def test_kinds_of_deep_tiff_that_would_be_misread_are_refused(tmp_path, kind):
    array = pixels({"white is zero": 1, "premultiplied": 4, "planes": 3}[kind])
    strips = [rasters._strip(array[..., [index]]) for index in range(3)] if kind == "planes" else None
    tags = {"white is zero": {262: 0}, "premultiplied": {338: 1}, "planes": {284: 2}}[kind]
    if strips:
        sizes = [len(strip) for strip in strips]
        tags |= {273: (0, sizes[0], sum(sizes[:2])), 279: tuple(sizes)}
    deep_tiff(tmp_path / "a.tif", array, tags, b"".join(strips) if strips else None)
    message = r"a\.tif: this kind of 16-bit picture can't be read; convert it to an RGB PNG"
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.tif")


def test_a_saved_selection_is_no_transparency(tmp_path):
    array = pixels(4)
    deep_tiff(tmp_path / "a.tif", array, {338: 0})
    picture = read(tmp_path / "a.tif")
    assert picture.alpha is None
    assert np.array_equal((picture.rgb[0] * 65535).round().permute(1, 2, 0).numpy(), array[..., :3])


def test_deep_grey_from_pillow_keeps_its_values(tmp_path):
    array = pixels(1)[..., 0]
    Image.fromarray(array).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        picture = images.from_pil(image)
    assert (picture.bits, picture.grey) == (16, True)
    assert np.array_equal((picture.rgb[0, 0] * 65535).round().numpy(), array)

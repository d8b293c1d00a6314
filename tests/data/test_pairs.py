"""Pictures matched by stem, and what is no plain RGB picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from deedsr.data.pairs import match, pictures, read_rgb


def save(path, mode="RGB"):
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, (12, 9), 77 if mode == "L" else (1, 2, 3, 4)[: len(mode)]).save(path)
    return path


def test_pictures_by_stem(tmp_path):
    for name in ("b.png", "a.jpg", "note.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert pictures(tmp_path) == {"a": tmp_path / "a.jpg", "b": tmp_path / "b.png"}


def test_suffix(tmp_path):
    save(tmp_path / "a_x4.png")
    assert [*pictures(tmp_path, "_x4")] == ["a"]
    save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: its name doesn't end in '_x4'"):
        pictures(tmp_path, "_x4")


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        pictures(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no pictures"):
        pictures(tmp_path)
    save(tmp_path / "a.png")
    save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="have the same stem"):
        pictures(tmp_path)


def test_match():
    files = {"restored": {"b": "B", "a": "A"}, "hr": {"a": "C", "b": "D"}}
    assert match(files) == {"a": {"restored": "A", "hr": "C"}, "b": {"restored": "B", "hr": "D"}}
    assert [*match(files)] == ["a", "b"]


def test_unmatched_pictures_are_named():
    with pytest.raises(ValueError, match=r"^restored has no picture for c; hr has no picture for a, b$"):
        match({"restored": {"a": 1, "b": 1}, "hr": {"c": 1}})
    with pytest.raises(ValueError, match="hr has no picture for 00, 01, 02, 03, 04 and 5 more"):
        match({"restored": {f"{i:02}": 1 for i in range(11)}, "hr": {"10": 1}})


def test_read(tmp_path):
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_rgb(tmp_path / "a.png")
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)


@pytest.mark.parametrize(
    ("mode", "message"), [("L", "is a grey picture"), ("RGBA", "has an alpha channel"), ("LA", "is a grey picture")]
)
def test_not_plain_rgb(tmp_path, mode, message):
    path = save(tmp_path / "odd.png", mode)
    with pytest.raises(ValueError, match=rf"odd\.png: {message}, metrics need plain RGB; convert it first"):
        read_rgb(path)


def test_broken_file(tmp_path):
    path = save(tmp_path / "broken.png")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"broken\.png"):
        read_rgb(path)

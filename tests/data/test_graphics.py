"""Drawn pictures: the same numbers draw the same, and training takes them beside the photographs."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deedsr.data.graphics import LATIN, SIDE, faces, make, picture
from deedsr.data.photos import list_photos
from tests.processes import finished, forked, type_in

pytest.importorskip("matplotlib", reason="its fonts: matplotlib is in the extra `train`")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """One grey photograph: what differs from grey was drawn."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (60, 40), (128, 128, 128)).save(tmp_path / "photos" / "grey.png")
    return tmp_path / "photos"


def test_a_picture_is_drawn_on_a_photograph_by_its_numbers_alone(plain: Path) -> None:
    photos = list_photos(plain)
    one, again, other, reseeded = (np.asarray(picture(photos, *n, faces())) for n in ((0, 3), (0, 3), (0, 4), (1, 3)))
    assert one.shape == (SIDE, SIDE, 3)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other) and not np.array_equal(one, reseeded)
    drawn = (np.abs(one.astype(int) - 128) > 8).any(-1).mean()
    assert 0.2 < drawn < 0.98, "there is something drawn, and photograph left"


def test_edges_are_sharp_but_not_jagged(plain: Path) -> None:
    """Steps of more than half the range exist; most edges have pixels between, as the pictures are made smaller."""
    grey = np.stack([np.asarray(picture(list_photos(plain), 0, n, faces()).convert("L"), float) for n in range(3)])
    step = np.abs(np.diff(grey, axis=-1))
    assert step.max() > 128
    assert ((step > 10) & (step < 100)).sum() > (step >= 100).sum()


def test_the_command_makes_a_folder_that_training_lists(
    plain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, module = tmp_path / "drawn", "deedsr.data.graphics"
    words = [str(plain), str(out), "--count", "2"]
    done = finished([sys.executable, "-m", module, *words])
    assert done.returncode == 0 and done.stdout == f"{out}: 2 pictures\n", done.stderr
    assert [Path(str(photo)).name for photo in list_photos([plain, out])] == ["grey.png", "0000.jpg", "0001.jpg"]
    assert forked(partial(type_in, module, words)) == [1]
    assert capfd.readouterr().err == f"error: {out}: exists already; remove it or name another folder\n"


def test_a_corrupt_photograph_is_named_and_nothing_is_left(plain: Path, tmp_path: Path) -> None:
    (plain / "grey.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"grey\.png: corrupt \(not a picture\)"):
        make(list_photos(plain), tmp_path / "drawn", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_more_fonts_write_their_own_letters(plain: Path, tmp_path: Path) -> None:
    """DejaVu Sans holds Greek: as a font of one's own it is written, as one of those at hand it isn't."""
    folder = tmp_path / "fonts" / "sans"
    folder.mkdir(parents=True)
    shutil.copy(next(face.path for face in faces() if face.path.endswith("DejaVuSans.ttf")), folder)
    *known, own = faces(str(tmp_path / "fonts"))
    assert tuple(known) == faces() and all(face.alphabets == LATIN for face in known)
    assert own.path == str(folder / "DejaVuSans.ttf") and own.alphabets[:3] == LATIN
    assert {"a", "Z", "λ", "Ж"} <= set(own.alphabets[-1]) and not {"1", "-", " "} & set(own.alphabets[-1])
    one, other = (np.asarray(picture(list_photos(plain), 0, 0, fonts)) for fonts in (faces(), [own]))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("name", "says"), [(None, "no .ttf, .ttc or .otf in it"), ("bad.ttf", "not a font that can")])
def test_a_folder_without_fonts_is_refused(plain: Path, tmp_path: Path, name: str | None, says: str) -> None:
    (tmp_path / "fonts").mkdir()
    if name is not None:
        (tmp_path / "fonts" / name).write_bytes(b"no font")
    with pytest.raises(ValueError, match=says):
        make(list_photos(plain), tmp_path / "drawn", 1, fonts=tmp_path / "fonts")
    assert not (tmp_path / "drawn").exists()

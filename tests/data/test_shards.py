"""Shards: WebDataset reads them, and training reads them as it reads the folder."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deedsr.data.members import members
from deedsr.data.photos import PhotoCrops, list_photos
from deedsr.data.shards import pack

SIZE = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine photographs in two folders; names that WebDataset would confuse are among them."""
    root = tmp_path / "photos"
    names = ["a.png", "a.jpg", "b.c.png", "b.d.png", "é ü.webp", "in/a.png", "in/b.JPG", "in/c.png", "in/d.png"]
    random = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / name)
    return root


def contents(photos: list) -> list[bytes]:
    return [photo.read_bytes() for photo in photos]


def test_webdataset_reads_every_photograph(folder: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    packed = pack(list_photos(folder), tmp_path / "out", size=20_000, crop=SIZE)
    shards = sorted(str(path) for path in (tmp_path / "out").iterdir())
    assert (packed.photographs, packed.shards) == (9, len(shards))
    assert len(shards) > 2
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    pictures = [next(value for key, value in sample.items() if not key.startswith("__")) for sample in samples]
    assert pictures == contents(list_photos(folder))
    decoded = next(iter(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8")))
    assert decoded["jpg"].shape == (40, 50, 3)


def test_crops_of_shards_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    pack(list_photos(folder), tmp_path / "out", size=20_000, crop=SIZE)
    photos = list_photos(tmp_path / "out")
    assert contents(photos) == contents(list_photos(folder))
    expected = PhotoCrops(list_photos(folder), SIZE, 3, 4, rank=1, start=5)
    loader = PhotoCrops(photos, SIZE, 3, 4, rank=1, start=5).loader(2)
    for got, wanted in zip(islice(loader, 6), expected.loader(0), strict=False):
        assert torch.equal(got.hr, wanted.hr)
    one = list_photos(sorted((tmp_path / "out").iterdir()))
    assert one == photos


def test_the_same_photographs_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pack(list_photos(folder), tmp_path / name, crop=SIZE)
    one, two = (contents(sorted((tmp_path / name).iterdir())) for name in ("one", "two"))
    assert one == two


def test_others_shards_may_hold_other_things(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "made.tar", "w") as archive:
        for name, data in (("x.json", b"{}"), ("x.png", b"pixels"), ("deep/y.JPG", b"more"), ("x.cls", b"1")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    found = members(tmp_path / "made.tar")
    assert [str(member) for member in found] == [f"{tmp_path}/made.tar/x.png", f"{tmp_path}/made.tar/deep/y.JPG"]
    assert contents(found) == [b"pixels", b"more"]


def test_broken_shards_are_named(folder: Path, tmp_path: Path) -> None:
    pack(list_photos(folder), tmp_path / "out", crop=SIZE)
    shard = tmp_path / "out" / "photos-000000.tar"
    whole = shard.read_bytes()
    last = members(shard)[-1]
    shard.write_bytes(whole[: last.start + last.length // 2])
    with pytest.raises(OSError, match="ends within"):
        last.read_bytes()
    for content in (whole[: last.start + last.length // 2], b"no tar at all" * 99, b""):
        shard.write_bytes(content)
        with pytest.raises(ValueError, match=r"photos-000000\.tar: (not a whole|holds no photographs)"):
            list_photos(tmp_path / "out")


def test_the_command(folder: Path, tmp_path: Path) -> None:
    """Counts at the end; duplicates and corrupt files stay out; the split of training is taken."""
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:500])
    Image.new("RGB", (9, 99)).save(folder / "small.png")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    rows = ["file\tsplit", *(f"{name}\t{'val' if name == 'in/d.png' else 'train'}" for name in names)]
    folder.with_suffix(".tsv").write_text("\n".join(rows), encoding="utf-8")
    command = [sys.executable, "-m", "deedsr.data.shards", str(folder), str(tmp_path / "out"), "--crop", str(SIZE)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        f"{tmp_path}/out: 9 photographs in 1 shard",
        f"photographs: duplicates, left out: 1 ({folder}/copy.png); corrupt, left out: 1 ({folder}/cut.png); "
        f"smaller than {SIZE} pixels, packed: 1 ({folder}/small.png)",
    ], done.stderr
    assert len(list_photos(tmp_path / "out", "train")) == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos", "photos.tsv"]


def test_nothing_is_left_of_a_pack_that_failed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"all 1 photographs are corrupt, .*bad\.png"):
        pack([tmp_path / "bad.png"], tmp_path / "out")
    with pytest.raises(OSError, match="gone"):
        pack([*list_photos(folder), tmp_path / "gone.png"], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.png", "photos"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    pack(list_photos(folder), tmp_path / "link")
    assert list((tmp_path / "empty").glob("*.tar"))
    with pytest.raises(ValueError, match="/: is where a disk is mounted; name a folder inside it"):
        pack(list_photos(folder), Path("/"))
    with pytest.raises(ValueError, match="photos: exists already"):
        pack(list_photos(folder), folder)

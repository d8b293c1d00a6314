"""Shards: WebDataset reads them, and training reads them as it reads the folder, of photographs and of pairs."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deedsr.data.members import members
from deedsr.data.pair_list import list_pairs
from deedsr.data.photos import PhotoCrops, list_photos
from deedsr.data.shards import pack
from deedsr.training.photographs import Photographs
from tests.processes import finished

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
        for name, data in (("x.json", b"{}"), ("x.png", b"pixels"), ("./deep/y.JPG", b"more"), ("._x.png", b"1")):
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
    done = finished(command)
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


@pytest.mark.parametrize("chooses", ["", "table", "list"])
def test_pairs_in_shards_give_the_batches_of_the_folder(
    make_pairs: Callable[..., Path], pack_pairs: Callable[[Path, Path], Path], tmp_path: Path, chooses: str
) -> None:
    plain = make_pairs(tmp_path / "plain", 6)
    places = [plain, pack_pairs(plain, tmp_path / "packed")]
    for place in places * (chooses == "table"):
        place.with_suffix(".tsv").write_text("file\tsplit\n0\ttrain\nhr/1.png\ttrain\n3.png\ttrain\n5\ttrain\n")
    (tmp_path / "some.txt").write_text("0\nhr/1.png\n3.png\n5\n")
    roots = [{"root": place, "list": tmp_path / "some.txt"} if chooses == "list" else place for place in places]
    words = {"crop": 64, "batch": 3, "split": "train", "other": True, "held_back": 0.1}
    one, two = (Photographs([], pairs=[root], cache=root == roots[1], **words) for root in roots)
    assert len(one) == len(two) == (2 if chooses else 4) and one.fingerprint == two.fingerprint
    assert [pair.name for pair in one.held_pairs] == [pair.name for pair in two.held_pairs]
    assert all(pair.hr.shard.suffix == ".tar" for pair in two.held_pairs)
    for workers in (0, 2):
        batches = (islice(data.stream(0, 1, 5).loader(workers), 2) for data in (one, two))
        for wanted, got in zip(*batches, strict=True):
            for name, tensor in wanted.tensors().items():
                assert torch.equal(got.tensors()[name], tensor), name


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("partner", "hr has no picture for 1, 3$"),
        ("cut", r"lr/0\.tar: not a whole, uncompressed tar file"),
        ("twice", r"lr/0\.tar/0\.png and .*lr/2\.tar/0\.png have the same stem; keep one of them$"),
        ("unreadable", r"lr/0\.tar/0\.png: can't be read as a picture"),
    ],
)
def test_bad_shards_of_pairs_are_named_in_one_line(
    make_pairs: Callable[..., Path], pack_pairs: Callable[[Path, Path], Path], tmp_path: Path, what: str, message: str
) -> None:
    folder = pack_pairs(make_pairs(tmp_path / "plain", 4), tmp_path / "packed")
    shard = folder / "lr" / "0.tar"
    content, first = shard.read_bytes(), members(shard)[0]
    if what == "partner":
        (folder / "hr" / "1.tar").unlink()
    elif what == "cut":
        shard.write_bytes(content[: first.start + first.length // 2])
    elif what == "twice":
        (folder / "lr" / "2.tar").write_bytes(content)
    else:
        shard.write_bytes(content[: first.start] + bytes(first.length) + content[first.start + first.length :])
    with pytest.raises(ValueError, match=message) as error:
        list_pairs(folder, 64)
    assert "\n" not in str(error.value)

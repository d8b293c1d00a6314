"""Own pairs: what is taken and told, crops that fit each other, and their share among crops of photographs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from deedsr.data.batch import Crops
from deedsr.data.pair_crops import MixedCrops, PairCrops, degraded
from deedsr.data.pair_list import list_pairs, read_pair, shift_of
from deedsr.data.photos import PhotoCrops, list_photos
from deedsr.degradation import Recipe, apply
from deedsr.training.photographs import Photographs, chosen

Make = Callable[..., Path]
ROOFTOPS = Path(__file__).parent / "rooftops.png"


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_crops_of_both_show_the_same(make_pairs: Make, tmp_path: Path, scale: int) -> None:
    """HR made smaller is more like its LR than like the LR at any place beside."""
    found = list_pairs(make_pairs(tmp_path / "own", 2, scale), 64)
    assert any(f"2 of scale {scale}" in line for line in found.lines) == (scale != 4)
    crops = PairCrops([found.pairs], 64, 0, 1)
    for number in range(4):
        sample = crops.sample(0, number)
        assert sample.hr.shape == (3, 64, 64) and sample.lr.shape == (3, 16, 16) and sample.paired
        assert sample.hr.dtype == sample.lr.dtype == torch.uint8
        small = sample.hr.float().unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2))
        likeness = {
            (down, right): torch.corrcoef(
                torch.stack(
                    [small[:, 2:14, 2:14].flatten(), sample.lr.roll((down, right), (1, 2))[:, 2:14, 2:14].flatten()]
                ).float()
            )[0, 1]
            for down in (-2, -1, 0, 1, 2)
            for right in (-2, -1, 0, 1, 2)
        }
        assert max(likeness, key=likeness.get) == (0, 0)


def test_what_is_left_over_is_cut_off(tmp_path: Path) -> None:
    for role in ("lr", "hr"):
        (tmp_path / role).mkdir()
        for name in "ab":
            Image.open(ROOFTOPS).resize((70, 66)).save(tmp_path / role / f"{name}.png")
    lr, hr, scale = read_pair(list_pairs(tmp_path, 64).pairs[0])
    assert (lr.shape, hr.shape, scale) == ((16, 17, 3), (64, 68, 3), 1)


@pytest.mark.parametrize(("blur", "noise"), [(0.0, 0), (4.0, 10), (8.0, 40)])
def test_a_shift_is_measured_in_spite_of_blur_and_noise(blur: float, noise: int) -> None:
    photo = np.asarray(Image.open(ROOFTOPS).convert("RGB").resize((768, 512)))
    random = np.random.default_rng(0)
    for right, down in ((0, 0), (3, 0), (12, -8), (-22, 17)):
        part = photo[32 - down : 432 - down, 32 - right : 672 - right]
        soft = cv2.GaussianBlur(part, (0, 0), blur) if blur else part
        small = cv2.resize(soft, (160, 100), interpolation=cv2.INTER_AREA)
        lr = (small + random.normal(0, noise, small.shape)).clip(0, 255).astype(np.uint8)
        found = shift_of(lr, photo[32:432, 32:672])
        assert np.abs(np.subtract(found, (right / 4, down / 4))).max() < 0.4


def test_shifted_pairs_are_told_and_left_out_unless_wanted(make_pairs: Make, tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 4)
    file = folder / "lr" / "2.png"
    Image.fromarray(np.roll(np.asarray(Image.open(file)), 5, 1)).save(file)
    found = list_pairs(folder, 64)
    assert [pair.name for pair in found.pairs] == ["0", "1", "3"]
    told = f"{folder}: of 4 pairs 1 shifted by more than a pixel of the LR"
    assert found.lines == [f"{told}, left out unless data.shifted=true (5.0, 2)"]
    assert found.doubts == []
    found = list_pairs(folder, 64, shifted=True)
    assert len(found.pairs) == 4
    assert found.lines == [f"{told}, kept (5.0, 2)"]
    assert found.doubts == ["of 4 pairs 1 shifted by more than a pixel of the LR (5.0, 2)"]


def test_pairs_that_show_two_things_are_told_and_left_out(make_pairs: Make, tmp_path: Path) -> None:
    """A picture of something else is; a negative, a noisy one, and one in other colours are not."""
    folder = make_pairs(tmp_path, 6)
    files = [folder / "lr" / f"{number}.png" for number in range(6)]
    pictures = [np.asarray(Image.open(file)).astype(float) for file in files]
    pictures[0] = 255 - pictures[0]
    pictures[1] = pictures[1] + np.random.default_rng(0).normal(0, 40, pictures[1].shape)
    pictures[2] = 30 + pictures[2] * (0.7, 0.5, 0.3)
    pictures[3] = pictures[3][::-1]
    for file, picture in zip(files, pictures, strict=True):
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file)
    found = list_pairs(folder, 64)
    assert [pair.name for pair in found.pairs] == ["0", "1", "2", "4", "5"]
    (line,) = found.lines
    assert re.fullmatch(r".*: of 6 pairs 1 show something else in lr/ than in hr/, left out .* \(a .*, 3\)", line)
    assert list_pairs(folder, 64, shifted=True).doubts == [re.sub(r".*(of 6.*), left out.*( \(.*)", r"\1\2", line)]


def test_shuffled_pairs_are_refused_with_the_reason(make_pairs: Make, tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 4)
    for number in range(4):
        (folder / "lr" / f"{number}.png").rename(folder / "lr" / f"_{number}.png")
    for number in range(4):
        picture = Image.open(folder / "lr" / f"_{number}.png").transpose(Image.Transpose.ROTATE_180)
        picture.save(folder / "lr" / f"{(number + 1) % 4}.png")
        (folder / "lr" / f"_{number}.png").unlink()
    with pytest.raises(
        ValueError, match=r"0 of 4 pairs can be trained on.* something else in lr/ than in hr/"
    ) as error:
        list_pairs(folder, 64)
    assert "\n" not in str(error.value)


def test_a_table_chooses_a_split(make_pairs: Make, tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "own", 4)
    rows = ["file\tsplit", "0\ttrain", "hr/1.png\tval", "2.png\ttrain", "3\tval"]
    (tmp_path / "own.tsv").write_text("\n".join(rows) + "\n")
    assert [pair.name for pair in list_pairs(folder, 64, "train").pairs] == ["0", "2"]
    assert len(list_pairs(folder, 64).pairs) == 4


def test_a_list_chooses_pairs(make_pairs: Make, tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "own", 4)
    for file in (folder / "some.txt", tmp_path / "some.txt"):
        file.write_text("0.png (288, 336)\nhr/2.png\n3\n")
    for root in (folder / "some.txt", {"root": str(folder), "list": str(tmp_path / "some.txt")}):
        assert [pair.name for pair in list_pairs(root, 64).pairs] == ["0", "2", "3"]
    (folder / "some.txt").write_text("0\n9\n")
    with pytest.raises(ValueError, match=r"some\.txt: names 9, and .*own has no such pair"):
        list_pairs(folder / "some.txt", 64)
    with pytest.raises(ValueError, match="pairs with a list are"):
        list_pairs({"root": str(folder)}, 64)


def test_a_tenth_is_held_back_always_the_same(
    make_pairs: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, words = make_pairs(tmp_path / "own", 5), {"crop": 64, "batch": 1}
    caplog.set_level(logging.INFO)
    one, same = (Photographs([], pairs=[folder], held_back=share, **words) for share in (0.1, 0.4))
    assert len(one.held_pairs) == 2 and one.held_pairs == same.held_pairs and len(one) == 3
    assert not {pair.name for pair in one.held_pairs} & {pair.name for pair in one.pairs[0]}
    names = ", ".join(pair.name for pair in one.held_pairs)
    told = f"held back to validate on: 2 of 5 pairs, {names}"
    few = "; so few say little, give more pairs"
    assert [record.message for record in caplog.records if "held back" in record.message] == [
        f"{told}, more than the share of 0.1 that is asked for{few}",
        f"{told}{few}",
    ]
    assert {place.name for place, _ in [(folder[at], at) for folder, at in one.stream(0, 1, 0).places]} == {
        pair.name for pair in one.pairs[0]
    }
    (folder / "lr" / "4.png").unlink(), (folder / "hr" / "4.png").unlink()
    fewer = Photographs([], pairs=[folder], held_back=0.1, **words)
    order = [pair.name for pair in chosen(list_pairs(folder, 64).pairs, 0.5)]
    assert [pair.name for pair in fewer.held_pairs] == order  # what is added elsewhere leaves the order of the others
    photos = Photographs(folder / "hr", held_back=0.25, **words)
    assert len(photos.held_photos) == 2 and len(photos) == 2 and not {*photos.held_photos} & {*photos.files}
    with pytest.raises(ValueError, match="of 1 none can be held back"):
        Photographs({"root": str(folder), "list": str(one_of(tmp_path))}, held_back=0.1, **words)
    with pytest.raises(ValueError, match=r"data\.held_back is 1; it must be at least 0 and below 1"):
        Photographs([], pairs=[folder], held_back=1, **words)


def one_of(folder: Path) -> Path:
    """A list of one photograph."""
    file = folder / "one.txt"
    file.write_text("hr/0.png\n")
    return file


def broken(folder: Path, what: str) -> None:
    first = folder / "hr" / "0.png"
    if what == "partner":
        first.unlink()
    elif what == "size":
        Image.open(first).crop((0, 0, 335, 288)).save(first)
    elif what == "smaller":
        Image.open(first).resize((40, 36)).save(first)
    elif what == "unreadable":
        first.write_bytes(b"nothing")
    elif what == "single":
        for role in ("lr", "hr"):
            (folder / role / "1.png").unlink()


@pytest.mark.parametrize(
    ("what", "size", "message"),
    [
        ("partner", 64, r"hr has no picture for 0$"),
        ("size", 64, r"hr/0\.png: 335×288 is not a whole number of times as large as 84×72 of .*0\.png; crop both"),
        ("smaller", 64, r"hr/0\.png: 40×36 is not a whole number of times as large as 84×72"),
        ("unreadable", 64, r"hr/0\.png: can't be read as a picture \(not a picture\); repair it"),
        ("single", 64, r"1 of 1 pairs can be trained on, at least 2 are needed$"),
        ("", 320, r"0 of 2 pairs can be trained on, .* \(2 smaller than 320 pixels, left out \(0 for one\)\)"),
    ],
)
def test_bad_pairs_are_named_in_one_line(make_pairs: Make, tmp_path: Path, what: str, size: int, message: str) -> None:
    folder = make_pairs(tmp_path, 2)
    broken(folder, what)
    with pytest.raises(ValueError, match=message) as error:
        list_pairs(folder, size)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_wrong_words_are_named(make_pairs: Make, tmp_path: Path) -> None:
    folder = make_pairs(tmp_path, 2)
    with pytest.raises(ValueError, match=r"data\.pair_share is 1\.2; it must be at least 0 and at most 1"):
        Photographs([], 64, 2, pairs=[folder], pair_share=1.2)
    with pytest.raises(ValueError, match="crop must be a multiple of 4 with pairs, got 62"):
        Photographs([], 62, 2, pairs=[folder]).stream(0, 1, 0)
    with pytest.raises(ValueError, match="lr: no such folder"):
        Photographs([], 64, 2, pairs=str(tmp_path / "none"))


def test_their_share_of_each_batch_is_of_pairs_and_the_rest_as_without(make_pairs: Make, tmp_path: Path) -> None:
    pairs = list_pairs(make_pairs(tmp_path, 3), 64).pairs
    photos = PhotoCrops(list_photos(ROOFTOPS.parent), 64, 5, 10)
    mixed = MixedCrops(photos, PairCrops([pairs], 64, 5, 10, other=True), 0.3)
    for step in range(5):
        rows = [mixed.sample(step, number) for number in range(10)]
        assert sum(bool(row.paired) for row in rows) == 3
        for number, row in enumerate(rows):
            if not row.paired:
                assert torch.equal(row.hr, photos.crop(step, number))
    counts = [sum(bool(MixedCrops(photos, mixed.pairs, s).sample(0, n).paired) for n in range(10)) for s in (0, 1)]
    assert counts == [0, 10]


@pytest.mark.parametrize("cache", [False, True])
def test_any_step_can_be_started_from_with_any_workers(make_pairs: Make, tmp_path: Path, cache: bool) -> None:
    words = {"crop": 64, "batch": 4, "pairs": make_pairs(tmp_path, 3), "other": True, "cache": cache}
    data = Photographs(ROOFTOPS.parent, pair_share=0.5, **words)
    whole = list(islice(data.stream(0, 1, 0).loader(0), 3))
    for at, batch in enumerate(islice(data.stream(0, 1, 1).loader(2), 2), 1):
        for name, tensor in batch.tensors().items():
            assert torch.equal(tensor, whole[at].tensors()[name]), name
    assert whole[0].tensors().keys() == {"hr", "lr", "other", "paired"}
    assert len(data) == 4


def test_the_other_picture_is_another_of_the_same_folder(tmp_path: Path) -> None:
    folders = []
    for number, name in enumerate(("one", "two")):
        for role, side in (("lr", 16), ("hr", 64)):
            (tmp_path / name / role).mkdir(parents=True)
            for at in range(3):
                picture = Image.new("RGB", (side, side), (10 * at, 100 * number, 0))
                picture.save(tmp_path / name / role / f"{at}.png")
        folders.append(list_pairs(tmp_path / name, 64).pairs)
    crops = PairCrops(folders, 64, 0, 1, other=True)
    seen = set()
    for number in range(200):
        sample = crops.sample(0, number)
        (at, folder), (further, same) = ((int(x[0, 0, 0]), int(x[1, 0, 0])) for x in (sample.lr, sample.other))
        assert folder == same and at != further and int(sample.hr[0, 0, 0]) == at
        seen.add((folder, at, further))
    assert len(seen) == 12


def test_rows_of_pairs_keep_their_lr() -> None:
    hr, own = torch.rand(3, 3, 32, 32), torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    degradation = Recipe.named("heavy").sample(torch.Generator().manual_seed(0), 3)
    plain = apply(hr, degradation)
    assert torch.equal(degraded(hr, degradation, None, None), plain)
    lr = degraded(hr, degradation, own, torch.tensor([False, True, False]))
    assert torch.equal(lr[[0, 2]], plain[[0, 2]]) and torch.equal(lr[1], own[1] / 255)
    assert torch.equal(degraded(hr, degradation, own, torch.ones(3, dtype=torch.bool)), own / 255)


def test_without_pairs_a_batch_holds_what_it_did() -> None:
    for words in ({}, {"pairs": ["nowhere"], "pair_share": 0}):
        sample = Photographs(ROOFTOPS.parent, 64, 2, **words).stream(0, 1, 0).sample(0, 0)
        assert isinstance(sample, Crops) and sample.tensors().keys() == {"hr"}

"""Pairs of degraded photographs that any method can be measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from deedsr.data.pairs import read_rgb
from deedsr.degradation import apply
from stage2.evaluate.degradation.pictures import Pictures, Scenes
from stage2.evaluate.degradation.recipes import recipe
from stage2.evaluate.degraded import pairs
from tests.processes import ROOT


def written(photos: Path, output: Path, *more: str) -> str:
    words = [f"data.roots=[{photos}]", f"output={output}", "recipe=heavy", "crop=64", "crops=2", *more]
    with initialize_config_dir(str(ROOT / "conf" / "evaluate"), version_base="1.3"):
        return pairs(compose("pairs", words))


def test_they_are_the_pictures_of_the_benchmark_in_8_bits(photos: Path, tmp_path: Path) -> None:
    assert written(photos, tmp_path / "out") == f"{tmp_path / 'out'}: 8 pairs\n"
    scenes = Scenes(sorted(photos.iterdir()), 64, 2, [0])
    pictures = Pictures(scenes, recipe("heavy"))
    names = [f"{photo}_{photo}_0_{crop}.png" for photo in range(4) for crop in range(2)]
    for kind, expected in (("hr", scenes.hr), ("lr", pictures.lr.__getitem__)):
        assert sorted(path.name for path in (tmp_path / "out" / kind).iterdir()) == names
        for index, name in enumerate(names):
            torch.testing.assert_close(
                read_rgb(tmp_path / "out" / kind / name), expected(index), atol=0.501 / 255, rtol=0
            )
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["recipe"] == "heavy"


def test_one_photograph_and_an_operation_will_do(photos: Path, tmp_path: Path) -> None:
    written(photos, tmp_path / "out", "photographs=1", "crops=1", "seeds=[3]", "recipe=blur-2")
    (hr,), (lr,) = ([*(tmp_path / "out" / kind).iterdir()] for kind in ("hr", "lr"))
    assert hr.name == lr.name == "0_0_3_0.png"
    blurred = apply(read_rgb(hr), recipe("blur-2").sample(torch.Generator(), 1))
    torch.testing.assert_close(read_rgb(lr), blurred, atol=0.501 / 255, rtol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["crop=30"], "crop=30 must be a multiple of 4"),
        (["recipe=hevy"], "unknown recipe 'hevy'"),
        (["crops=0"], "crops=0"),
        (["photographs=0"], "0 photographs"),
        (["seeds=[]"], r"seeds=\[\]"),
        (["crop=400"], r"0\.png: is smaller than 400 x 400"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(photos: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        written(photos, tmp_path / "out", *words)
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_holds_something_is_left_as_it_is(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ValueError, match=str(tmp_path)):
        written(photos, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]

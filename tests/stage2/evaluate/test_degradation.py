"""The benchmark of degradation vectors: pairs, vectors, restoring, fits and what it writes, on tiny models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from deedsr.data.photos import list_photos
from deedsr.degradation import Recipe, apply
from deedsr.models import random_model
from deedsr.models.deedsr.model import DeeDSR
from deedsr.models.deedsr.model import random_model as random_deedsr
from deedsr.models.deedsr.sizes import DeeDSRConfig
from deedsr.options import Options
from deedsr.restorer import Restorer
from stage2.evaluate.degradation.dials import DIALS, Response, measures
from stage2.evaluate.degradation.figure import figure
from stage2.evaluate.degradation.fitted import Fit
from stage2.evaluate.degradation.pictures import WHOLE, Pictures, Scenes, cut
from stage2.evaluate.degradation.recipes import Fixed, recipe
from stage2.evaluate.degradation.restoring import Arm
from stage2.evaluate.degradation.scores import scorers
from stage2.evaluate.degradation.shared import Shared
from stage2.evaluate.degradation.swap import Swap
from stage2.evaluate.degradation.vectors import VECTORS, Choice, pool
from stage2.evaluate.degradation.worth import degradation

CONF = Path(__file__).parents[3] / "conf" / "evaluate"
OPTIONS = Options(steps=1, noise_guidance=(0, 0))


@pytest.fixture(scope="module")
def photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """They are as large as pieces of 128²."""
    folder = tmp_path_factory.mktemp("large")
    for file in list_photos(photos):
        with Image.open(file) as photo:
            photo.resize((160, 128), Image.Resampling.BICUBIC).save(folder / file.name)
    return folder


@pytest.fixture
def scenes(photos: Path) -> Scenes:
    return Scenes(list_photos(photos), 128, 2, (0, 1))


@pytest.fixture
def arm(tiny_model: DeeDSR) -> Arm:
    """Its dynamic kernels and gates so strong that its vector decides on what comes out."""
    with torch.no_grad():
        for name, parameter in tiny_model.adapter.named_parameters():
            if ".degradation." in name:
                parameter.mul_(2)
    return Arm("tiny", tiny_model.requires_grad_(False), OPTIONS)


def ablated(config: DeeDSRConfig, degradation: str) -> Arm:
    torch.manual_seed(0)
    adapter = dataclasses.replace(config.adapter, degradation=degradation)
    model = random_deedsr(dataclasses.replace(config, adapter=adapter))
    return Arm(degradation, model.requires_grad_(False), OPTIONS)


def swapped(
    scenes: Scenes, *arms: Arm, fields: tuple = (64,), recipes: tuple = ("varied",), fit: Fit | None = None
) -> Swap:
    found = Swap(arms, scenes, fields, list(VECTORS), scorers(["psnr"], "cpu"), fit=fit or Fit(2, 1))
    for name in recipes:
        found.run(name)
    return found


def test_another_picture_is_never_the_own_one(scenes: Scenes) -> None:
    for index in range(len(scenes)):
        seed, photo, crop = scenes.place(index)
        others = [scenes.place(scenes.other(index, step)) for step in range(1, scenes.photos)]
        assert [(place[0], place[2]) for place in others] == [(seed, crop)] * 3
        assert {place[1] for place in others} == set(range(4)) - {photo}
        assert scenes.place(scenes.other(index))[1] != photo
    assert not torch.equal(scenes.hr(0), scenes.hr(1)) and not torch.equal(scenes.hr(0), scenes.hr(8))


def test_the_same_degradation_has_the_same_numbers_and_other_noise(scenes: Scenes) -> None:
    pictures = Pictures(scenes, Recipe.named("heavy"))
    other, same = pictures.sibling(5)
    for name, values in pictures.degradation[5].state().items():
        assert torch.equal(values, same.state()[name]) == (name != "seed")
    assert scenes.photo(other) != scenes.photo(5)
    assert not torch.equal(pictures.degradation[5].noise_sigma, pictures.degradation[other].noise_sigma)
    assert pictures.same(5).shape == pictures.lr[other].shape and not torch.equal(pictures.same(5), pictures.lr[other])


def test_a_field_lies_in_the_middle_on_the_grid_of_jpeg(scenes: Scenes) -> None:
    hr = torch.arange(512 * 512.0).view(1, 1, 512, 512)
    lr, part = cut(hr[..., ::4, ::4], hr, 256)
    assert part[0, 0, 0, 0] == 128 * 512 + 128 and tuple(part.shape[-2:]) == (256, 256)
    assert torch.equal(lr, part[..., ::4, ::4])
    assert cut(lr, part, WHOLE) == (lr, part) == cut(lr, part, 256)
    lr, part = cut(hr[..., ::4, ::4], hr, 64)
    assert part[0, 0, 0, 0] % 64 == 0


@pytest.mark.parametrize("name", ["blur-4+noise-12+jpeg-45", "blur-2", "noise-10", "jpeg-60"])
def test_operations_of_one_strength(name: str) -> None:
    made = recipe(name)
    assert isinstance(made, Fixed)
    drawn = made.sample(torch.Generator().manual_seed(0), 2)
    strengths = dict(part.split("-") for part in name.split("+"))
    for key, values in (
        ("blur", drawn.sigma_x[:, 0]),
        ("noise", drawn.noise_sigma[:, 1]),
        ("jpeg", drawn.quality[:, 1]),
    ):
        assert values.tolist() == [float(strengths.get(key, 0))] * 2
    assert drawn.noise_sigma[:, 0].eq(0).all() and drawn.seed[0] != drawn.seed[1]
    assert recipe("heavy") == Recipe.named("heavy")


@pytest.mark.parametrize("name", ["strong", "blur", "blur-x", "blur-1+blur-2", "jpeg-101", "resize-2", ""])
def test_a_recipe_that_there_is_not(name: str) -> None:
    with pytest.raises(ValueError, match="is no strength" if name == "jpeg-101" else "unknown recipe .*choose one of"):
        recipe(name)


def test_whole_pictures_are_restored_as_the_restorer_does_it(arm: Arm, scenes: Scenes) -> None:
    options = dataclasses.replace(OPTIONS, tile=64)
    tiled, lr = Arm("tiled", arm.model, options), Pictures(scenes, Recipe.named("light")).lr[0]
    own = tiled.vector(lr)
    assert own is not None
    with torch.no_grad():
        one, two = tiled.restore(lr, torch.cat([own, torch.zeros_like(own)]), tiled=True)
        plain = arm.restore(lr, own)[0]
    assert len(tiled.restorer.layout.tiles(48, 48)) > 1  # 128 pixels and 32 of context on each side, by 4
    assert torch.allclose(one, Restorer(arm.model, options).restore(lr)[0], atol=1e-5)
    assert (one - two).abs().max() > 0.01 and (one - plain).abs().max() > 0.01


def test_each_vector_is_what_it_is_called(arm: Arm, scenes: Scenes) -> None:
    pictures = Pictures(scenes, Recipe.named("heavy"))
    own = pool(arm, pictures)
    assert own is not None
    choice = Choice(arm, pictures, own, varied=own + 100)
    lr, _ = cut(pictures.lr[5], scenes.hr(5), 64)

    def vector(name: str) -> Tensor:
        return choice(name, 5, lr, 64)

    others = [index for index in range(len(scenes)) if scenes.photo(index) != scenes.photo(5)]
    assert torch.equal(vector("own"), arm.vector(pictures.lr[5]))
    assert torch.equal(vector("crop"), arm.vector(lr)) and not torch.equal(vector("crop"), vector("own"))
    assert torch.equal(vector("mean"), own[others].mean(0, keepdim=True))
    assert torch.allclose(vector("mean_varied"), own[others].mean(0, keepdim=True) + 100)
    assert torch.equal(vector("another"), own[scenes.other(5)][None])
    assert torch.equal(vector("same"), arm.vector(pictures.same(5)))
    whole = apply(scenes.photograph(5), pictures.degradation[5])
    assert whole.shape[-2:] == (128 // 4, 160 // 4) and torch.equal(vector("photograph"), arm.vector(whole))
    assert not torch.equal(vector("photograph"), vector("own"))
    assert not vector("zero").any()
    fixed = Choice(arm, Pictures(scenes, Fixed(noise=20)), own, varied=own + 100)
    assert torch.equal(fixed("another", 5, lr, 64), own[scenes.other(5)][None] + 100)


def test_swapping_vectors_shows_in_a_model_that_uses_them(arm: Arm, scenes: Scenes) -> None:
    found = swapped(scenes, arm, fields=(64, WHOLE), recipes=("varied", "noise-20"))
    rows = {(row["recipe"], row["field"], row["vector"]): row for row in found.rows(["varied", "noise-20"])}
    assert "difference" not in rows["varied", 64, "own"]["psnr"]
    for vector in ("crop", "zero", "mean", "mean_varied", "another", "same"):
        low, high = rows["varied", 64, vector]["psnr"]["interval"]
        assert low < high and low <= rows["varied", 64, vector]["psnr"]["difference"] <= high
        assert rows["varied", 64, vector]["photographs"] == 4
    assert ("varied", WHOLE, "crop") not in rows and ("varied", 64, "fitted") not in rows
    assert rows["noise-20", 64, "fitted"]["psnr"]["difference"] != 0
    assert any("tiny, null: it has no null vector" in line for line in found.missing)
    assert any("tiny, fitted: one is fitted to recipes of one strength" in line for line in found.missing)


@pytest.mark.parametrize("kind", ["constant", "zero"])
def test_swapping_vectors_changes_nothing_in_a_model_that_ignores_them(
    kind: str, tiny_config: DeeDSRConfig, scenes: Scenes
) -> None:
    found = swapped(scenes, ablated(tiny_config, kind))
    rows = {row["vector"]: row["psnr"] for row in found.rows(["varied"])}
    assert rows.keys() >= {"own", "crop", "mean", "another", "same"}
    for vector in rows.keys() - ({"own", "zero"} if kind == "constant" else {"own"}):
        assert (rows[vector]["difference"], rows[vector]["interval"]) == (0, [0, 0]), vector


def test_the_null_vector_takes_its_part(tiny_config: DeeDSRConfig, scenes: Scenes) -> None:
    config = dataclasses.replace(tiny_config, adapter=dataclasses.replace(tiny_config.adapter, null=True))
    torch.manual_seed(0)
    model = random_deedsr(config)
    torch.nn.init.normal_(model.adapter.null)
    arm = Arm("null", model.requires_grad_(False), OPTIONS)
    pictures = Pictures(scenes, Recipe.named("heavy"))
    own = pool(arm, pictures)
    assert own is not None
    assert torch.equal(Choice(arm, pictures, own, own)("null", 0, pictures.lr[0], WHOLE), model.adapter.null[None])


def test_a_model_without_a_vector_has_a_row_beside_others(arm: Arm, scenes: Scenes) -> None:
    other = Arm("dit", random_model("dit4sr_small").requires_grad_(False), OPTIONS)
    other.model.limit = 64
    found = swapped(scenes, arm, other, fields=(64, 128))
    rows = [row for row in found.rows(["varied"]) if row["model"] == "dit"]
    assert [(row["field"], row["vector"]) for row in rows] == [(64, "own")]
    assert "dit, field 128: it takes at most 64 pixels in one piece" in found.missing
    assert "dit: takes no degradation vector, so that it has one row" in found.missing
    (beside,) = found.beside(["varied"], "tiny")
    rows = [row for row in found.rows(["varied"]) if (row["field"], row["vector"]) == (64, "own")]
    means = {row["model"]: row["psnr"]["mean"] for row in rows}
    assert beside["psnr"]["difference"] == pytest.approx(means["dit"] - means["tiny"])
    assert Shared(degradations=1).run(other, scenes, [64], scorers(["psnr"], "cpu"), False) == []


def test_a_fitted_vector_fits_and_has_not_seen_the_photograph(arm: Arm, scenes: Scenes) -> None:
    pictures = Pictures(scenes, Fixed(noise=30))
    own = pool(arm, pictures)
    assert own is not None
    choice, seen = Choice(arm, pictures, own, own), []
    hr = scenes.hr

    def watched(index: int) -> Tensor:
        seen.append(scenes.photo(index))
        return hr(index)

    scenes.hr = watched  # type: ignore[method-assign]

    def error(vector: Tensor) -> float:
        pieces = [index for index in range(len(scenes)) if scenes.photo(index) % 2]
        parts = [cut(pictures.lr[index], hr(index), 64) for index in pieces]
        with torch.no_grad():
            return sum(float((arm.restore(lr, vector) - truth).abs().mean()) for lr, truth in parts)

    even, odd = Fit(pictures=4, steps=20, rate=1.0).both(choice, 64, None)
    assert set(seen[: len(seen) // 2]) == {1, 3} and set(seen[len(seen) // 2 :]) == {0, 2}
    assert not torch.equal(even, odd)
    start = own[[scenes.photo(index) % 2 == 1 for index in range(len(own))]].mean(0, keepdim=True)
    assert error(even) < error(start)


def test_the_flattest_crops_and_the_vector_of_many(arm: Arm, scenes: Scenes) -> None:
    shared = Shared(recipe="noise-20", degradations=2, pictures=2, share=0.25)
    grey = [scenes.hr(index).mean(1)[0, :64, :64] for index in range(16)]
    spreads = [float(plane.diff(dim=0).square().mean() + plane.diff(dim=1).square().mean()) for plane in grey]
    chosen = shared.flattest(scenes, 64)
    assert len(chosen) == 4
    assert max(spreads[index] for index in chosen) <= sorted(spreads)[3]
    asked: list[Tensor] = []
    restore: Callable = arm.restore

    def watched(lr: Tensor, vectors: Tensor) -> Tensor:
        asked.append(vectors)
        return restore(lr, vectors)

    arm.restore = watched  # type: ignore[method-assign]
    (row,) = shared.run(arm, scenes, [64, WHOLE], scorers(["psnr"], "cpu"), False)
    assert (row["field"], row["crops"], row["model"]) == (64, 4, "tiny")
    assert len(asked) == 2 * 4 and all(vectors.shape == (3, 16) for vectors in asked)
    low, high = row["psnr"]["shared - crop"]["interval"]
    assert low <= row["psnr"]["shared - crop"]["difference"] <= high


def test_dials_move_the_output_and_do_nothing_at_one(arm: Arm, scenes: Scenes) -> None:
    found = Response("blur-2+noise-12+jpeg-45", 64, (0, 1, 2), 1).run(arm, scenes, False)
    assert (found["pictures"], found["positions"]) == (4, [0, 1, 2])
    for dial, (measure, _) in DIALS.items():
        curve = found["dials"][dial]["curves"][measure]
        assert curve[1] == {"mean": 0, "interval": [0, 0]}
        assert curve[0]["mean"] != 0 and curve[2]["mean"] != 0


def test_noise_is_measured_where_there_is_no_detail() -> None:
    plain = torch.full((1, 3, 128, 128), 0.5)
    plain[..., :64] = torch.rand(1, 3, 128, 64, generator=torch.Generator().manual_seed(0))  # texture in one half
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)).repeat_interleave(4, 2)
    noisy = plain + noise.repeat_interleave(4, 3) * 4 / 255
    (_, before, _), (_, after, _) = measures(plain)[0].tolist(), measures(noisy)[0].tolist()
    assert before == 0 and after == pytest.approx(4 * 0.668, rel=0.2)  # of the three channels' weighted mean


def composed(photos: Path, output: Path, *more: str) -> DictConfig:
    words = [f"data.roots=[{photos}]", f"output={output}", "around=128", "fields=[64,whole]", "crops=1", "seeds=[0]"]
    words += ["recipes=[varied,blur-2]", "metrics=[psnr]", "dear=[]", "progress=false", "options.steps=1"]
    words += ["dials.field=64", "dials.crops=1", "shared.degradations=2", "shared.share=1"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("degradation", [*words, *more])


def test_the_command_writes_tables_and_a_figure(photos: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "found.json"
    models = f"models={{one: {tiny_model_folder}, two: {tiny_model_folder}}}"
    text = degradation(composed(photos, output, models))
    found = json.loads(output.read_text())
    assert output.with_suffix(".md").read_text() == text
    assert {row["model"] for row in found["swap"]} == {"one", "two"}
    assert [row["psnr"]["difference"] for row in found["arms"]] == [0] * 4, "the same model twice"
    assert all(row["against"] == "one" and row["model"] == "two" for row in found["arms"])
    assert len(found["dials"]) == 2 and len(found["shared"]) == 2
    assert "one, null: it has no null vector" in text and "| one | varied | 64 | **own** |" in text
    assert str(found["sampling"]["one"]) in text
    with Image.open(output.with_suffix(".png")) as drawn:
        assert drawn.width == 9 * 150
        assert len(set(drawn.convert("RGB").get_flattened_data())) > 50
    assert figure({"dials": found["dials"]}, "psnr").get_figheight() == 2.5, "no empty panels above the dials"
    swap = figure(found, "psnr").subfigs[0].axes[0]
    low, high = sorted(swap.get_ylim())
    assert all(low < y < high for line in swap.lines[1:] for y in line.get_ydata())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vectors=[mine]"], "unknown vector 'mine'"),
        (["recipes=[none-1]"], "unknown recipe 'none-1'"),
        (["parts=[all]"], "unknown part 'all'"),
        (["metrics=[niqe]"], "unknown metric 'niqe'"),
        (["metrics=[]"], r"metrics=\[\] measures nothing"),
        (["fields=[80]"], r"fields=\[80\], around=128: give multiples of 64"),
        (["fields=[256]"], r"fields=\[256\], around=128: give multiples of 64 up to around"),
        (["photographs=1"], "1 photograph held back: give at least 2"),
        (["around=192"], r"0\.png: is smaller than 192 x 192; take smaller pieces, or leave it out"),
        (["seeds=[]"], r"crops=1 and seeds=\[\] leave nothing"),
        (["against=other"], "unknown against 'other'"),
        (["options.ensemble=2"], "options.ensemble=2: single views are compared"),
        (["options.denoise=2"], "vectors are what is compared: leave denoise"),
        (["output=found.md"], "output=found.md must be a file name that ends in .json"),
    ],
)
def test_what_it_refuses(words: list[str], message: str, photos: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    cfg = composed(photos, tmp_path / "found.json", f"model={tiny_model_folder}", *words)
    with pytest.raises(ValueError, match=message):
        degradation(cfg)


def test_a_corrupt_photograph_is_named(photos: Path, tmp_path: Path) -> None:
    files = list_photos(photos)
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"broken\.png: corrupt \(.+\); leave it out"):
        Scenes([*files, broken], 64, 1, [0])

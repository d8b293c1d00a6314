"""What a run tells its model of the degradation: context and the null vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.batch import Crops
from deedsr.degradation import Mixture, Recipe, apply
from deedsr.degradation.operations import quantize, unsharp
from deedsr.geometry import upsample
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.model import DeeDSR
from deedsr.models.system import ADAPTER
from deedsr.restorer import Restorer
from stage2.cache.writing import make_cache
from stage2.from_config import batches, restoration_run, train
from stage2.module import RestorationRun
from stage2.objective import Objective
from stage2.vector import Vector

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]
TILE = 16


@pytest.fixture(scope="session")
def tiled_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder that says what patches it was trained on, and reads the finest pixels."""
    torch.manual_seed(2)
    encoder = DegradationEncoder((1, 1, 1, 1), (4, 4, 8, 8), 4, tile=TILE, vector=16)
    return weights.save(
        tmp_path_factory.mktemp("tiled") / "encoder.safetensors", encoder.state_dict(), encoder.config()
    )


@pytest.mark.parametrize(
    ("context", "crop", "tile", "side"),
    [(0, 64, None, 64), (1, 64, 16, 64), (1, 32, 16, 64), (3, 64, 16, 128), (4, 64, 16, 128), (5, 64, 16, 192)],
)
def test_what_is_degraded_holds_so_many_patches(context: int, crop: int, tile: int | None, side: int) -> None:
    assert Vector(context).side(crop, tile) == side


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"context": -1}, "vector.context is -1; it must be a number of patches"),
        ({"dropout": 1.0}, "vector.dropout is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_wrong_numbers_are_named(words: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vector(**words)


def test_an_encoder_that_does_not_say_its_patches_is_named() -> None:
    with pytest.raises(ValueError, match=r"vector.context=4 counts patches .*encoder\.overrides\.tile=64"):
        Vector(4).side(64, None)


def a_run(model: DeeDSR, crop: int, **vector: float) -> RestorationRun:
    return RestorationRun(model, Recipe.named("light"), Objective(), DictConfig({}), 1, 0.9, 0, crop, Vector(**vector))


def two_photographs(side: int) -> torch.Tensor:
    """One dark and one bright, each with a gradient that tells every place: uint8 (2, 3, side, side)."""
    ramp = torch.arange(side, dtype=torch.float32) / side * 100
    picture = torch.stack([ramp[:, None].expand(side, side), ramp.expand(side, side), torch.zeros(side, side)])
    return torch.stack([picture, picture + 150]).byte()


def test_context_comes_from_the_same_photograph_and_holds_what_the_network_sees(tiny_model: DeeDSR) -> None:
    hr = two_photographs(128)
    made = a_run(tiny_model, 64, context=1).samples(Crops(hr), torch.Generator().manual_seed(3))
    assert made.lr.shape == (2, 3, 32, 32)
    assert made.hr.shape == (2, 3, 64, 64)
    assert made.z.shape[-1] == made.z_lr.shape[-1] == 64 // tiny_model.factor
    assert made.lr[0].float().mean() < 120 < made.lr[1].float().mean()
    for row in range(2):
        top, left = (int(made.hr[row, channel].float().min()) - 150 * row for channel in (0, 1))
        top, left = (round(value / 100 * 128 / 4) * 4 for value in (top, left))
        assert torch.equal(made.hr[row], hr[row, :, top : top + 64, left : left + 64])
        expected = tiny_model.encode(made.hr[row : row + 1].float() / 255)
        assert torch.allclose(made.z[row : row + 1], expected, atol=1e-4)


def test_without_context_nothing_is_drawn_for_a_place(tiny_model: DeeDSR) -> None:
    hr = two_photographs(64)
    first, second = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    made = a_run(tiny_model, 64).samples(Crops(hr), first)
    lr = apply(hr.float() / 255, Recipe.named("light").sample(second, 2))
    assert torch.equal(made.lr, (255 * lr).round().byte())
    assert torch.equal(made.z_lr, tiny_model.encode(upsample(lr)))
    assert torch.equal(first.get_state(), second.get_state())


def test_the_ground_truth_is_sharpened_before_it_is_degraded(tiny_model: DeeDSR) -> None:
    hr = (two_photographs(64) // 64) * 60  # steps
    run = RestorationRun(
        tiny_model, Recipe.named("light"), Objective(), DictConfig({}), 1, 0.9, 0, 64, Vector(), usm=0.5
    )
    made = run.samples(Crops(hr), torch.Generator().manual_seed(3))
    sharp = unsharp(hr.float() / 255, 0.5)
    assert torch.equal(made.hr, (255 * sharp).round().byte()) and not torch.equal(made.hr, hr)
    lr = apply(sharp, Recipe.named("light").sample(torch.Generator().manual_seed(3), 2))
    assert torch.equal(made.lr, (255 * lr).round().byte())
    assert torch.equal(made.z, tiny_model.encode(sharp))


def test_a_recipe_that_rounds_nothing_reaches_the_encoder_so(tiny_model: DeeDSR) -> None:
    hr, recipe = two_photographs(64), replace(Recipe.named("light"), chroma="nearest")
    run = RestorationRun(tiny_model, recipe, Objective(), DictConfig({}), 1, 0.9, 0, 64, Vector())
    made = run.samples(Crops(hr), torch.Generator().manual_seed(3))
    lr = apply(hr.float() / 255, recipe.sample(torch.Generator().manual_seed(3), 2))
    assert torch.equal(made.lr, lr) and torch.equal(made.z_lr, tiny_model.encode(upsample(lr)))
    assert not torch.equal(lr, quantize(lr))
    assert not Mixture((Recipe.named("light"), recipe)).eight_bits


def test_a_cache_of_what_is_not_rounded_is_not_either(
    composed: Composed, stage2_options: Options, tmp_path: Path, assert_same_runs: Callable
) -> None:
    words = ["recipe={name: light, chroma: nearest}", "usm=0.5", "optimizer.schedule=constant", "pictures=null"]
    cache = tmp_path / "cache"
    make_cache(composed("cache", stage2_options(tmp_path / "c", *words, f"cache={cache}", "batches=1", "shard=1")))
    train(composed("stage2", stage2_options(tmp_path / "plain", *words, "steps=1")))
    cached = stage2_options(tmp_path / "cached", *words, "steps=1", f"cache={cache}", "data.roots=[]")
    train(composed("stage2", cached))
    assert_same_runs(tmp_path / "plain", tmp_path / "cached")
    with pytest.raises(ValueError, match=r"was made with usm=0\.5, not None"):
        batches(composed("stage2", [word for word in cached if word != "usm=0.5"]))


def test_patches_have_one_size_in_training_and_in_use(
    composed: Composed, stage2_options: Options, tiled_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    pooled = DegradationEncoder._pooled

    def recorded(self: DegradationEncoder, lr: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(lr.shape[-2:]))
        return pooled(self, lr)

    monkeypatch.setattr(DegradationEncoder, "_pooled", recorded)
    words = [f"model.encoder={tiled_encoder}", "vector.context=4", "crop=64", "steps=1", "pictures=null"]
    folder = train(composed("stage2", stage2_options(tmp_path, *words)))
    assert seen == [(TILE, TILE)] * 4
    seen.clear()
    Restorer.from_pretrained(str(folder)).restore(torch.rand(1, 3, 40, 32))
    assert set(seen) == {(TILE, TILE)} and len(seen) == 6


def test_context_needs_a_larger_crop_and_the_cache_holds_it(
    composed: Composed, stage2_options: Options, tiled_encoder: Path, tmp_path: Path, assert_same_runs: Callable
) -> None:
    words = [f"model.encoder={tiled_encoder}", "vector.context=4", "optimizer.schedule=constant"]
    cfg = composed("stage2", stage2_options(tmp_path / "plain", *words, "steps=2"))
    assert batches(cfg).crop == 128
    cache = tmp_path / "cache"
    make_cache(composed("cache", stage2_options(tmp_path / "c", *words, f"cache={cache}", "batches=2", "shard=1")))
    train(cfg)
    train(composed("stage2", stage2_options(tmp_path / "cached", *words, "steps=2", f"cache={cache}", "data.roots=[]")))
    assert_same_runs(tmp_path / "plain", tmp_path / "cached")
    other = stage2_options(tmp_path / "other", f"model.encoder={tiled_encoder}", f"cache={cache}", "vector.context=9")
    with pytest.raises(ValueError, match="was made with context=4, not 9"):
        batches(composed("stage2", other))


def test_the_null_vector_is_trained_and_used(
    composed: Composed, stage2_options: Options, tiled_encoder: Path, tmp_path: Path
) -> None:
    words = [f"model.encoder={tiled_encoder}", "vector.dropout=0.9", "optimizer.schedule=constant"]
    run = restoration_run(composed("stage2", stage2_options(tmp_path, *words, "steps=3")))
    middle = weights.load(tiled_encoder).tensors["summary.linear.bias"]
    assert torch.equal(run.model.null(1)[0], middle)
    folder = train(composed("stage2", stage2_options(tmp_path / "null", *words, "steps=3")))
    assert not torch.equal(weights.load(folder / ADAPTER).tensors["adapter.null"], middle)
    further = composed("stage2", stage2_options(tmp_path / "next", *words[:1], f"init={folder}", "steps=2"))
    again = restoration_run(further)
    assert again.model.adapter.config.null  # a model that has one keeps it
    assert run.model.adapter.null.requires_grad
    assert not again.model.adapter.null.requires_grad, "DDP would take it for a fault that it gets no gradient"
    kept, before = (weights.load(place / ADAPTER).tensors for place in (train(further), folder))
    assert torch.equal(kept.pop("adapter.null"), before["adapter.null"])
    assert not all(torch.equal(tensor, before[name]) for name, tensor in kept.items())
    more = stage2_options(tmp_path / "sd3", "vector.dropout=0.5", "model.system=dit4sr")
    with pytest.raises(
        ValueError, match=r"vector\.dropout is for models that take a degradation vector, not for dit4sr"
    ):
        restoration_run(composed("stage2", more))


def test_dropout_gives_the_null_vector_to_its_share(
    composed: Composed, stage2_options: Options, tiled_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"model.encoder={tiled_encoder}", "vector.dropout=0.5"]
    run = restoration_run(composed("stage2", stage2_options(tmp_path, *words)))
    run.model.adapter.null.data.fill_(7.0)
    monkeypatch.setattr(run, "generator", lambda stream: torch.Generator().manual_seed(stream))
    lr = torch.rand(400, 3, 8, 8)
    told, own = run.told(lr), run.model.vector(lr)
    null = (told == 7).all(1)
    assert 150 < int(null.sum()) < 250
    assert torch.equal(told[~null], own[~null])

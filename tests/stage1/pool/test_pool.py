"""Pairs made once, and training from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from deedsr import weights
from deedsr.degradation import Degradation, apply
from stage1.from_config import train
from stage1.pool.pairs import PoolRows, turned
from stage1.pool.writing import make_pool

Compose = Callable[..., DictConfig]


@pytest.fixture
def pool(tiny: Compose, tmp_path: Path) -> Path:
    return make_pool(tiny(tmp_path, *_words(tmp_path), config="pool"))


def _words(tmp_path: Path) -> list[str]:
    return [f"pool={tmp_path / 'pairs'}", "pairs=64", "shard=32", "crop=64"]


def test_shards_hold_what_was_done(pool: Path) -> None:
    files = sorted(pool.glob("*.safetensors"))
    assert [file.name for file in files] == ["pairs-000000.safetensors", "pairs-000001.safetensors"]
    stored = load_file(files[1])
    state = {name.removeprefix("degradation."): value for name, value in stored.items() if "." in name}
    assert len(Degradation.from_state(state)) == 32
    assert stored["first"].shape == stored["second"].shape == (32, 3, 16, 16)
    flat = torch.full((32, 3, 64, 64), 0.5)
    clean = Degradation.from_state(state).clean
    assert apply(flat, Degradation.from_state(state)).shape == (32, 3, 16, 16) and clean.dtype == torch.bool


def test_a_missing_shard_is_made_again_as_it_was(tiny: Compose, tmp_path: Path, pool: Path) -> None:
    file = pool / "pairs-000001.safetensors"
    before = file.read_bytes()
    untouched = (pool / "pairs-000000.safetensors").stat().st_mtime_ns
    file.unlink()
    make_pool(tiny(tmp_path, *_words(tmp_path), config="pool"))
    assert file.read_bytes() == before
    assert (pool / "pairs-000000.safetensors").stat().st_mtime_ns == untouched


@pytest.mark.parametrize("word", ["seed=5", "shard=64", "recipe=heavy"])
def test_shards_made_with_other_words_are_refused(tiny: Compose, tmp_path: Path, pool: Path, word: str) -> None:
    with pytest.raises(ValueError, match=rf"pairs-000000\.safetensors: was made with {word.split('=')[0]}="):
        make_pool(tiny(tmp_path, *_words(tmp_path), word, config="pool"))


@pytest.mark.parametrize("positives", ["same_image", "same_degradation"])
def test_rows_are_quadrants_of_what_was_made(pool: Path, positives: str) -> None:
    files = sorted(pool.glob("*.safetensors"))
    stored = [load_file(file) for file in files]
    first, second = (torch.cat([shard[name] for shard in stored]) for name in ("first", "second"))
    quality = torch.cat([shard["degradation.quality"] for shard in stored])
    sample = PoolRows(files, positives, 4, seed=3, rank=0, start=0).sample(7, 2)
    found = {}
    for name, pictures in (("query", first), ("key", second if positives == "same_degradation" else first)):
        views = [turned(pictures[row, :, y : y + 8, x : x + 8], 0) for row in range(64) for y in (0, 8) for x in (0, 8)]
        places = [
            at
            for at, view in enumerate(views)
            for turn in range(8)
            if torch.equal(turned(view, turn), getattr(sample, name))
        ]
        assert len(places) == 1
        found[name] = divmod(places[0], 4)
    assert found["query"][0] == found["key"][0] and found["query"][1] != found["key"][1]
    assert torch.equal(sample.degradation.quality, quality[found["query"][0]])


def test_the_eight_positions_of_a_square_differ() -> None:
    patch = torch.arange(48.0).view(3, 4, 4)
    assert len({tuple(turned(patch, number).flatten().tolist()) for number in range(8)}) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_a_pool_resumes_to_the_bit(tiny: Compose, tmp_path: Path, pool: Path, workers: int) -> None:
    common = [f"pool={pool}", f"data.workers={workers}"]
    train(tiny(tmp_path / "whole", "steps=6", *common))
    train(tiny(tmp_path / "parts", "steps=3", *common))
    train(tiny(tmp_path / "parts", "steps=6", *common))
    whole, parts = (weights.load_checkpoint(tmp_path / name / "last.ckpt")["state_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_what_is_not_rounded_is_kept_so(tiny: Compose, tmp_path: Path) -> None:
    words = [f"pool={tmp_path / 'pairs'}", "pairs=16", "shard=16", "crop=64", "recipe={name: light, chroma: nearest}"]
    (file,) = make_pool(tiny(tmp_path, *words, config="pool")).glob("*.safetensors")
    stored = load_file(file)
    assert stored["first"].dtype == torch.float32 and stored["first"].max() <= 1
    assert not torch.equal(stored["first"], (255 * stored["first"]).round() / 255)
    patches = PoolRows([file], "same_image", 4, seed=3).sample(0, 1)
    assert patches.query.dtype == torch.float32 and patches.degradation.nearest


def test_another_recipe_is_refused(tiny: Compose, tmp_path: Path, pool: Path) -> None:
    with pytest.raises(ValueError, match="was made with recipe=varied, not light"):
        train(tiny(tmp_path, f"pool={pool}", "recipe=light"))


def test_pairs_that_do_not_fill_shards_are_refused(tiny: Compose, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pairs=40 must be a multiple of shard=32"):
        make_pool(tiny(tmp_path, f"pool={tmp_path}", "pairs=40", "shard=32", config="pool"))


def test_neighbours_share_a_picture_and_not_the_degradation(pool: Path) -> None:
    files = sorted(pool.glob("*.safetensors"))
    stored = [load_file(file) for file in files]
    seeds = torch.cat([part["degradation.seed"] for part in stored]).tolist()
    rows = PoolRows(files, "same_degradation", 8, seed=3)
    for number in range(0, 8, 2):
        first, second = (seeds.index(int(rows.sample(5, at).degradation.seed)) for at in (number, number + 1))
        assert first % 2 == 0 and second == first + 1


def test_a_pool_of_before_there_was_a_choice_of_chroma_is_read(pool: Path) -> None:
    files = sorted(pool.glob("*.safetensors"))
    new = PoolRows(files, "same_image", 4, seed=3).sample(0, 1)
    for file in files:
        stored = weights.load(file)
        weights.save(file, {k: v for k, v in stored.tensors.items() if k != "degradation.nearest"}, stored.config)
    old = PoolRows(files, "same_image", 4, seed=3).sample(0, 1)
    assert torch.equal(old.query, new.query)
    assert not old.degradation.nearest
    assert all(torch.equal(value, new.degradation.state()[name]) for name, value in old.degradation.state().items())

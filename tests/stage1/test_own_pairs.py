"""Stage 1 on pairs: a real degradation without parameters, which the contrast alone learns from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.batch import Crops
from deedsr.degradation import Recipe
from stage1.from_config import degradation_learner, photographs, train
from stage1.parameters import Reading
from stage1.pool.writing import make_pool
from stage1.views import degrade

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def words(make_pairs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [f"data.pairs=[{make_pairs(tmp_path_factory.mktemp('pairs'), 3)}]", "data.pair_share=0.5"]


def test_reading_passes_over_rows_of_pairs() -> None:
    recipe = Recipe.named("heavy")
    reading, vectors = Reading(8, recipe), torch.randn(6, 8)
    degradation = recipe.sample(torch.Generator().manual_seed(1), 6)
    paired = torch.tensor([True, False, True, False, False, True])
    assert torch.allclose(reading(vectors, degradation, paired), reading(vectors[~paired], degradation[~paired]))
    none = reading(vectors.requires_grad_(), degradation, torch.ones(6, dtype=torch.bool))
    none.backward()
    assert none == 0 and all(not parameter.grad.any() for parameter in reading.map.parameters())


@pytest.mark.parametrize("positives", ["same_image", "same_degradation"])
def test_pictures_of_pairs_are_their_own(tiny: Compose, tmp_path: Path, words: list[str], positives: str) -> None:
    cfg = tiny(tmp_path, *words, f"positives={positives}")
    stream = photographs(cfg).stream(0, 1, 0)
    batch = Crops.stack([stream.sample(0, number) for number in range(4)])
    hr = batch.hr / 255
    learner = degradation_learner(cfg)
    made = degrade(hr, learner.recipe, positives, 0, 0, 0, given=batch)
    plain = degrade(hr, learner.recipe, positives, 0, 0, 0)
    rest = ~batch.paired
    assert int(rest.sum()) == 2
    second = batch.lr if positives == "same_image" else batch.other
    for ours, theirs, own in ((made.first, plain.first, batch.lr), (made.second, plain.second, second)):
        assert torch.equal(ours[rest], theirs[rest])
        assert torch.equal(ours[batch.paired], own[batch.paired] / 255)


def test_one_degradation_alone_teaches_nothing(tiny: Compose, tmp_path: Path, words: list[str]) -> None:
    """Each key would be a negative that has the query's own degradation."""
    for more in (["data.roots=[]"], ["data.pair_share=1"]):
        with pytest.raises(ValueError, match="a folder of pairs counts as one degradation, and one can't be told from"):
            photographs(tiny(tmp_path, *words, *more))
    folder = words[0].removeprefix("data.pairs=[").removesuffix("]")
    photographs(tiny(tmp_path, f"data.pairs=[{folder},{folder}]", "data.roots=[]"))


def test_runs_resume_to_the_bit(
    tiny: Compose, pack_pairs: Callable[[Path, Path], Path], tmp_path: Path, words: list[str]
) -> None:
    """What was packed into shards meanwhile is the same."""
    train(tiny(tmp_path / "whole", *words, "steps=2"))
    train(tiny(tmp_path / "parts", *words, "steps=1"))
    folder = Path(words[0].removeprefix("data.pairs=[").removesuffix("]"))
    packed = [f"data.pairs=[{pack_pairs(folder, tmp_path / 'packed')}]", *words[1:]]
    train(tiny(tmp_path / "parts", *packed, "steps=2", "data.workers=2"))
    whole, parts = (weights.load_checkpoint(tmp_path / name / "last.ckpt")["state_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_a_pool_says_which_rows_are_of_pairs(tiny: Compose, tmp_path: Path, words: list[str]) -> None:
    pool = [f"pool={tmp_path / 'pool'}", "crop=64"]
    folder = make_pool(tiny(tmp_path, *words, *pool, "pairs=16", "shard=16", config="pool"))
    assert int(weights.load(folder / "pairs-000000.safetensors").tensors["paired"].sum()) == 8
    train(tiny(tmp_path / "run", pool[0], "steps=2"))
    with pytest.raises(ValueError, match=r"was made with pair_share=0\.5, not 0\.25"):
        make_pool(tiny(tmp_path, words[0], "data.pair_share=0.25", *pool, "pairs=16", "shard=16", config="pool"))

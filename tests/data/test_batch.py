"""Batches as dataclasses: stacked, moved, and named."""

from __future__ import annotations

import torch

from deedsr.data.batch import Crops
from deedsr.degradation import Recipe
from deedsr.randomness import seeded
from stage1.views import Patches


def patches(batch: int) -> Patches:
    picture = torch.arange(batch * 12, dtype=torch.uint8).view(batch, 3, 2, 2)
    return Patches(picture, picture + 1, Recipe.named("heavy").sample(seeded(0), batch))


def test_samples_are_stacked_field_by_field() -> None:
    whole = patches(3)
    rows = [Patches(whole.query[row], whole.key[row], whole.degradation[row]) for row in range(3)]
    stacked = Patches.stack(rows)
    assert torch.equal(stacked.query, whole.query) and torch.equal(stacked.key, whole.key)
    assert torch.equal(stacked.degradation.quality[:, 0], whole.degradation.quality)
    assert Crops.stack([Crops(whole.query[0]), Crops(whole.query[1])]).tokens is None


def test_tensors_are_named_by_their_place_and_what_is_not_there_is_left_out() -> None:
    batch = patches(2)
    names = {f"degradation.{name}" for name in batch.degradation.state()}
    assert batch.tensors().keys() == {"query", "key", *names}
    assert batch.tensors()["degradation.seed"] is batch.degradation.seed
    assert Crops(batch.query).tensors().keys() == {"hr"}


def test_all_parts_are_moved_but_what_decides() -> None:
    moved = patches(2).to("meta")
    there = {name for name, tensor in moved.tensors().items() if tensor.is_meta}
    assert there == {"query", "key"}
    assert len(moved.tensors()) == len(patches(2).tensors())

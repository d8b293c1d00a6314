"""The pictures that are degraded for a step, and the pairs of patches cut from them."""

import pytest
import torch

from deedsr.data.photos import seeded
from deedsr.degradation import Recipe, apply
from stage1.views import Cut, degrade

MIXED = Recipe.level("mixed")


def crops(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("positives", ["same_image", "same_degradation"])
def test_a_sample_does_not_depend_on_the_batch(positives: str) -> None:
    hr = crops(5)
    large, small = degrade(hr, MIXED, positives, 1, 2, 0), degrade(hr[:3], MIXED, positives, 1, 2, 0)
    assert torch.equal(large[0][:3], small[0])
    assert torch.equal(large[1][:2], small[1][:2])  # the last one's partner is the first of the batch
    cuts = Cut.draw(5, [8, 4], 1, 2, 0), Cut.draw(3, [8, 4], 1, 2, 0)
    assert torch.equal(cuts[0].quadrants[:3], cuts[1].quadrants)
    assert torch.equal(cuts[0].places[:3], cuts[1].places)
    assert cuts[0].sides == cuts[1].sides


@pytest.mark.parametrize("other", [(9, 2, 0), (1, 9, 0), (1, 2, 9)])
def test_draws_differ_by_seed_step_and_rank(other: tuple[int, int, int]) -> None:
    hr = crops(2)
    assert not torch.equal(degrade(hr, MIXED, "same_image", 1, 2, 0)[0], degrade(hr, MIXED, "same_image", *other)[0])
    assert not torch.equal(Cut.draw(9, None, 1, 2, 0).quadrants, Cut.draw(9, None, *other).quadrants)


def test_same_image_gives_one_picture_twice() -> None:
    first, second = degrade(crops(2), MIXED, "same_image", 0, 0, 0)
    assert first is second


def test_same_degradation_takes_the_next_picture_with_noise_of_its_own() -> None:
    hr = crops(3)
    hr[1] = hr[0]
    noisy = Recipe.level("heavy")
    first, second = degrade(hr, noisy, "same_degradation", 4, 0, 0)
    drawn = noisy.sample(seeded(4, 0, 0, 0, 1), 3)
    assert torch.equal(first, apply(hr, drawn))
    assert not torch.equal(first[0], second[0]), "the same picture under the same parameters, but the same noise too"
    assert second.shape == (3, 3, 16, 16)


def test_quadrants_are_drawn_per_sample_and_never_the_same() -> None:
    pairs = {tuple(pair) for pair in Cut.draw(400, None, 0, 0, 0).quadrants.tolist()}
    assert pairs == {(a, b) for a in range(4) for b in range(4) if a != b}


def test_whole_quadrants_are_cut_at_the_corners() -> None:
    lr = torch.arange(16.0).view(1, 1, 4, 4).expand(4, 3, 4, 4)
    cut = Cut(torch.arange(4)[:, None].expand(4, 2), torch.rand(4, 2, 2), None)
    assert cut.patches(lr, 0)[:, 0, 0, 0].tolist() == [0, 2, 8, 10]
    assert cut.patches(lr, 0).shape == (4, 3, 2, 2)


def test_smaller_patches_stay_in_their_quadrant() -> None:
    lr = torch.zeros(300, 3, 64, 64)
    lr[:, 0, :32, 32:] = 1  # quadrant 1
    cut = Cut(torch.ones(300, 2, dtype=torch.long), Cut.draw(300, None, 0, 0, 0).places, (16, 24))
    query, key = cut.patches(lr, 0), cut.patches(lr, 1)
    assert query.shape == (300, 3, 16, 16)
    assert key.shape == (300, 3, 24, 24)
    assert query[:, 0].min() == 1
    assert key[:, 0].min() == 1


def test_wrong_choices_are_named() -> None:
    with pytest.raises(ValueError, match="same_image or same_degradation, got 'other'"):
        degrade(crops(2), MIXED, "other", 0, 0, 0)
    with pytest.raises(ValueError, match="at least 2 photographs"):
        degrade(crops(1), MIXED, "same_degradation", 0, 0, 0)
    with pytest.raises(ValueError, match="sides=40 is more than the quadrant of 32"):
        Cut.draw(2, [40], 0, 0, 0).patches(torch.rand(2, 3, 64, 64), 0)

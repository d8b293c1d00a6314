"""The pairs of degraded patches that a step compares, and the parameters read beside."""

import math

import pytest
import torch

from deedsr.degradation import Recipe, apply
from deedsr.randomness import seeded
from stage1.parameters import Reading, drawn
from stage1.views import cut, degrade, quadrants

MIXED = Recipe.named("mixed")


def crops(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("positives", ["same_image", "same_degradation"])
def test_a_sample_does_not_depend_on_the_batch(positives: str) -> None:
    hr = crops(5)
    large, small = degrade(hr, MIXED, positives, 1, 2, 0), degrade(hr[:3], MIXED, positives, 1, 2, 0)
    assert torch.equal(large.first[:3], small.first)
    assert torch.equal(large.second[:2], small.second[:2])  # the last one's partner is the first of the batch
    assert torch.equal(quadrants(5, seeded(1, 2))[:3], quadrants(3, seeded(1, 2)))


@pytest.mark.parametrize("other", [(9, 2, 0), (1, 9, 0), (1, 2, 9)])
def test_draws_differ_by_seed_step_and_rank(other: tuple[int, int, int]) -> None:
    hr = crops(2)
    ours, others = degrade(hr, MIXED, "same_image", 1, 2, 0), degrade(hr, MIXED, "same_image", *other)
    assert not torch.equal(ours.first, others.first)


def test_same_image_gives_one_picture_twice() -> None:
    pairs = degrade(crops(2), MIXED, "same_image", 0, 0, 0)
    assert pairs.first is pairs.second


def test_same_degradation_takes_the_next_picture_with_noise_of_its_own() -> None:
    hr = crops(3)
    hr[1] = hr[0]
    noisy = Recipe.named("heavy")
    pairs = degrade(hr, noisy, "same_degradation", 4, 0, 0)
    drawn_again = noisy.sample(seeded(4, 0, 0, 0, 1), 3)
    assert torch.equal(pairs.first, apply(hr, drawn_again))
    assert torch.equal(pairs.degradation.quality, drawn_again.quality)
    assert not torch.equal(pairs.first[0], pairs.second[0]), "the same picture, parameters and noise"
    assert pairs.second.shape == (3, 3, 16, 16)


def test_quadrants_are_drawn_per_sample_and_never_the_same() -> None:
    pairs = {tuple(pair) for pair in quadrants(400, torch.Generator().manual_seed(0)).tolist()}
    assert pairs == {(a, b) for a in range(4) for b in range(4) if a != b}


def test_quadrants_are_cut_at_the_corners() -> None:
    lr = torch.arange(16.0).view(1, 1, 4, 4).expand(4, 3, 4, 4)
    assert cut(lr, torch.arange(4))[:, 0, 0, 0].tolist() == [0, 2, 8, 10]
    assert cut(lr, torch.arange(4)).shape == (4, 3, 2, 2)


def test_wrong_choices_are_named() -> None:
    with pytest.raises(ValueError, match="same_image or same_degradation, got 'other'"):
        degrade(crops(2), MIXED, "other", 0, 0, 0)
    with pytest.raises(ValueError, match="at least 2 photographs"):
        degrade(crops(1), MIXED, "same_degradation", 0, 0, 0)


def test_what_was_left_out_reads_as_nothing_done() -> None:
    degradation = Recipe.named("varied").sample(torch.Generator().manual_seed(0), 500)
    values = drawn(degradation)
    blur, noise, quality, resize = values[:, 0], values[:, 2], values[:, 6], values[:, 8]
    assert (blur[degradation.kernel_size[:, 0] == 0] == 0).all()
    assert (noise[degradation.noise_sigma[:, 0] == 0] == 0).all()
    assert (quality[degradation.quality[:, 0] == 0] == 100).all()
    assert (resize[degradation.clean] == 0).all() and (resize.exp() < 1.51).all()
    isotropic = (degradation.kernel_kind[:, 0] == 0) & (degradation.kernel_size[:, 0] > 0)
    assert torch.allclose(blur[isotropic], degradation.sigma_x[isotropic, 0])
    sinc = (degradation.kernel_size[:, 0] > 0) & (degradation.sigma_x[:, 0] == 0)
    assert sinc.any() and blur[sinc].isnan().all()


def test_a_reading_that_knows_nothing_has_error_one_and_one_that_knows_all_has_none() -> None:
    recipe = Recipe.named("varied")
    degradation = recipe.sample(torch.Generator().manual_seed(1), 2000)
    reading = Reading(10, recipe)
    with torch.no_grad():
        reading.map.weight.zero_(), reading.map.bias.zero_()
        nothing = reading(torch.zeros(2000, 10), degradation)
        assert math.isclose(nothing.item(), 1, abs_tol=0.1)
        reading.map.weight.copy_(torch.diag(1 / reading.spread))
        reading.map.bias.copy_(-reading.mean / reading.spread)
        assert reading(drawn(degradation).nan_to_num(), degradation) < 1e-8

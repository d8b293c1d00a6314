"""What is drawn for a step, and the pairs made of it."""

import pytest
import torch

from deedsr.degradation import Recipe, apply
from stage1.views import draw, quadrant, views

MIXED = Recipe.level("mixed")


def crops(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_draws_of_a_sample_do_not_depend_on_the_batch() -> None:
    large, small = draw(MIXED, 8, 1, 2, 0), draw(MIXED, 3, 1, 2, 0)
    for name, tensor in small.query.state().items():
        assert torch.equal(large.query.state()[name][:3], tensor), name
    assert torch.equal(large.key.seed[:3], small.key.seed)
    assert torch.equal(large.quadrants[:3], small.quadrants)


@pytest.mark.parametrize("other", [(9, 2, 0), (1, 9, 0), (1, 2, 9)])
def test_draws_differ_by_seed_step_and_rank(other: tuple[int, int, int]) -> None:
    assert not torch.equal(draw(MIXED, 4, 1, 2, 0).query.seed, draw(MIXED, 4, *other).query.seed)


def test_quadrants_are_drawn_per_sample_and_never_the_same() -> None:
    quadrants = draw(MIXED, 400, 0, 0, 0).quadrants
    pairs = {tuple(pair) for pair in quadrants.tolist()}
    assert pairs == {(a, b) for a in range(4) for b in range(4) if a != b}


def test_quadrant_cuts_the_right_corner() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4).expand(4, 3, 4, 4)
    corners = quadrant(image, torch.arange(4))[:, 0, 0, 0]
    assert corners.tolist() == [0, 2, 8, 10]


def test_same_image_cuts_one_degraded_picture() -> None:
    hr, drawn = crops(3), draw(MIXED, 3, 0, 0, 0)
    query, key = views(hr, drawn, "same_image")
    lr = apply(hr, drawn.query)
    assert torch.equal(query, quadrant(lr, drawn.quadrants[:, 0]))
    assert torch.equal(key, quadrant(lr, drawn.quadrants[:, 1]))
    assert query.shape == (3, 3, 8, 8)


def test_same_degradation_takes_the_next_picture_and_fresh_noise() -> None:
    hr, drawn = crops(3), draw(MIXED, 3, 0, 0, 0)
    query, key = views(hr, drawn, "same_degradation")
    assert torch.equal(query, apply(quadrant(hr, drawn.quadrants[:, 0]), drawn.query))
    assert torch.equal(key[2:], apply(quadrant(hr[:1], drawn.quadrants[2:, 1]), drawn.key[2]))
    same = drawn.query.state()
    assert all(torch.equal(same[name], tensor) for name, tensor in drawn.key.state().items() if name != "seed")
    assert not (drawn.query.seed == drawn.key.seed).any()


def test_wrong_choices_are_named() -> None:
    with pytest.raises(ValueError, match="same_image or same_degradation, got 'other'"):
        views(crops(2), draw(MIXED, 2, 0), "other")
    with pytest.raises(ValueError, match="at least 2 photographs"):
        views(crops(1), draw(MIXED, 1, 0), "same_degradation")

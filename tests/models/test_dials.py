"""What dials put back into a restored picture, and what more they do."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import deedsr.dials
from deedsr import weights
from deedsr.degradation import jpeg
from deedsr.degradation.statistics import BLOCK, blockiness
from deedsr.diagnosis import Diagnosis, Estimate
from deedsr.dials import turned
from deedsr.geometry import upsample
from deedsr.models import load_model
from deedsr.models.contract import RestorationModel
from deedsr.models.deedsr.model import DeeDSR
from deedsr.models.sd3.dit4sr import DiT4SR
from deedsr.models.system import ADAPTER
from deedsr.options import Dials, Options
from deedsr.pictures.picture import Picture
from deedsr.restorer import Restorer


def diagnosed(blur: float = 0.34, noise: float = 0.0, jpeg: float = 100.0) -> Diagnosis:
    return Diagnosis(*(Estimate(value, 0.1) for value in (blur, noise, jpeg)), level="medium", levels={})


@pytest.fixture
def picture() -> Tensor:
    """Soft edges in all directions, and calm between: (1, 3, 256, 192)."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 256), torch.linspace(-1, 1, 192), indexing="ij")
    rings = 0.5 + 0.3 * torch.tanh(
        8 * torch.sin(6 * (x.square() + y.square()) + torch.tensor([0.0, 1, 2]).view(3, 1, 1))
    )
    return functional.avg_pool2d(rings[None], 5, 1, 2, count_include_pad=False)


def small(image: Tensor) -> Tensor:
    return functional.avg_pool2d(image, 4)


def steepness(image: Tensor) -> float:
    return float(image.diff(dim=-1).abs().flatten().quantile(0.98))


def test_at_one_nothing_changes(picture: Tensor) -> None:
    assert turned(picture, Dials(), diagnosed(2, 20, 30), 0) is picture


def test_noise_is_put_back_as_strong_as_it_was_found(picture: Tensor) -> None:
    found = diagnosed(noise=10)
    whole, half = (turned(picture, Dials(denoise=dial), found, 5) - picture for dial in (0, 0.5))
    enlarged = upsample(0.5 + torch.randn(1, 1, 64, 48) * 10 / 255)
    assert float(whole.std()) == pytest.approx(float(enlarged.std()), rel=0.1)
    assert torch.allclose(half, whole / 2, atol=1e-6)
    assert torch.allclose(whole[:, 0], whole[:, 2], atol=1e-6), "grain has no colour"
    assert torch.equal(turned(picture, Dials(denoise=0), found, 5) - picture, whole)
    assert not torch.equal(turned(picture, Dials(denoise=0), found, 6) - picture, whole)


def test_blur_is_put_back_as_wide_as_it_was_found(picture: Tensor) -> None:
    widths = [steepness(turned(picture, Dials(deblur=0), diagnosed(blur), 0)) for blur in (0.34, 1, 2)]
    assert steepness(picture) >= widths[0] > 1.3 * widths[1] > 1.3 * widths[2]


def test_blur_is_left_out_where_noise_would_have_hidden_it(picture: Tensor) -> None:
    faint = 0.5 + (picture - 0.5) / 20
    soft, hidden = (turned(faint, Dials(deblur=0), diagnosed(2, noise), 0) - faint for noise in (0, 20))
    assert hidden.abs().max() < 0.05 * soft.abs().max()


def test_more_than_deblurred_is_steeper_and_the_same_when_made_small(picture: Tensor) -> None:
    sharper = turned(picture, Dials(deblur=2), diagnosed(1), 0)
    assert steepness(sharper) > 1.15 * steepness(picture)
    moved = (sharper - picture).abs().mean()
    assert (small(sharper) - small(picture)).abs().mean() < 0.25 * moved
    assert sharper.max() < picture.max() + 0.01 and sharper.min() > picture.min() - 0.01, "no halo"


def test_a_slanted_edge_gets_no_stairs() -> None:
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(96.0), indexing="ij")
    distance = ((x - 30) * 3 - (y - 20)) / 10**0.5  # an edge from the top left, three down for one to the right
    edge = torch.sigmoid(distance / 1.5).expand(1, 3, -1, -1)
    sharper = turned(edge, Dials(deblur=2), diagnosed(1), 0)
    assert steepness(sharper) > 1.15 * steepness(edge)
    middle = sharper[0, 0, 20:108]
    assert float(((middle > 0.25) & (middle < 0.75)).sum(1).double().mean()) > 2, "grey pixels along it"
    columns = 96 - middle.sum(1)
    straight = columns[:1] + torch.arange(88) / 3
    assert float((columns - straight).std()) < 0.02


def blocks(image: Tensor) -> float:
    return float(blockiness(small(image).mean(1, keepdim=True) * 255, BLOCK))


def test_blocks_are_put_back_by_the_quality_that_was_found(picture: Tensor) -> None:
    coarse, fine = (turned(picture, Dials(dejpeg=0), diagnosed(jpeg=quality), 0) for quality in (10, 60))
    assert blocks(coarse) > blocks(fine) > blocks(picture)
    assert torch.allclose(turned(picture, Dials(dejpeg=0), diagnosed(jpeg=100), 0), picture)


@pytest.mark.parametrize("quality", [15, 40])
def test_above_one_blocks_are_taken_out_and_edges_stay(picture: Tensor, quality: float) -> None:
    grey = picture.mean(1, keepdim=True).expand_as(picture)
    left = turned(grey, Dials(dejpeg=0.5), diagnosed(jpeg=quality), 0)  # half of JPEG's errors
    more, most = (turned(left, Dials(dejpeg=dial), diagnosed(jpeg=quality), 0) for dial in (1.5, 2))
    assert blocks(left) > blocks(more) > blocks(most)
    assert blocks(left) - blocks(most) > 0.25 * (blocks(left) - blocks(grey))
    assert steepness(most) > 0.9 * steepness(left)
    assert torch.allclose(turned(left, Dials(dejpeg=2), diagnosed(jpeg=100), 0), left, atol=1e-6)


def test_above_one_what_is_faint_is_smoothed_as_far_as_there_was_noise(picture: Tensor) -> None:
    grainy = picture + 0.01 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    smooth, same = (turned(grainy, Dials(denoise=2), found, 0) for found in (diagnosed(1, 25, 10), diagnosed()))
    assert (smooth - picture).abs().mean() < 0.8 * (grainy - picture).abs().mean()
    assert torch.allclose(same, grainy, atol=1e-6)


def test_a_large_picture_is_worked_on_in_parts_without_seams(picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    dials, found = Dials(0.5, 2, 0.3), diagnosed(1.5, 12, 40)
    whole = turned(picture, dials, found, 1)
    below = turned(picture, Dials(2, 0.2, 2), found, 1)
    monkeypatch.setattr(deedsr.dials, "PART", 20)
    assert torch.allclose(turned(picture, dials, found, 1), whole, atol=1e-5)
    assert torch.allclose(turned(picture, Dials(2, 0.2, 2), found, 1), below, atol=1e-5)


def test_the_smallest_pictures_can_be_blurred_widely() -> None:
    made = turned(torch.rand(1, 3, 32, 36), Dials(0, 0, 0), diagnosed(6, 30, 5), 0)
    assert made.shape == (1, 3, 32, 36) and made.isfinite().all() and made.min() >= 0 and made.max() <= 1


@pytest.mark.parametrize("kind", ["tiny_model", "tiny_dit4sr"])
def test_every_model_has_dials(kind: str, request: pytest.FixtureRequest) -> None:
    model: DeeDSR | DiT4SR = request.getfixturevalue(kind)
    generator = torch.Generator().manual_seed(0)
    noisy = upsample(torch.rand(1, 3, 16, 12, generator=generator)) + 0.1 * torch.randn(
        1, 3, 64, 48, generator=generator
    )
    lr = jpeg(noisy.clamp(0, 1), torch.tensor([20.0]))
    plain = restored(model, lr)
    assert torch.equal(restored(model, lr, denoise=1, deblur=1, dejpeg=1), plain)
    left, more = ([restored(model, lr, **{name: dial}) for name in ("denoise", "deblur", "dejpeg")] for dial in (0, 2))
    assert all(not torch.equal(one, other) for one in left for other in (plain, *left) if one is not other)
    assert all(not torch.equal(one, plain) for one in more)
    assert torch.equal(restored(model, lr, denoise=0), left[0])


def restored(model: RestorationModel, lr: Tensor, **options: float) -> Tensor:
    return Restorer(model, Options(steps=1, **options)).restore(lr)  # type: ignore[arg-type]


def test_a_picture_without_colour_gets_none_by_its_grain(tiny_model: DeeDSR) -> None:
    grey = Picture(torch.rand(1, 1, 24, 20, generator=torch.Generator().manual_seed(0)).expand(1, 3, 24, 20))
    rgb = Restorer(tiny_model, Options(steps=1, denoise=0))(grey).rgb
    assert torch.equal(rgb[:, 0], rgb[:, 1])


@pytest.mark.parametrize(("name", "value"), [("denoise", 2.5), ("dejpeg", -1)])
def test_what_is_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value:g}; choose 0 to 2"):
        Options(**{name: value})


def test_models_that_were_trained_with_dials_of_their_own_are_loaded_without(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder = copytree(tiny_model_folder, tmp_path / "old")
    stored = weights.load(folder / ADAPTER)
    header = {**stored.config, "adapter": {**stored.config["adapter"], "dials": True}}
    own = {"adapter.dials.weight": torch.zeros(16, 6), "modulations.0.dials.weight": torch.zeros(4, 6)}
    weights.save(folder / ADAPTER, {**stored.tensors, **own}, header)
    expected = load_model(str(tiny_model_folder)).state_dict()
    found = load_model(str(folder)).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)

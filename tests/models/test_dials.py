"""Restoring with dials, with the degradation of other pictures, and guided by it."""

from __future__ import annotations

import dataclasses
from inspect import signature
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deedsr.models.deedsr.model import LOUD, DeeDSR, random_model
from deedsr.models.deedsr.sizes import DeeDSRConfig
from deedsr.models.sd3.dit4sr import DiT4SR
from deedsr.options import Options
from deedsr.pictures.picture import Picture, read, write
from deedsr.restorer import Restorer


@pytest.fixture
def model(tiny_config: DeeDSRConfig) -> DeeDSR:
    """One whose dials do something."""
    torch.manual_seed(3)
    model = random_model(dataclasses.replace(tiny_config, adapter=dataclasses.replace(tiny_config.adapter, dials=True)))
    for name, parameter in model.trainable():
        if name.endswith(("dials.weight", "attn2.to_out.0.weight")):
            torch.nn.init.normal_(parameter, std=0.01)
    return model.eval()


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three pictures in a folder, of unlike damage and sizes."""
    generator = torch.Generator().manual_seed(1)
    for number, size in enumerate(((24, 20), (16, 40), (30, 30))):
        rgb = torch.rand(1, 3, *size, generator=generator) ** (1 + 2 * number)
        write(tmp_path / "like" / f"{number}.png", Picture(rgb))
    return sorted((tmp_path / "like").iterdir())


def restored(model: DeeDSR | DiT4SR, lr: Tensor, **options: object) -> Tensor:
    return Restorer(model, Options(steps=1, **options)).restore(lr)  # type: ignore[arg-type]


def test_neutral_dials_give_the_same_pixels_and_each_dial_others(model: DeeDSR, photos: list[Path]) -> None:
    lr = read(photos[0]).rgb
    plain = restored(model, lr)
    assert torch.equal(restored(model, lr, denoise=1, deblur=1, dejpeg=1), plain)
    turned = [restored(model, lr, **{name: 0.0}) for name in ("denoise", "deblur", "dejpeg")]
    assert all(not torch.equal(one, other) for one in turned for other in (plain, *turned) if one is not other)


def test_the_vector_stays_the_pictures_own_and_what_is_wished_for_follows_it(model: DeeDSR) -> None:
    vector, dials = torch.randn(2, 16), torch.tensor([[1.0, 0.0, 1.0], [1.5, 1.0, 1.0]])
    told = model.turned(vector, dials)
    assert torch.equal(told[:, :16], vector)
    assert torch.equal(told[:, 16:] / LOUD, torch.tensor([[0.0, 1, 0, 0, 0, 0], [0, 0, 0, 0.5, 0, 0]]))
    assert model.turned(vector.bfloat16(), dials).dtype == torch.bfloat16
    assert model.adapter.told(vector).dials is None
    assert not model.adapter.told(model.turned(vector, torch.ones(3))).dials.any()


def test_the_null_vector_leaves_the_dials_as_they_are(tiny_config: DeeDSRConfig) -> None:
    adapter = dataclasses.replace(tiny_config.adapter, dials=True, null=True)
    model = random_model(dataclasses.replace(tiny_config, adapter=adapter))
    told = model.turned(torch.randn(2, 16), torch.tensor([0.0, 1.0, 2.0]))
    nulled = model.nulled(told)
    assert torch.equal(nulled[:, :16], model.null(2)) and torch.equal(nulled[:, 16:], told[:, 16:])


def test_a_dial_acts_in_every_tile_and_view(model: DeeDSR, photos: list[Path]) -> None:
    lr = read(photos[0]).rgb
    seen = []
    condition = model.condition

    def watched(*given: object, **named: object) -> object:
        bound = signature(condition).bind(*given, **named).arguments
        seen.append((bound["lr"], bound["vector"]))
        return condition(*given, **named)  # type: ignore[arg-type]

    model.condition = watched  # type: ignore[method-assign]
    options = Options(steps=1, tile=48, ensemble=2, denoise=2)
    restorer = Restorer(model, options)
    restorer.restore(lr)
    assert len(seen) == 2
    for view, vector in seen:
        assert torch.equal(vector, model.turned(model.vector(view), options.dials.tensor()))
    assert torch.equal(seen[1][0], lr.flip(-1))


def test_the_vector_of_other_pictures_is_their_mean(model: DeeDSR, photos: list[Path]) -> None:
    own, lr = restored(model, read(photos[0]).rgb), read(photos[0]).rgb
    assert torch.equal(restored(model, lr, degradation_of=photos[0]), own)
    assert torch.equal(restored(model, lr, degradation_of=[str(photos[0])]), own)
    other = restored(model, lr, degradation_of=photos)
    assert not torch.equal(other, own)
    assert torch.equal(restored(model, lr, degradation_of=photos[0].parent), other)
    restorer = Restorer(model, Options(degradation_of=photos, dejpeg=0.5))
    mean = torch.stack([model.vector(read(photo).rgb) for photo in photos]).mean(0)
    expected = model.turned(mean, restorer.options.dials.tensor())
    assert torch.allclose(restorer.vector(lr), expected, atol=1e-6)


def test_pictures_that_cannot_be_read_are_named_before_any_work(model: DeeDSR, photos: list[Path]) -> None:
    folder = photos[0].parent
    with pytest.raises(ValueError, match=r"none\.png: no such file or folder"):
        Restorer(model, Options(degradation_of=folder / "none.png"))
    write(folder / "dot.png", Picture(torch.rand(1, 3, 2, 2)))
    with pytest.raises(ValueError, match=r"dot\.png: the picture is 2x2 pixels"):
        Restorer(model, Options(degradation_of=folder))
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no pictures in this folder"):
        Restorer(model, Options(degradation_of=[photos[0], folder / "empty"]))


def test_models_that_have_no_dials_say_so(
    tiny_model: DeeDSR, tiny_config: DeeDSRConfig, tiny_dit4sr: DiT4SR, photos: list[Path]
) -> None:
    with pytest.raises(ValueError, match=r"has no dials: leave them at 1, or give it some"):
        Restorer(tiny_model, Options(denoise=0))
    constant = dataclasses.replace(tiny_config.adapter, degradation="constant", null=True)
    unknowing = random_model(dataclasses.replace(tiny_config, adapter=constant))
    for model in (tiny_dit4sr, unknowing):
        for options in ({"dejpeg": 0}, {"degradation_of": photos}):
            with pytest.raises(ValueError, match="knows no degradation vector: leave denoise"):
                Restorer(model, Options(**options))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dials=true needs modulation=true, and degradation=own"):
        dataclasses.replace(constant, dials=True)


def test_guidance_by_the_degradation_is_an_option(model: DeeDSR, tiny_config: DeeDSRConfig, photos: list[Path]) -> None:
    with pytest.raises(ValueError, match="no null vector"):
        Restorer(model, Options(degradation_guidance=2))
    torch.manual_seed(0)
    guided = random_model(dataclasses.replace(tiny_config, adapter=dataclasses.replace(tiny_config.adapter, null=True)))
    for _, parameter in guided.trainable():
        torch.nn.init.normal_(parameter, std=0.05)
    lr = read(photos[0]).rgb
    plain = restored(guided, lr)
    assert torch.equal(restored(guided, lr, degradation_guidance=1), plain)
    assert not torch.equal(restored(guided, lr, degradation_guidance=2), plain)
    assert Restorer(guided, Options(degradation_guidance=3)).settings.degradation.scale == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoise": 2.5}, "denoise is 2.5; choose 0 to 2"),
        ({"dejpeg": -1}, "dejpeg is -1; choose 0 to 2"),
        ({"degradation_guidance": 0.5}, "degradation guidance is 0.5; choose a scale from 1 on"),
    ],
)
def test_what_is_out_of_range_is_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)  # type: ignore[arg-type]

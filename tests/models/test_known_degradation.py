"""Restoring with the degradation of other pictures, and guided by it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deedsr.models.deedsr.model import DeeDSR, random_model
from deedsr.models.deedsr.sizes import DeeDSRConfig
from deedsr.models.sd3.dit4sr import DiT4SR
from deedsr.options import Options
from deedsr.pictures.picture import Picture, read, write
from deedsr.restorer import Restorer


@pytest.fixture
def model(tiny_config: DeeDSRConfig) -> DeeDSR:
    """One to which the vector makes a difference."""
    torch.manual_seed(3)
    model = random_model(tiny_config)
    for name, parameter in model.trainable():
        if name.endswith("attn2.to_out.0.weight"):
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


def test_the_vector_of_other_pictures_is_their_mean(model: DeeDSR, photos: list[Path]) -> None:
    own, lr = restored(model, read(photos[0]).rgb), read(photos[0]).rgb
    assert torch.equal(restored(model, lr, degradation_of=photos[0]), own)
    assert torch.equal(restored(model, lr, degradation_of=[str(photos[0])]), own)
    other = restored(model, lr, degradation_of=photos)
    assert not torch.equal(other, own)
    assert torch.equal(restored(model, lr, degradation_of=photos[0].parent), other)
    mean = torch.stack([model.vector(read(photo).rgb) for photo in photos]).mean(0)
    assert torch.allclose(Restorer(model, Options(degradation_of=photos)).vector(lr), mean, atol=1e-6)


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


def test_models_that_know_no_degradation_say_so(
    tiny_config: DeeDSRConfig, tiny_dit4sr: DiT4SR, photos: list[Path]
) -> None:
    constant = dataclasses.replace(tiny_config.adapter, degradation="constant", null=True)
    unknowing = random_model(dataclasses.replace(tiny_config, adapter=constant))
    for model in (tiny_dit4sr, unknowing):
        with pytest.raises(ValueError, match="knows no degradation vector: leave degradation-of out"):
            Restorer(model, Options(degradation_of=photos))


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


def test_what_is_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"degradation guidance is 0\.5; choose a scale from 1 on"):
        Options(degradation_guidance=0.5)

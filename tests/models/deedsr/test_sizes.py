"""Numbers of a preset can be changed by name, and only by names there are."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from deedsr.models.deedsr.model import random_model
from deedsr.models.deedsr.sizes import model_size


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    small = model_size("small")
    config = model_size(
        "small",
        {
            "unet": {"block_out_channels": [32, 32, 32], "dropout": 0.5},
            "adapter": {"width": 32, "attention": [True, False, False]},
            "encoder": {"stem": 8},
            "scheduler": {"prediction_type": "epsilon"},
            "defaults": {"steps": 3, "start": 0.5},
            "sft_hidden": 16,
        },
    )
    assert config.unet == {**small.unet, "block_out_channels": [32, 32, 32], "dropout": 0.5}
    assert (config.adapter.width, config.adapter.attention) == (32, (True, False, False))
    assert config.adapter.multipliers == small.adapter.multipliers
    assert (config.vae, config.encoder) == (small.vae, {**small.encoder, "stem": 8})
    model = random_model(config)
    assert (model.defaults.steps, model.defaults.start, model.process.prediction) == (3, 0.5, "epsilon")
    assert model_size("small") == small, "the preset itself has changed"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"u_net": {}}, "nothing to override in 'u_net' here; there are: unet, vae"),
        ({"name": "other"}, "nothing to override in 'name'"),
        ({"unet": {"widths": [1]}}, "unet has no 'widths' to override; there are: _class_name, sample_size"),
        ({"vae": {"width": 1}}, "vae has no 'width'"),
        ({"scheduler": {"beta": 1}}, "scheduler has no 'beta'"),
        ({"adapter": {"widths": 1}}, "adapter has no 'widths' to override; there are: in_channels, width"),
        ({"encoder": {"depth": 1}}, "encoder has no 'depth'"),
        ({"defaults": {"step": 1}}, "defaults has no 'step'"),
        ({"unet": 3}, "unet is overridden by name"),
        ({"adapter": {"attention": [True]}}, "3 levels but 1 entries"),
    ],
)
def test_wrong_overrides_are_named(overrides: Mapping[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_size("small", overrides)


def test_a_run_allows_what_it_can_change() -> None:
    with pytest.raises(ValueError, match="nothing to override in 'unet' here; there are: adapter"):
        model_size("small", {"unet": {"dropout": 0.5}}, ("adapter",))

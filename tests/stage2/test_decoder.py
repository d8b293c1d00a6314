"""The decoder of the VAE, trained with the adapter and stored beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr.models import load_model
from stage2.from_config import restoration_run, train

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]
Resumed = Callable[..., Path]

DECODER = "+model.overrides.adapter.decoder=true"


def test_it_is_trained_resumed_to_the_bit_and_nothing_else_of_the_base_is(trained_and_resumed: Resumed) -> None:
    model = load_model(trained_and_resumed(DECODER) / "model")
    trained, state = {name for name, _ in model.trainable()}, model.state_dict()
    of_vae = {name for name in trained if name.startswith("vae.")}
    assert of_vae == {name for name in state if name.startswith(("vae.decoder.", "vae.post_quant_conv."))}


def test_it_starts_as_that_of_the_base(
    composed: Composed, stage2_options: Options, tmp_path: Path, tiny_model_folder: Path
) -> None:
    cfg = composed("stage2", stage2_options(tmp_path / "own", DECODER, f"init={tiny_model_folder}", "steps=1"))
    model, plain = restoration_run(cfg).model, load_model(tiny_model_folder)
    latent = torch.randn(1, model.channels, 4, 4)
    with torch.no_grad():
        assert torch.equal(model.decode(latent), plain.decode(latent))
    cfg = composed("stage2", stage2_options(tmp_path / "not", f"init={train(cfg)}"))
    with pytest.raises(ValueError, match=r"holds vae\.decoder\.\S+, which is not trained in stage 2; or say"):
        restoration_run(cfg)

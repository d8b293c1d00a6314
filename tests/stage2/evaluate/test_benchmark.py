"""The benchmark's rivals do the same work as the restorer, and its numbers are there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from deedsr.models.deedsr.sizes import DeeDSRConfig, model_size
from deedsr.options import Options
from deedsr.restorer import Restorer
from stage2.evaluate.rivals import naive, pipeline
from stage2.evaluate.timing import benchmark, difference, picture, to_text

CONF = Path(__file__).parents[3] / "conf" / "evaluate"


def configured(*overrides: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return benchmark(compose("benchmark", ["device=cpu", "size=64", "steps=3", "repeats=2", *overrides]))


@pytest.mark.parametrize("guidance", [None, (1.0, 1), (0.5, 2)])
@pytest.mark.parametrize(("sampler", "start"), [("ddim", 1.0), ("unipc", 1.0), ("ddim", 0.5), ("unipc", 0.5)])
def test_the_naive_restorer_gives_the_same_picture(
    tiny_model: torch.nn.Module, guidance: tuple[float, int] | None, sampler: str, start: float
) -> None:
    restorer = Restorer(tiny_model, Options(steps=3, sampler=sampler, noise_guidance=guidance, seed=5))
    restorer.settings = restorer.settings.with_(start=start, noise=0.5, tile=80)
    lr = picture(80)[..., :17, :]
    theirs = naive(tiny_model, restorer.settings, seed=5)(lr)
    assert torch.allclose(restorer.restore(lr), theirs, atol=1e-5)
    assert not torch.allclose(restorer.restore(lr), naive(tiny_model, restorer.settings, seed=6)(lr), atol=1e-3)


def test_the_naive_restorer_computes_everything_at_every_step(
    tiny_model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve tiles and three steps, the first of them guided: vector, z_lr and network for each."""
    monkeypatch.setattr("stage2.evaluate.rivals.UNTILED", 0)
    monkeypatch.setattr("stage2.evaluate.rivals.TILE", 64)
    monkeypatch.setattr("stage2.evaluate.rivals.OVERLAP", 16)
    calls = {"encoder": 0, "unet": 0}
    for name in calls:
        hook = lambda *_, name=name: calls.update({name: calls[name] + 1})  # noqa: E731
        getattr(tiny_model, name).register_forward_hook(hook)
    restorer = Restorer(tiny_model, Options(steps=3, noise_guidance=(1.0, 1)))
    naive(tiny_model, restorer.settings)(torch.rand(1, 3, 16, 28))
    assert calls == {"encoder": 36, "unet": 36}
    restorer.restore(torch.rand(1, 3, 16, 28))
    assert calls == {"encoder": 37, "unet": 38}


def test_the_numbers_are_there_and_the_outputs_agree(tiny_model_folder: Path) -> None:
    found = configured(f"model={tiny_model_folder}")
    assert json.loads(json.dumps(found)) == found
    assert len(found["ours"]["seconds"]) == len(found["naive"]["seconds"]) == 2
    assert found["difference"]["mean"] < 1e-5
    assert found["flops"]["per_image"] > 1e8
    assert found["flops"]["fraction"] > 0
    assert found["ratio"] == pytest.approx(found["naive"]["median_seconds"] / found["ours"]["median_seconds"])
    for word in ("ours", "naive", "ratio", "outputs differ by 0.000/255", "TFLOP"):
        assert word in to_text(found)


def test_outputs_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"differ by 2\.55/255 on average, more than 2/255"):
        difference(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.01))


def test_random_weights_need_no_files_and_no_rival() -> None:
    found = configured("model=small-random", "dtype=bfloat16", "against=null", "repeats=1", "warmup=0", "flops=false")
    assert found["ours"]["peak_gigabytes"] > found["ours"]["working_gigabytes"] >= 0
    assert "ratio" not in found
    assert torch.get_default_dtype() == torch.float32


def test_another_model_is_a_rival_too(tiny_model_folder: Path) -> None:
    found = configured(f"model={tiny_model_folder}", "against=small-random", "repeats=1", "warmup=0", "flops=false")
    assert found["small-random"]["median_cpu_seconds"] / found["ours"]["median_cpu_seconds"] == found["cpu_ratio"] > 0
    assert "difference" not in found
    assert "small-random" in to_text(found)


def tiny_stable_diffusion() -> DeeDSRConfig:
    """The layout of Stable Diffusion 2.1, as narrow as can be."""
    config = model_size("sd21")
    widths = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
    unet = {**config.unet, **widths, "attention_head_dim": 2, "cross_attention_dim": 16}
    return dataclasses.replace(config, unet=unet, vae={**config.vae, **widths})


def test_the_plain_pipeline_enlarges_four_times() -> None:
    run = pipeline(tiny_stable_diffusion(), 2, torch.device("cpu"), torch.float32)
    assert tuple(run(torch.rand(1, 3, 16, 24)).shape) == (1, 3, 64, 96)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("against=nothing", r"against is naive, pipeline or a model \(nothing: no such folder"),
        ("size=30", "size is 30"),
        ("dtype=int8", "unknown dtype 'int8'"),
        ("against=pipeline", "sd21-random"),
        ("steps=1", r"steps=1 with noise guidance 1:1 never asks the network.*=\[0,0\]"),
    ],
)
def test_wrong_settings_are_named(tiny_model_folder: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configured(f"model={tiny_model_folder}", override)

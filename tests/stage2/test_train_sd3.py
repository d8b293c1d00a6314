"""The models on Stable Diffusion 3 through the doors of all others: trained, resumed, described, exported, restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from deedsr import weights
from deedsr.cli import main as cli
from deedsr.diffusion.sampler import Settings
from deedsr.models import describe, load_model
from deedsr.models.sd3.model import DEFAULTS
from deedsr.options import Options as RestorerOptions
from deedsr.pictures import picture as images
from deedsr.restorer import Restorer
from stage2.evaluate.rivals import tiles as naive_tiles
from stage2.from_config import restoration_run, train

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]
AUTHORS = ["objective={weight:sigma_squared,min_snr:null,time_bias:logit_normal,rollout:0}", "objective.fidelity=null"]
AUTHORS += ["optimizer.warmup=0", "optimizer.schedule=constant"]
MODELS = {
    "dit4sr_small": ["experiment=dit4sr_small", "objective.fidelity=null"],
    "dit4sr": ["model=dit4sr", *AUTHORS],
    "letter": ["experiment=dit4sr_sd35_authors", "frozen_dtype=float32", "optimizer.kind=adamw", "pictures=null"],
    "sd3_controlnet": ["model=sd3_controlnet", "+model.beside.layers=1", *AUTHORS],
}


@pytest.fixture(scope="session")
def options(photos: Path, tiny_dit_base: Path) -> Options:
    def typed(output: Path, model: str, *more: str) -> list[str]:
        quiet = ["trainer=cpu", "trainer.enable_progress_bar=false", "data.workers=0", "checkpoint_every=1000"]
        files = [f"data.roots=[{photos}]", f"model.base={tiny_dit_base}", f"output={output}", "model.texts=null"]
        return [*quiet, *files, "crop=64", "batch=2", *MODELS[model], *more]

    return typed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, composed: Composed, options: Options) -> Path:
    output = tmp_path_factory.mktemp("dit")
    train(composed("stage2", options(output, "dit4sr", "steps=6", "optimizer.lr=0.01")))
    return output


@pytest.mark.parametrize("name", ["dit4sr_small", "sd3_controlnet", "letter"])
def test_each_of_them_trains(name: str, composed: Composed, options: Options, tmp_path: Path) -> None:
    cfg = composed("stage2", options(tmp_path, name, "steps=3", "objective.rollout=0", "optimizer.lr=0.01"))
    start = restoration_run(cfg).model.state_dict()
    train(cfg)
    model = load_model(str(tmp_path / "model"))
    trained = {name for name, _ in model.trainable()}
    same = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, start[name])}
    assert not same & trained
    assert same == start.keys() - trained


def test_to_the_letter_of_the_authors_the_last_weights_are_kept(
    composed: Composed, options: Options, tmp_path: Path
) -> None:
    train(composed("stage2", options(tmp_path, "letter", "steps=2")))
    stream = load_model(tmp_path / "model").transformer.stream
    assert (stream.projection, stream.out_init, stream.conv_scale) == ("stack", "random", 1.2)
    last = weights.load_checkpoint(tmp_path / "last.ckpt")["state_dict"]
    kept = weights.load(tmp_path / "model" / "adapter.safetensors").tensors
    assert kept and all(torch.equal(tensor, last[f"model.{name}"]) for name, tensor in kept.items())


def test_the_defaults_may_change_those_of_the_size(composed: Composed, options: Options, tmp_path: Path) -> None:
    model = restoration_run(composed("stage2", options(tmp_path, "dit4sr", "+model.defaults.steps=5"))).model
    assert model.defaults == Settings.from_dict({**DEFAULTS, "steps": 5})
    with pytest.raises(ValueError, match=r"unknown model\.size 'large'; there are: dit4sr, dit4sr_small"):
        restoration_run(composed("stage2", options(tmp_path, "dit4sr", "model.size=large")))


def test_three_and_three_steps_equal_six(
    run: Path, composed: Composed, options: Options, tmp_path: Path, power_cut: Callable, assert_same_runs: Callable
) -> None:
    cfg = composed("stage2", options(tmp_path, "dit4sr", "steps=6", "optimizer.lr=0.01", "checkpoint_every=3"))
    with power_cut(4, 64):
        train(cfg)
    train(cfg)
    assert_same_runs(run, tmp_path)


def test_a_checkpoint_is_the_model_of_its_averaged_weights(run: Path) -> None:
    states = [load_model(run / name).state_dict() for name in ("last.ckpt", "model")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert describe(str(run / "last.ckpt")) == describe(str(run / "model"))
    checkpoint = weights.load_checkpoint(run / "last.ckpt")
    trained = {name for name, _ in load_model(run / "model").trainable()}
    assert checkpoint["state_dict"].keys() == {f"model.{name}" for name in trained}


@pytest.mark.parametrize("more", [["--preset", "fast", "--steps", "2"], ["--tile", "64", "--steps", "2"]])
def test_the_command_line_exports_and_restores(
    run: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (18, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert cli._call(["export", str(run / "last.ckpt"), str(tmp_path / "whole"), "--with-base"]) == 0
    for name, model in (("one", run / "model"), ("two", tmp_path / "whole")):
        words = ["restore", tmp_path / "a.png", "-o", tmp_path / f"{name}.png", "--model", model, "--device", "cpu"]
        assert cli._call([str(word) for word in [*words, *more]]) == 0, capsys.readouterr().err
    one, two = (images.read(tmp_path / f"{name}.png").rgb for name in ("one", "two"))
    assert one.shape[-2:] == (72, 160)
    assert torch.equal(one, two)


def test_what_exceeds_the_positional_embedding_is_tiled(run: Path) -> None:
    model = load_model(run / "model")
    assert {(tile.height, tile.width) for tile in naive_tiles(model, 40, 64)} == {(32, 32)}
    restorer = Restorer(model, RestorerOptions(steps=1))
    assert model.limit == 16 * 2 * 4
    assert len(restorer.layout.tiles(16, 32)) == 1
    assert len(restorer.layout.tiles(16, 34)) == 2
    assert {(one.height, one.width) for one in Restorer(model, RestorerOptions(tile=512)).layout.tiles(80, 80)} == {
        (32, 32)
    }
    assert restorer.restore(torch.rand(1, 3, 20, 40)).shape[-2:] == (80, 160)

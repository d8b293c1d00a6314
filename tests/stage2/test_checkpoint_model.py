"""A checkpoint of stage 2 as a model: restored with, described, exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from deedsr import weights
from deedsr.cli import main as cli
from deedsr.models import describe, load_model
from deedsr.models.card import CARD
from deedsr.models.deedsr.head import DIAGNOSIS, ENCODER, DiagnosisHead
from deedsr.models.resolver import model_place
from deedsr.models.system import ADAPTER, HEADER
from deedsr.pictures import picture as images
from stage2.from_config import train, trainable_model

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, composed: Composed, stage2_options: Options) -> Path:
    """The output of a run of 3 steps of an ablated model."""
    output = tmp_path_factory.mktemp("run")
    options = ["steps=3", "+model.overrides.adapter.cross_attention=projected", "optimizer.lr=0.01"]
    train(composed("stage2", stage2_options(output, *options)))
    return output


def same_weights(first: Path, second: Path) -> bool:
    states = [load_model(str(place)).state_dict() for place in (first, second)]
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_checkpoint_is_the_model_of_its_averaged_weights(run: Path) -> None:
    assert same_weights(run / "last.ckpt", run / "model")
    assert describe(str(run / "last.ckpt")) == describe(str(run / "model"))
    checkpoint, state = weights.load_checkpoint(run / "last.ckpt"), load_model(str(run / "last.ckpt")).state_dict()
    averages = checkpoint["average"]["tensors"]
    assert all(torch.equal(state[name], tensor) for name, tensor in averages.items())
    assert any(not torch.equal(tensor, checkpoint["state_dict"][f"model.{name}"]) for name, tensor in averages.items())


def test_a_model_is_found_by_whatever_names_it(run: Path, tmp_path: Path) -> None:
    for name in (run, run / "model", run / "model" / ADAPTER):
        assert model_place(name) == run / "model"
    assert model_place(run / "last.ckpt") == run / "last.ckpt"
    assert model_place("built-in").name == "built-in"
    (tmp_path / "photos.txt").write_text("")
    with pytest.raises(ValueError, match=r"no model: holds photos\.txt, not adapter.*the folder of a run of stage 2"):
        model_place(tmp_path)
    with pytest.raises(ValueError, match="no model: a weight file alone"):
        load_model(run / "model" / ENCODER)


@pytest.mark.parametrize("name", ["", "model", f"model/{ADAPTER}", "last.ckpt"])
def test_a_run_starts_from_whatever_names_a_model(
    run: Path, name: str, composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    words = ["+model.overrides.adapter.cross_attention=projected", f"init={run / name}"]
    model = trainable_model(composed("stage2", stage2_options(tmp_path, *words))).model
    expected = weights.load(run / "model" / ADAPTER).tensors
    assert all(torch.equal(tensor, expected[part]) for part, tensor in model.trainable())


def test_the_command_line_restores_with_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for model, output in ((run / "last.ckpt", "one.png"), (run / "model", "two.png")):
        arguments = ["restore", tmp_path / "a.png", "-o", tmp_path / output, "--model", model, "--device", "cpu"]
        assert cli._call([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    assert torch.equal(images.read(tmp_path / "one.png").rgb, images.read(tmp_path / "two.png").rgb)


def test_it_can_be_moved_with_its_encoder(run: Path, tmp_path: Path, tiny_encoder: Path) -> None:
    moved = Path(shutil.copy(run / "last.ckpt", tmp_path / "step3.ckpt"))
    assert same_weights(moved, run / "model"), "the encoder is where it was in training"
    checkpoint = weights.load_checkpoint(moved)
    assert checkpoint[HEADER]["encoder"] == str(tiny_encoder)
    checkpoint[HEADER]["encoder"] = str(tmp_path / "gone.safetensors")
    torch.save(checkpoint, tmp_path / "far.ckpt")
    with pytest.raises(ValueError, match=rf"far\.ckpt: its encoder is nowhere .*gone.*; put {ENCODER} beside"):
        load_model(tmp_path / "far.ckpt")
    shutil.copy(tiny_encoder, tmp_path / ENCODER)
    assert same_weights(tmp_path / "far.ckpt", run / "model")
    checkpoint[HEADER]["base"] = str(tmp_path / "no" / "base")
    torch.save(checkpoint, tmp_path / "far.ckpt")
    with pytest.raises(ValueError, match="no/base: no such folder"):
        load_model(tmp_path / "far.ckpt")


def test_the_head_beside_its_encoder_goes_with_it(
    run: Path, tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (run / "last.ckpt", tiny_encoder):
        shutil.copy(file, tmp_path)
    head = DiagnosisHead(16, 32, 8)
    weights.save(tmp_path / DIAGNOSIS, head.state_dict(), head.config())
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert cli._call(["export", str(tmp_path / "last.ckpt"), str(tmp_path / "new"), "--half"]) == 0
    assert (tmp_path / "new" / DIAGNOSIS).read_bytes() == (tmp_path / DIAGNOSIS).read_bytes()
    assert cli._call(["diagnose", str(tmp_path / "a.png"), "--model", str(tmp_path / "last.ckpt")]) == 0
    assert "blur" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--with-base", "--half"]])
def test_it_is_exported_as_a_model_folder(
    run: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "slim"
    assert cli._call(["export", str(run / "last.ckpt"), str(folder), *more]) == 0, capsys.readouterr().err
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.safetensors"))
    assert names[:1] + names[-1:] == [ADAPTER, ENCODER]
    assert (len(names) == 4) == bool(more)
    card = (folder / CARD).read_text(encoding="utf-8")
    for line in ("Steps: 3.", "Crops: 2 on each device at a time, of 64", "Data: photographs of `photos`, 4 pictures;"):
        assert f"- {line}" in card
    header, own = weights.header(folder / ADAPTER), weights.header(run / "model" / ADAPTER)
    assert {**header, "base": own["base"]} == own
    if more:
        assert header["base"] == "base"
        load_model(folder.rename(tmp_path / "moved"))
    else:
        assert same_weights(folder, run / "model")


def test_other_checkpoints_are_refused(run: Path, tmp_path: Path) -> None:
    checkpoint = weights.load_checkpoint(run / "last.ckpt")
    torch.save({name: value for name, value in checkpoint.items() if name != HEADER}, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"old\.ckpt: its header says nothing of a deedsr adapter"):
        load_model(tmp_path / "old.ckpt")
    shutil.copy(run / "model" / ENCODER, tmp_path)
    torch.save({name: value for name, value in checkpoint.items() if name != "average"}, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match=r"bare\.ckpt: does not fit DeeDSR: \d+ missing"):
        load_model(tmp_path / "bare.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cut\.ckpt: a file that is cut off; what is wanted is a whole checkpoint"):
        load_model(tmp_path / "cut.ckpt")

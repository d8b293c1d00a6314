"""Training from the trained part of a model folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.models import load_model
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.folder import ENCODER
from deedsr.models.deedsr.sizes import DeeDSRConfig
from deedsr.models.system import ADAPTER, header_of
from stage2.from_config import restoration_run, train

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]


@pytest.fixture
def other_encoder(tiny_config: DeeDSRConfig, tmp_path: Path) -> Path:
    torch.manual_seed(9)
    encoder = DegradationEncoder(**tiny_config.encoder)
    return weights.save(tmp_path / "other" / ENCODER, encoder.state_dict(), encoder.config())


def test_a_run_starts_from_a_folders_trained_part_with_its_own_encoder_and_base(
    composed: Composed, stage2_options: Options, tmp_path: Path, tiny_model_folder: Path, other_encoder: Path
) -> None:
    options = [f"init={tiny_model_folder}", f"model.encoder={other_encoder}", "steps=1"]
    run = restoration_run(composed("stage2", stage2_options(tmp_path / "run", *options)))
    start = weights.load(tiny_model_folder / ADAPTER).tensors
    trained = dict(run.model.trainable())
    assert start.keys() == trained.keys()
    for name, tensor in start.items():
        assert torch.equal(trained[name], tensor), name
        assert torch.equal(run.average.tensors[name], tensor), name
    own, theirs = weights.load(other_encoder).tensors, weights.load(tiny_model_folder / ENCODER).tensors
    state = run.model.encoder.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in own.items())
    assert not torch.equal(state["conv1.weight"], theirs["conv1.weight"])


def test_a_started_run_goes_on_from_its_own_checkpoint(
    composed: Composed, stage2_options: Options, tmp_path: Path, tiny_model_folder: Path, assert_same_runs: Callable
) -> None:
    common = [f"init={tiny_model_folder}", "optimizer.schedule=constant"]
    train(composed("stage2", stage2_options(tmp_path / "whole", *common, "steps=2")))
    for steps in (1, 2):
        train(composed("stage2", stage2_options(tmp_path / "parts", *common, f"steps={steps}")))
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_whole_model_is_trained_further_and_saved_as_it_was(
    composed: Composed, stage2_options: Options, tmp_path: Path, tiny_model_folder: Path
) -> None:
    words = [word for word in stage2_options(tmp_path / "run") if not word.lstrip("+").startswith("model.")]
    words += ["model=init", "+model.defaults.colour=none", "steps=1", "optimizer.lr=0", "optimizer.weight_decay=0"]
    folder = train(composed("stage2", [*words, f"init={tiny_model_folder}"]))
    start, result = load_model(tiny_model_folder), load_model(folder)
    assert result.defaults == replace(start.defaults, colour="none")
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in result.state_dict().items())
    assert header_of(folder)["base"] == str(tiny_model_folder / "base")
    assert load_model(tmp_path / "run" / "last.ckpt").defaults == result.defaults
    with pytest.raises(ValueError, match=r"model\.defaults=.* can't be had: .*'hue'"):
        restoration_run(composed("stage2", [*words, f"init={tiny_model_folder}", "+model.defaults.hue=1"]))
    with pytest.raises(ValueError, match="model=init is the model of init=…: name a model folder"):
        restoration_run(composed("stage2", words))


def test_a_trained_part_of_another_size_is_refused(
    composed: Composed, stage2_options: Options, tmp_path: Path, tiny_model_folder: Path
) -> None:
    cfg = composed("stage2", stage2_options(tmp_path, f"init={tiny_model_folder}", "++model.overrides.sft_hidden=4"))
    whole = f"; or say model=init, which is the whole model of init={tiny_model_folder}$"
    with pytest.raises(ValueError, match=r"adapter\.safetensors: does not fit DeeDSR: .* of another size.*" + whole):
        restoration_run(cfg)
    cfg.model.base = "no/base/here"
    with pytest.raises(ValueError, match="^no/base/here: no such folder.*" + whole):
        restoration_run(cfg)


@pytest.mark.parametrize("change", ["missing", "frozen"])
def test_every_name_of_a_trained_part_must_fit(
    composed: Composed, stage2_options: Options, tmp_path: Path, tiny_model_folder: Path, change: str
) -> None:
    stored = weights.load(tiny_model_folder / ADAPTER)
    tensors = dict(stored.tensors)
    if change == "missing":
        tensors.pop("adapter.stem.bias")
    else:
        tensors["unet.conv_in.bias"] = torch.zeros(32)
    weights.save(tmp_path / "start" / ADAPTER, tensors, stored.config)
    message = {"missing": r"1 missing \(adapter\.stem\.bias\)", "frozen": r"holds unet\.conv_in\.bias, which is not"}
    with pytest.raises(ValueError, match=message[change]):
        restoration_run(composed("stage2", stage2_options(tmp_path, f"init={tmp_path / 'start'}")))


def test_a_folder_without_a_trained_part_is_named(composed: Composed, stage2_options: Options, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none: no such folder, and not a hub id"):
        restoration_run(composed("stage2", stage2_options(tmp_path, "init=none")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["experiment=dit4sr_ablation_linear"],
            "model.beside means nothing to the system deedsr",
        ),
        (
            ["model=dit4sr_small", "experiment=ablation_zero_vector"],
            "model.overrides means nothing to the system",
        ),
    ],
)
def test_an_experiment_of_another_system_is_refused(
    composed: Composed, photos: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        restoration_run(composed("stage2", [f"data.roots=[{photos}]", f"output={tmp_path}", *words]))

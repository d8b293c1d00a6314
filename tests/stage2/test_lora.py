"""LoRA in training: with the adapter, and in the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.models import load_model
from deedsr.models.frozen import lora
from deedsr.models.system import ADAPTER
from deedsr.training.command import command
from stage2.from_config import restoration_run, train

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]
Resumed = Callable[..., Path]

LORA = "+model.overrides.adapter.lora_rank=2"


def test_it_is_trained_resumed_to_the_bit_and_averaged(trained_and_resumed: Resumed) -> None:
    whole = trained_and_resumed(LORA)
    model = load_model(whole / "model")
    trained, state = {name for name, _ in model.trainable()}, model.state_dict()
    low_rank = {name for name in trained if lora.is_lora(name)}
    assert low_rank
    checkpoint = weights.load_checkpoint(whole / "last.ckpt")
    assert all(torch.equal(checkpoint["average"]["tensors"][name], state[name]) for name in low_rank)
    assert any(not torch.equal(checkpoint["state_dict"][f"model.{name}"], state[name]) for name in low_rank)


def test_it_starts_on_a_model_that_has_none_and_changes_nothing_of_it(
    composed: Composed, stage2_options: Options, tmp_path: Path, tiny_model_folder: Path
) -> None:
    cfg = composed("stage2", stage2_options(tmp_path, LORA, f"init={tiny_model_folder}"))
    started, given = dict(restoration_run(cfg).model.trainable()), weights.load(tiny_model_folder / ADAPTER).tensors
    for name, tensor in given.items():
        assert torch.equal(started[name], tensor), name
    fresh = started.keys() - given.keys()
    assert fresh == {name for name in started if lora.is_lora(name)}
    assert not any(started[name].any() for name in fresh if name.endswith(lora.UP))


def test_a_model_that_is_trained_further_may_get_it(
    composed: Composed, photos: Path, tmp_path: Path, tiny_model_folder: Path, assert_same_runs: Callable
) -> None:
    quiet = ["trainer=cpu", "trainer.enable_progress_bar=false", "data.workers=0", "checkpoint_every=1000"]
    common = [*quiet, f"data.roots=[{photos}]", "crop=64", "batch=2", "objective.fidelity.perceptual=0"]
    common += ["optimizer.schedule=constant", "model=init", f"init={tiny_model_folder}", "+model.lora_rank=2"]
    for output, steps in (("whole", 2), ("parts", 1), ("parts", 2)):
        train(composed("stage2", [*common, f"output={tmp_path / output}", f"steps={steps}"]))
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    model, start = load_model(tmp_path / "whole" / "model"), load_model(tiny_model_folder).state_dict()
    assert model.adapter.config.lora_rank == 2
    assert {name for name in model.state_dict() if lora.is_lora(name)} == model.state_dict().keys() - start.keys()
    again = [*common[:-2], f"init={tmp_path / 'whole' / 'model'}", f"output={tmp_path / 'again'}", "steps=1"]
    assert restoration_run(composed("stage2", again)).model.adapter.config.lora_rank == 2
    with pytest.raises(ValueError, match=r"model: has LoRA already, which is trained further: leave model\.lora_rank"):
        restoration_run(composed("stage2", [*again, "+model.lora_rank=2"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=init", "init=built-in", "+model.lora_rank=-1"], "lora_rank is -1; choose a whole number"),
        (["+model.overrides.adapter.lora_rank=-2"], "lora_rank is -2; choose a whole number from 1 on, or 0 for none"),
        (["+model.overrides.adapter.lora_rank=2.5"], "lora_rank is 2.5; choose"),
        (["model=dit4sr_small", "+model.beside.lora_rank=-1"], "lora_rank is -1; choose"),
        (
            ["model=sd3_controlnet", "model.texts=null", "+model.beside.lora_rank=4"],
            "model.beside of sd3_controlnet has no 'lora_rank'; there are: layers",
        ),
    ],
)
def test_wrong_ranks_are_one_line(
    composed: Composed, photos: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    cfg = composed("stage2", [f"data.roots=[{photos}]", f"output={tmp_path / 'run'}", *words])
    with pytest.raises(SystemExit, match=rf"^error: {message}") as stopped:
        command("stage2.from_config:train", cfg)
    assert "\n" not in str(stopped.value)

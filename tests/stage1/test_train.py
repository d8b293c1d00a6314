"""Runs of stage 1: resuming to the bit, two ranks, what is written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.training.optimizer import Schedule
from deedsr.training.run import BAD_BATCH
from stage1.from_config import degradation_learner, train
from stage1.module import DegradationLearner
from tests.processes import as_two_ranks, type_in

Compose = Callable[..., DictConfig]


def state(output: Path) -> dict[str, torch.Tensor]:
    return weights.load_checkpoint(output / "last.ckpt")["state_dict"]


@pytest.mark.parametrize("positives", ["same_image", "same_degradation"])
def test_five_and_five_steps_equal_ten(tiny: Compose, tmp_path: Path, positives: str) -> None:
    common = [f"positives={positives}", "optimizer.milestones=[3,8]", "shuffle=true", "contrast.groups=2"]
    train(tiny(tmp_path / "whole", "steps=10", *common))
    for steps in (5, 10):
        train(tiny(tmp_path / "parts", f"steps={steps}", *common))
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert {"contrast.queue", "contrast.pointer"} <= whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


def test_to_the_letter_of_the_authors_it_trains(tiny: Compose, tmp_path: Path) -> None:
    words = ["experiment=stage1_deedsr_authors", "trainer=cpu", "encoder.size=small", "contrast.groups=2"]
    cfg = tiny(tmp_path, *words, "steps=2")
    run = degradation_learner(cfg)
    assert run.shuffle and run.contrast.groups == 2 and run.recipe.chroma == "nearest"
    assert cfg.trainer.precision == "32-true"
    before = {name: tensor.clone() for name, tensor in run.state_dict().items()}
    train(cfg)
    after = state(tmp_path)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {name for name, _ in run.contrast.named_parameters(prefix="contrast")} <= moved


def test_it_begins_with_a_given_encoder_and_refuses_one_of_other_numbers(tiny: Compose, tmp_path: Path) -> None:
    file = train(tiny(tmp_path / "first", "steps=2"))
    contrast = degradation_learner(tiny(tmp_path / "second", f"init={file}", "seed=1")).contrast
    given = weights.load(file).tensors
    for network in (contrast.encoder, contrast.key_encoder):
        assert all(torch.equal(tensor, given[name]) for name, tensor in network.state_dict().items())
    moved = weights.load(train(tiny(tmp_path / "second", "steps=2", f"init={file}", "seed=1"))).tensors
    assert all(not torch.equal(moved[name], given[name]) for name in given if name.endswith("conv1.weight"))
    with pytest.raises(ValueError, match=r"encoder\.safetensors: has vector=64, not 8; let encoder\.size"):
        degradation_learner(tiny(tmp_path / "third", f"init={file}", "+encoder.overrides.vector=8"))


def test_a_broken_off_run_goes_on_from_its_last_checkpoint(tiny: Compose, tmp_path: Path) -> None:
    train(tiny(tmp_path / "whole", "steps=6"))
    train(tiny(tmp_path / "parts", "steps=5", "checkpoint_every=2"))
    assert weights.load_checkpoint(tmp_path / "parts" / "last.ckpt")["global_step"] == 5
    train(tiny(tmp_path / "parts", "steps=6", "checkpoint_every=2"))
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_an_error_amid_a_step_undoes_what_the_step_has_moved(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its forward pass has moved the key network, the queue and BatchNorm's statistics already."""
    train(tiny(tmp_path / "whole", "steps=4", "optimizer.lr=0.001"))
    checked = DegradationLearner.on_before_backward

    def failing(run: DegradationLearner, loss: torch.Tensor) -> None:
        if run.global_step == 3:
            raise RuntimeError("out of memory")
        checked(run, loss)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(DegradationLearner, "on_before_backward", failing)
        train(tiny(tmp_path / "parts", "steps=4", "optimizer.lr=0.001"))
    assert weights.load_checkpoint(tmp_path / "parts" / "last.ckpt")["global_step"] == 3
    broken = state(tmp_path / "parts")
    assert broken["contrast.pointer"] == 3 * 4
    stored = weights.load(tmp_path / "parts" / "encoder.safetensors").tensors
    for name, tensor in stored.items():
        assert torch.equal(tensor, broken[f"contrast.encoder.{name}"]), name
    train(tiny(tmp_path / "parts", "steps=4", "optimizer.lr=0.001"))
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_a_trial_writes_nothing(tiny: Compose, tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", "steps=4", "+trainer.fast_dev_run=2"))
    assert not (tmp_path / "run").exists()


def test_writes_the_query_encoder_without_head(tiny: Compose, tmp_path: Path) -> None:
    path = train(tiny(tmp_path, "steps=2"))
    stored = weights.load(path)
    encoder = DegradationEncoder(**stored.config)
    weights.load_strict(encoder, stored.tensors, path)
    trained = state(tmp_path)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, trained[f"contrast.encoder.{name}"]), name
    assert list(tmp_path.glob("events.out.tfevents.*")), "no TensorBoard log"


def test_a_finished_run_is_left_alone(tiny: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tiny(tmp_path, "steps=2"))
    before = (tmp_path / "last.ckpt").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        train(tiny(tmp_path, "steps=2"))
    assert "finished, 2 steps" in caplog.text
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == before


def test_two_ranks_train(tiny: Compose, tmp_path: Path) -> None:
    """The command of the README on two gloo processes."""
    cfg = tiny(tmp_path / "run")
    words = [f"data.roots={cfg.data.roots}", f"output={cfg.output}", "+encoder.overrides={widths:[8,8,8,8],stem:8}"]
    words += ["crop=64", "batch=2", "steps=3", "contrast.queue=12", "shuffle=true", "data.workers=0"]
    words += ["trainer=cpu", "trainer.devices=2", "+trainer.strategy=ddp", "trainer.enable_progress_bar=false"]
    assert as_two_ranks(partial(type_in, "stage1.train", words)) == [0, 0]
    trained = state(tmp_path / "run")
    assert trained["contrast.pointer"].item() == 0, "three steps of two on two ranks fill a queue of twelve"
    assert torch.allclose(trained["contrast.queue"].norm(dim=1), torch.ones(12), atol=1e-5)
    assert len(torch.unique(trained["contrast.queue"], dim=0)) == 12, "the ranks draw differently"
    assert (tmp_path / "run" / "encoder.safetensors").is_file()


def test_the_parameters_are_learned_beside_the_contrast(tiny: Compose, tmp_path: Path) -> None:
    for weight in (0, 1):
        train(tiny(tmp_path / str(weight), "steps=3", f"parameters={weight}"))
    without, beside = state(tmp_path / "0"), state(tmp_path / "1")
    assert beside.keys() - without.keys() == {
        f"reading.{name}" for name in ("mean", "spread", "map.weight", "map.bias")
    }
    assert not torch.equal(without["contrast.encoder.conv1.weight"], beside["contrast.encoder.conv1.weight"])


@pytest.mark.parametrize(("unit", "falls"), [("steps", 2), ("epochs", 20)])
def test_milestones(unit: str, falls: int) -> None:
    schedule = Schedule("milestones", 2, 100, [2, 4], unit, gamma=0.1, epoch=10)
    assert schedule(0) == 0.5
    assert schedule(falls - 1) == 1
    assert schedule(falls) == pytest.approx(0.1)
    assert schedule(2 * falls) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pool=none", "none/pairs-000000.safetensors: missing; make it with `python -m stage1.pool pool=none`"),
        ("crop=40", "crop must be a multiple of"),
        ("trainer.accumulate_grad_batches=2", "must be 1 in stage 1"),
        ("positives=other", "same_image or same_degradation"),
        ("optimizer.unit=days", "unknown optimizer.unit 'days'; there are: steps, epochs"),
        ("data.split=none", "no photographs of the split"),
        ("recipe=strong", "unknown recipe 'strong'"),
    ],
)
def test_wrong_settings_are_named(tiny: Compose, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        train(tiny(tmp_path, "steps=1", override))


def test_the_full_size_composes(tiny: Compose, tmp_path: Path) -> None:
    cfg = tiny(tmp_path, "experiment=stage1_deedsr")
    assert (cfg.contrast.queue, cfg.contrast.momentum, cfg.optimizer.unit) == (16, 0.999, "epochs")


def test_a_loss_that_is_not_a_number_stops_the_run_and_its_batch_is_kept(tiny: Compose, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d: take a lower .*bad_batch\.safetensors"):
        train(tiny(tmp_path, "steps=9", "optimizer.lr=1e30", "optimizer.milestones=[]"))
    kept = weights.load(tmp_path / BAD_BATCH)
    assert kept.tensors["hr"].shape == (4, 3, 64, 64)
    assert kept.config["seed"] == 0

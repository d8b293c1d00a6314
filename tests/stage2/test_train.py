"""Training of stage 2: resuming to the bit, what is trained and kept, what is written, what stops it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from deedsr import weights
from deedsr.data.photos import PhotoCrops, list_photos
from deedsr.models import load_model
from deedsr.models.deedsr.folder import ENCODER
from deedsr.models.system import ADAPTER
from deedsr.training.command import command
from deedsr.training.fit import fit
from deedsr.training.photographs import Photographs
from deedsr.training.run import BAD_BATCH
from stage2.from_config import restoration_run, train
from tests.processes import ROOT

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, composed: Composed, stage2_options: Options) -> Path:
    """The output of an unbroken run of 20 steps."""
    output = tmp_path_factory.mktemp("whole")
    assert train(composed("stage2", stage2_options(output, "steps=20"))) == output / "model"
    return output


def test_ten_and_ten_steps_equal_twenty(
    whole: Path,
    composed: Composed,
    stage2_options: Options,
    tmp_path: Path,
    power_cut: Callable,
    assert_same_runs: Callable,
) -> None:
    cfg = composed("stage2", stage2_options(tmp_path, "steps=20", "checkpoint_every=10", "data.workers=1"))
    alone = composed("stage2", stage2_options(tmp_path, "steps=20", "checkpoint_every=10"))
    with power_cut(13, 64):
        train(alone)
    assert weights.load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 12  # the 13th's crops were being read
    train(cfg)
    assert_same_runs(whole, tmp_path)


def test_without_weights_of_lpips_the_readmes_words_train(
    composed: Composed, stage2_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the error of a run without them says the same words."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    options = stage2_options(tmp_path / "run", "steps=1", "objective.fidelity.perceptual=1")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    words = re.search(r"Without LPIPS weights[^`]*`([^`]+)`", text)[1]
    with pytest.raises(ValueError, match=f"LPIPS needs .*or train without it: {words} in stage 2"):
        train(composed("stage2", options))
    train(composed("stage2", [*options, *words.split()]))
    assert (tmp_path / "run" / "model" / ADAPTER).is_file()


def test_accumulated_steps_are_resumed_to_the_bit(
    composed: Composed, stage2_options: Options, tmp_path: Path, power_cut: Callable, assert_same_runs: Callable
) -> None:
    common = ["steps=4", "checkpoint_every=2", "trainer.accumulate_grad_batches=2", "objective.rollout=0.5"]
    train(composed("stage2", stage2_options(tmp_path / "whole", *common)))
    with power_cut(5, 64):
        train(composed("stage2", stage2_options(tmp_path / "parts", *common)))
    train(composed("stage2", stage2_options(tmp_path / "parts", *common)))
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    assert weights.load_checkpoint(tmp_path / "parts" / "last.ckpt")["average"]["updates"] == 4


def test_every_trained_tensor_changes_and_nothing_else(
    composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    cfg = composed("stage2", stage2_options(tmp_path, "steps=4"))
    run = restoration_run(cfg)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    fit(cfg, run, Photographs(crop=cfg.crop, batch=cfg.batch, seed=cfg.seed, **cfg.data), tmp_path, cfg.steps)
    trained = {name for name, _ in run.model.trainable()}
    changed = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == trained
    assert any("running_mean" in name for name in before), "there is no BatchNorm to watch"
    assert not any(module.training for module in run.model.modules())


def test_only_trained_tensors_are_in_the_checkpoint(whole: Path) -> None:
    checkpoint = weights.load_checkpoint(whole / "last.ckpt")
    trained = {name for name, _ in load_model(str(whole / "model")).trainable()}
    assert checkpoint["state_dict"].keys() == {f"model.{name}" for name in trained}
    assert checkpoint["average"]["tensors"].keys() == trained
    (optimizer,) = checkpoint["optimizer_states"]
    assert len(optimizer["state"]) == len(trained)


def test_the_model_folder_holds_the_averaged_weights_and_the_given_encoder(whole: Path, tiny_encoder: Path) -> None:
    checkpoint = weights.load_checkpoint(whole / "last.ckpt")
    state = load_model(str(whole / "model")).state_dict()
    differs = False
    for name, tensor in checkpoint["average"]["tensors"].items():
        assert torch.equal(state[name], tensor), name
        differs |= not torch.equal(tensor, checkpoint["state_dict"][f"model.{name}"])
    assert differs, "the average is the last step"
    given = weights.load(tiny_encoder)
    assert weights.load(whole / "model" / ENCODER).config == given.config
    for name, tensor in given.tensors.items():
        assert torch.equal(state[f"encoder.{name}"], tensor), name


def test_a_finished_run_is_left_alone(
    whole: Path, composed: Composed, stage2_options: Options, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.*")}
    with caplog.at_level(logging.INFO):
        train(composed("stage2", stage2_options(whole, "steps=20")))
    assert "finished, 20 steps" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.*")} == before


def test_a_lost_model_folder_comes_back(
    whole: Path, composed: Composed, stage2_options: Options, assert_same_runs: Callable, tmp_path: Path
) -> None:
    (tmp_path / "last.ckpt").write_bytes((whole / "last.ckpt").read_bytes())
    train(composed("stage2", stage2_options(tmp_path, "steps=20")))
    assert_same_runs(whole, tmp_path)


def test_validation_changes_nothing(
    composed: Composed, stage2_options: Options, tmp_path: Path, assert_same_runs: Callable
) -> None:
    random = np.random.default_rng(0)
    for role, side in (("lr", 16), ("hr", 64)):
        (tmp_path / "pairs" / role).mkdir(parents=True)
        noise = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        noise.save(tmp_path / "pairs" / role / "a.png")
    train(composed("stage2", stage2_options(tmp_path / "without", "steps=4")))
    validation = f"validation={{data:{tmp_path / 'pairs'},every:2,metrics:[psnr]}}"
    train(composed("stage2", stage2_options(tmp_path / "with", "steps=4", validation)))
    assert_same_runs(tmp_path / "without", tmp_path / "with")


def test_a_loss_that_is_not_a_number_stops_the_run_and_its_batch_is_kept(
    composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    cfg = composed("stage2", stage2_options(tmp_path, "steps=5", "optimizer.lr=1e30"))
    with pytest.raises(
        ValueError, match=r"the loss is (nan|inf) at step \d: take a lower .*bad_batch\.safeten"
    ) as stopped:
        train(cfg)
    kept = weights.load(tmp_path / BAD_BATCH)
    step = int(str(stopped.value).split(" at step ")[1].split(":")[0])
    assert kept.config == {"seed": cfg.seed, "step": step, "batch": step, "rank": 0}
    crops = PhotoCrops(list_photos(cfg.data.roots), cfg.crop, cfg.seed, cfg.batch)
    assert torch.equal(kept.tensors["hr"], torch.stack([crops.crop(step, sample) for sample in range(cfg.batch)]))


@pytest.mark.parametrize("steps", [20, 30])
def test_another_model_under_the_same_name_is_refused(
    whole: Path, composed: Composed, stage2_options: Options, steps: int
) -> None:
    cfg = composed("stage2", stage2_options(whole, f"steps={steps}", "++model.overrides.sft_hidden=4"))
    with pytest.raises(ValueError) as refused:
        train(cfg)
    assert str(refused.value) == (
        f"{whole / 'last.ckpt'} is of another run: model.overrides.sft_hidden: 8 → 4; take another name=…, with init=… "
        "for its weights, or go on with the new values by resume=changed"
    )


def test_a_checkpoint_of_another_model_is_refused(
    whole: Path, composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    (tmp_path / "last.ckpt").write_bytes((whole / "last.ckpt").read_bytes())
    words = ["steps=30", "++model.overrides.sft_hidden=4", "resume=changed"]
    cfg = composed("stage2", stage2_options(tmp_path, *words))
    with pytest.raises(ValueError, match=r"last\.ckpt: does not fit RestorationRun: .* of another size"):
        train(cfg)


def test_a_checkpoint_that_would_run_code_is_refused(
    composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable, tuple]:
            return os.mkdir, (str(tmp_path / "trace"),)

    torch.save({"global_step": 1, "state_dict": {}, "evil": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt: damaged, or a pickle of other things, which is not run;"):
        train(composed("stage2", stage2_options(tmp_path, "steps=2")))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("crop=72", "crop must be a multiple of 16 with this model, not 72"),
        ("+model.overrides.unet.dropout=0", "nothing to override in 'unet' here; there are: adapter, sft_hidden"),
        ("+model.overrides.adapter.depth=1", "adapter has no 'depth' to override"),
        ("model.encoder=/none/e.safetensors", "^/none/e.safetensors: no such weight file"),
        ("model.base=none/such/base", "^none/such/base: no such folder, and not a hub id"),
        ("recipe=strong", "unknown recipe 'strong'"),
        ("optimizer.schedule=linear", "unknown optimizer.schedule 'linear'"),
        ("optimizer.kind=lion", "unknown optimizer.kind 'lion'; there are: adamw, fused, 8bit, muon"),
        ("frozen_dtype=float16", "unknown frozen_dtype 'float16'; there are: float32, bfloat16"),
        ("frozen_dtype=bfloat16", "frozen_dtype=bfloat16 needs trainer.precision=bf16-mixed, not 32-true"),
        ("data.roots=[/none]", "^/none: no such folder of photographs"),
    ],
)
def test_wrong_settings_are_one_line(
    composed: Composed, stage2_options: Options, tmp_path: Path, option: str, message: str
) -> None:
    cfg = composed("stage2", stage2_options(tmp_path, "steps=1", option))
    with pytest.raises(ValueError, match=message):
        train(cfg)
    with pytest.raises(SystemExit, match=r"^error: .+$") as stopped:
        command("stage2.from_config:train", cfg)
    assert "\n" not in str(stopped.value)


def test_the_adapters_file_says_all_that_loading_needs(whole: Path, tiny_base: Path) -> None:
    header = weights.header(whole / "model" / ADAPTER)
    assert header["base"] == str(tiny_base)
    assert (header["system"], header["sft_hidden"], header["adapter"]["width"]) == ("deedsr", 8, 32)

"""Pre-training of the small base: resuming to the bit, what is written, what stops it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.batch import Crops
from deedsr.data.photos import PhotoCrops
from deedsr.metrics.loading import Unavailable
from deedsr.models import describe
from deedsr.models.frozen.base import PART, Base, stock
from deedsr.models.sd3.dit4sr import SMALL
from deedsr.training.command import command
from stage2.base.phases import train
from stage2.base.sizes import unconditional
from tests.processes import forked, type_in

sample = PhotoCrops.sample


def killed(crops: PhotoCrops, step: int, number: int) -> Crops:
    """Instead of `sample`: SIGKILL at step 13."""
    if step == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample(crops, step, number)


Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]


def steps(autoencoder: int, denoiser: int) -> list[str]:
    return [f"autoencoder.steps={autoencoder}", f"denoiser.steps={denoiser}"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, composed: Composed, base_options: Options) -> Path:
    """The output of an unbroken run of 20 + 20 steps."""
    output = tmp_path_factory.mktemp("whole")
    assert train(composed("base", base_options(output, *steps(20, 20)))) == output / "base"
    return output


def test_ten_and_ten_steps_equal_twenty_in_both_phases(
    whole: Path,
    composed: Composed,
    base_options: Options,
    tmp_path: Path,
    power_cut: Callable,
    assert_same_runs: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first phase is broken off by SIGKILL in a process of its own, the second by an error."""
    options = base_options(tmp_path, *steps(20, 20), "checkpoint_every=10")
    with monkeypatch.context() as patch:
        patch.setattr(PhotoCrops, "sample", killed)
        assert forked(partial(type_in, "stage2.base", options)) == [-signal.SIGKILL]
    assert weights.load_checkpoint(tmp_path / "autoencoder" / "last.ckpt")["global_step"] == 10
    assert [part.name for part in (tmp_path / "base").iterdir()] == ["vae"]
    with power_cut(13, 48):
        train(composed("base", options))
    assert weights.load_checkpoint(tmp_path / "denoiser" / "last.ckpt")["global_step"] == 12
    train(composed("base", options))
    assert_same_runs(whole, tmp_path)


def test_a_finished_run_is_left_alone(
    whole: Path, composed: Composed, base_options: Options, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.*")}
    with caplog.at_level(logging.INFO):
        train(composed("base", base_options(whole, *steps(20, 15))))
    assert caplog.text.count("finished, 20 steps") == 2
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.*")} == before


def test_the_base_is_in_diffusers_layout_with_its_averaged_denoiser(whole: Path) -> None:
    vae, unet = (Base.open(whole / "base").load(part) for part in ("vae", "unet"))
    phase1 = weights.load_checkpoint(whole / "autoencoder" / "last.ckpt")["state_dict"]
    assert phase1.keys() == {f"vae.{name}" for name in vae.state_dict()} | {"mean_square"}
    assert vae.config.scaling_factor == pytest.approx(phase1["mean_square"].item() ** -0.5)
    assert vae.config.scaling_factor != 1
    phase2 = weights.load_checkpoint(whole / "denoiser" / "last.ckpt")
    assert phase2["state_dict"].keys() == {f"denoiser.{name}" for name in unet.state_dict()}
    averaged, updates = phase2["average"]["tensors"], phase2["average"]["updates"]
    assert updates == 20
    for name, tensor in unet.state_dict().items():
        assert torch.equal(tensor, averaged[name]), name
        if name.endswith("conv1.weight"):
            assert not torch.equal(tensor, phase2["state_dict"][f"denoiser.{name}"]), name
    scheduler = json.loads((whole / "base" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    for phase in ("autoencoder", "denoiser"):
        assert (whole / phase / "run.yaml").is_file()
        assert list((whole / phase).glob("events.out.tfevents.*")), "no TensorBoard log"


def test_more_steps_go_on(composed: Composed, base_options: Options, tmp_path: Path) -> None:
    train(composed("base", base_options(tmp_path, *steps(1, 1))))
    first = (tmp_path / "base" / "unet" / PART).read_bytes()
    train(composed("base", base_options(tmp_path, *steps(1, 2))))
    assert weights.load_checkpoint(tmp_path / "denoiser" / "last.ckpt")["global_step"] == 2
    assert (tmp_path / "base" / "unet" / PART).read_bytes() != first


def test_a_signal_in_the_first_phase_ends_the_run(
    whole: Path,
    composed: Composed,
    base_options: Options,
    tmp_path: Path,
    signal_at: Callable,
    assert_same_runs: Callable,
) -> None:
    """The part is that of the step it came at, and the second phase waits for a whole first one."""
    options = base_options(tmp_path, *steps(20, 20))
    with signal_at(7, 32, signal.SIGTERM), pytest.raises(SystemExit):
        train(composed("base", options))
    assert not (tmp_path / "denoiser").exists()
    stored = weights.load_checkpoint(tmp_path / "autoencoder" / "last.ckpt")
    part = Base.open(tmp_path / "base")
    assert part.config("vae")["scaling_factor"] == pytest.approx(stored["state_dict"]["mean_square"].item() ** -0.5)
    assert all(torch.equal(tensor, stored["state_dict"][f"vae.{name}"]) for name, tensor in part.tensors("vae").items())
    train(composed("base", options))
    assert_same_runs(whole, tmp_path)


def test_a_phase_that_is_stopped_early_is_no_ground_for_the_next(
    composed: Composed, base_options: Options, tmp_path: Path
) -> None:
    train(composed("base", base_options(tmp_path, *steps(100000, 1), "+trainer.max_time={seconds:1}")))
    assert (tmp_path / "base" / "vae" / PART).is_file()
    assert not (tmp_path / "denoiser").exists()


def test_a_phase_is_compared_with_itself_alone(
    whole: Path, composed: Composed, base_options: Options, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"denoiser/last\.ckpt is of another run: denoiser\.lr: 0\.0005 → 0\.1;"):
        train(composed("base", base_options(whole, *steps(20, 20), "denoiser.lr=0.1")))
    with pytest.raises(ValueError, match=r"autoencoder/last\.ckpt is of another run: autoencoder\.lr: 0\.001 → 0\.1;"):
        train(composed("base", base_options(whole, *steps(20, 20), "autoencoder.lr=0.1")))


def test_a_base_from_the_beginning_moves_both_phases_aside(
    composed: Composed, base_options: Options, tmp_path: Path
) -> None:
    for seed in (1, 2):
        train(composed("base", base_options(tmp_path / "run", *steps(1, 1), f"seed={seed}", "resume=never")))
    for words in (["denoiser.steps=0"], ["data.roots=[nowhere]"]):
        with pytest.raises(ValueError, match=r"denoiser\.steps must be at least 1, got 0|nowhere"):
            train(composed("base", base_options(tmp_path / "run", *steps(1, 1), "resume=never", *words)))
    assert not (tmp_path / "run.2").exists()
    for name, seed in (("run.1", 1), ("run", 2)):
        for phase in ("autoencoder", "denoiser"):
            record = weights.load_checkpoint(tmp_path / name / phase / "last.ckpt")["run"]
            assert record["configuration"]["seed"] == seed
    with pytest.raises(ValueError, match=r"ckpt_path=a\.ckpt can't be heeded here: a base has two phases"):
        train(composed("base", base_options(tmp_path / "other", *steps(1, 1), "ckpt_path=a.ckpt")))


def test_a_trial_writes_nothing(composed: Composed, base_options: Options, tiny_base: Path, tmp_path: Path) -> None:
    dry = "+trainer.fast_dev_run=true"
    train(composed("base", base_options(tmp_path / "run", *steps(2, 2), dry)))
    train(composed("base", base_options(tmp_path / "run", *steps(2, 2), dry, f"autoencoder.given={tiny_base / 'vae'}")))
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_that_a_denoiser_learned_on_is_kept(
    whole: Path, composed: Composed, base_options: Options, tiny_base: Path
) -> None:
    before = {path: path.read_bytes() for path in (whole / "base").rglob("*.*")}
    for word in ("autoencoder.steps=21", f"autoencoder.given={tiny_base / 'vae'}"):
        with pytest.raises(ValueError, match=r"denoiser was trained on the autoencoder in .*base, which this would"):
            train(composed("base", base_options(whole, *steps(20, 20), word)))
    assert {path: path.read_bytes() for path in (whole / "base").rglob("*.*")} == before
    train(composed("base", base_options(whole, *steps(20, 20), f"autoencoder.given={whole / 'base' / 'vae'}")))


@pytest.mark.parametrize("phase", ["autoencoder", "denoiser"])
def test_a_loss_that_is_not_a_number_stops_the_run(
    composed: Composed, base_options: Options, tmp_path: Path, phase: str
) -> None:
    cfg = composed("base", base_options(tmp_path, *steps(5, 5), f"{phase}.lr=1e30"))
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d: take a lower learning rate"):
        train(cfg)


def test_the_perceptual_network_stays_out_of_checkpoints(
    composed: Composed, base_options: Options, tmp_path: Path
) -> None:
    options = base_options(tmp_path, *steps(1, 1), "autoencoder.perceptual=alex")
    try:
        train(composed("base", options))
    except Unavailable as reason:
        pytest.skip(str(reason))
    names = weights.load_checkpoint(tmp_path / "autoencoder" / "last.ckpt")["state_dict"]
    assert not any(name.startswith("perceptual") for name in names)
    shutil.rmtree(tmp_path / "denoiser")
    train(composed("base", [*options, "autoencoder.steps=2"]))


def test_what_must_be_given_is_named(composed: Composed) -> None:
    with pytest.raises(SystemExit, match=r"^error: data\.roots is missing: add data\.roots=… to the command$"):
        command("stage2.base.phases:train", composed("base", []))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("size=large", "unknown model size 'large'"),
        ("+overrides.unet.width=3", "unet has no 'width' to override"),
        ("+overrides.adapter.width=3", "nothing to override in 'adapter' here; there are: unet, vae, scheduler"),
        ("data.roots=/none", "^/none: no such folder of photographs"),
        ("autoencoder.perceptual=squeeze", "no LPIPS on 'squeeze'"),
        ("denoiser.ema=1", r"EMA decay must be in \[0, 1\)"),
    ],
)
def test_wrong_settings_are_one_line(
    composed: Composed, base_options: Options, tmp_path: Path, option: str, message: str
) -> None:
    cfg = composed("base", base_options(tmp_path, *steps(1, 1), option))
    with pytest.raises(ValueError, match=message):
        train(cfg)
    with pytest.raises(SystemExit, match=r"^error: .+$") as stopped:
        command("stage2.base.phases:train", cfg)
    assert "\n" not in str(stopped.value)


def test_a_rectified_flow_on_a_given_autoencoder(
    composed: Composed, photos: Path, tiny_base: Path, tmp_path: Path, power_cut: Callable, assert_same_runs: Callable
) -> None:
    tiny = (
        "+overrides.transformer={in_channels:4,out_channels:4,num_layers:2,attention_head_dim:8,num_attention_heads:2,"
        "caption_projection_dim:16,pos_embed_max_size:8}"
    )
    quiet = ["trainer=cpu", "trainer.enable_progress_bar=false", "data.workers=0", "checkpoint_every=2"]
    words = [*quiet, "size=dit4sr_small", tiny, f"autoencoder.given={tiny_base / 'vae'}", f"data.roots=[{photos}]"]
    words += ["denoiser.steps=4", "denoiser.crop=48", "denoiser.batch=2", "denoiser.warmup=2"]
    whole, parts = (composed("base", [*words, f"output={tmp_path / name}"]) for name in ("whole", "parts"))
    base = train(whole)
    with power_cut(3, 48):
        train(parts)
    train(parts)
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    assert not (tmp_path / "whole" / "autoencoder").exists()
    given, kept = (weights.load(folder / "vae" / PART).tensors for folder in (tiny_base, base))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in given.items())
    transformer = Base.open(base).load("transformer")
    assert transformer.proj_out.weight.any(), "it starts at zero, so it was trained"
    scheduler = json.loads((base / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["_class_name"] == "FlowMatchEulerDiscreteScheduler"


def test_what_a_base_is_told_is_nothing() -> None:

    x_t, t = torch.randn(2, 8, 16, 16), torch.tensor([900.0, 20.5])
    torch.manual_seed(0)
    transformer = stock({**SMALL.transformer, "num_layers": 1})
    tokens, pooled = torch.zeros(2, 1, 32), torch.zeros(2, 32)
    with torch.no_grad():
        expected = transformer(x_t, tokens, pooled, t, return_dict=False)[0]
        assert torch.equal(unconditional(transformer, x_t, t), expected)


def test_the_small_dit_is_small() -> None:
    found = describe("dit4sr_small")
    assert 2 * (found["total"] + found["vae"]) < 13.5e6, "bytes in float16"

"""Each kind of run on "cuda": no tensor is left on the CPU or in another dtype, whatever is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils._pytree import tree_map_only

from deedsr import weights
from deedsr.degradation import Recipe, apply, pipeline
from deedsr.degradation.recipe import RECIPES
from deedsr.models.deedsr.model import DeeDSR
from deedsr.training.fake_cuda.device import fake_cuda
from deedsr.training.saving import WholeCheckpoints
from stage1 import from_config as stage1
from stage2 import from_config as stage2
from stage2.base.phases import train as train_base
from stage2.cache.writing import make_cache
from stage2.distill.student import train as distill
from stage2.module import RestorationRun

Composed = Callable[..., DictConfig]
BF16 = "trainer.precision=bf16-mixed"
PLAIN = ["objective.fidelity=null", "objective.rollout=0"]
LARGE = [BF16, "frozen_dtype=bfloat16", "recompute=true", "channels_last=true"]
"""As the large experiments have it."""


@pytest.fixture
def files(model_folder: Callable[[int], Path], tiny_encoder: Path) -> list[str]:
    """Those of a model of two levels, one of each kind: what is not there takes as long as it has operations."""
    own = "{adapter:{in_channels:4,width:32,multipliers:[1,1],attention:[false,true],maps:32,vector:16},sft_hidden:8}"
    return [f"+model.overrides={own}", f"model.base={model_folder(2) / 'base'}", f"model.encoder={tiny_encoder}"]


def finished(output: Path, steps: int) -> dict[str, Any]:
    """The checkpoint of a run, which has taken its steps."""
    checkpoint = weights.load_checkpoint(output / "last.ckpt")
    assert checkpoint["global_step"] == steps
    return checkpoint


@pytest.mark.parametrize("words", [[], [BF16, "shuffle=true", "positives=same_image", "optimizer=adamw"]], ids=str)
def test_stage_1(composed: Composed, tmp_path: Path, words: list[str]) -> None:
    with fake_cuda() as gpu:
        stage1.train(composed("stage1", "steps=2", *words))
    assert finished(tmp_path / "run", 2)["optimizer_states"]
    assert gpu.launches["convolution_backward"] > 0


OPTIMIZERS = ["fused", "muon", "sgd", *["8bit"] * (find_spec("bitsandbytes") is not None)]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_stage_2_with_each_optimizer(composed: Composed, tmp_path: Path, files: list[str], kind: str) -> None:
    """But AdamW, with which the run below starts that goes on."""
    more = LARGE if kind == "fused" else []
    with fake_cuda() as gpu:
        stage2.train(composed("stage2", "steps=1", f"optimizer.kind={kind}", "pictures=null", *PLAIN, *files, *more))
    assert finished(tmp_path / "run", 1)["average"]["updates"] == 1
    assert gpu.launches["convolution_backward"] > 0


def test_stage_2_with_all_that_can_be_asked_for(
    composed: Composed, tmp_path: Path, files: list[str], make_pairs: Callable, needs_weights: Callable
) -> None:
    needs_weights("lpips")
    needs_weights("dists")
    pairs = make_pairs(tmp_path / "pairs", 2)
    more = ["objective.rollout=0.999", "objective.fidelity.structure=1", "vector.dropout=0.1", "steps=2"]
    more = [f"++{word}" if "structure" in word else word for word in more]
    watched = [f"validation.data={pairs}", "validation.every=1", "checkpoint.monitor=val/psnr", "checkpoint.top=1"]
    watched += ["validation.images=1", "validation.metrics=[psnr]", "trainer.accumulate_grad_batches=2"]
    with fake_cuda():
        stage2.train(composed("stage2", f"data.pairs=[{pairs}]", *more, *watched, *files, *LARGE))
    assert finished(tmp_path / "run", 2)["callbacks"]["Validation"]["rows"]
    assert (tmp_path / "run" / "best" / "adapter.safetensors").is_file()


LARGE_DIT = ["experiment=dit4sr_sd35", BF16]


@pytest.mark.parametrize("words", [["experiment=dit4sr_small"], LARGE_DIT, [*LARGE_DIT, "recompute=true"]], ids=str)
def test_dit4sr(composed: Composed, tmp_path: Path, tiny_dit_base: Path, words: list[str]) -> None:
    more = [f"model.base={tiny_dit_base}", "model.texts=null", "objective.fidelity=null", "objective.rollout=0"]
    with fake_cuda() as gpu:
        stage2.train(composed("stage2", "steps=1", "pictures=null", *words, *more))
    finished(tmp_path / "run", 1)
    assert (
        gpu.launches["_scaled_dot_product_flash_attention_backward"]
        or gpu.launches["_scaled_dot_product_efficient_attention_backward"]
    )


def test_stage_2_from_a_cache(composed: Composed, tmp_path: Path, files: list[str]) -> None:
    words = [f"cache={tmp_path / 'cache'}", *PLAIN, *files, BF16]
    with fake_cuda():
        make_cache(composed("cache", "batches=1", "shard=1", *words))
        stage2.train(composed("stage2", "steps=1", "pictures=null", *words))
    finished(tmp_path / "run", 1)


def test_distilling_with_a_critic_of_pixels(
    composed: Composed, tmp_path: Path, model_folder: Callable[[int], Path], needs_weights: Callable
) -> None:
    """That of latents is counted in test_counts.py."""
    needs_weights("lpips")
    needs_weights("dists")
    more = ["model=init", f"init={model_folder(2)}", "adversary.width=4", "pictures=null"]
    with fake_cuda():
        distill(composed("distill", "steps=1", "adversary.of=pixels", *more, *LARGE))
    assert any(name.startswith("adversary.") for name in finished(tmp_path / "run", 1)["state_dict"])


@pytest.mark.parametrize("words", [[], [BF16]], ids=str)
def test_training_a_base(composed: Composed, tmp_path: Path, needs_weights: Callable, words: list[str]) -> None:
    needs_weights("lpips")
    with fake_cuda():
        train_base(composed("base", *words))
    for phase in ("autoencoder", "denoiser"):
        finished(tmp_path / "run" / phase, 1)


def test_going_on_needs_no_more_memory_than_is_held_then(
    composed: Composed, tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the checkpoint is read onto the GPU, which the last of the three parts does."""
    words = ["pictures=null", "optimizer.kind=adamw", *PLAIN, *files]
    with fake_cuda() as gpu:
        stage2.train(composed("stage2", "steps=1", *words))
    assert finished(tmp_path / "run", 1)["average"]["updates"] == 1
    assert gpu.launches["convolution_backward"] > 0
    seen, on_start, plain = [], RestorationRun.on_train_start, WholeCheckpoints.load_checkpoint

    def look(run: RestorationRun) -> None:
        seen.append(gpu.memory.peak_allocated / gpu.memory.allocated)
        on_start(run)

    monkeypatch.setattr(RestorationRun, "on_train_start", look)
    for steps, load in ((2, plain), (3, lambda *args, **words: on_gpu(plain(*args, **words)))):
        monkeypatch.setattr(WholeCheckpoints, "load_checkpoint", load)
        with fake_cuda() as gpu:
            stage2.train(composed("stage2", f"steps={steps}", "resume=changed", *words))
        finished(tmp_path / "run", steps)
    as_it_is, planted = seen
    assert as_it_is <= 1.2 < planted


def on_gpu(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return tree_map_only(Tensor, lambda tensor: tensor.to("cuda") if tensor.ndim else tensor, checkpoint)


@pytest.mark.parametrize("name", RECIPES)
def test_degrading_and_what_would_be_forgotten_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Recipe.named(name).sample(torch.Generator().manual_seed(0), 8)
    with fake_cuda() as gpu:
        hr = torch.zeros(8, 3, 64, 64, device="cuda")
        lr = apply(hr, drawn)
        assert (lr.shape, lr.device.type, lr.dtype) == ((8, 3, 16, 16), "cuda", torch.float32)
        assert not gpu.waits
        monkeypatch.setattr(pipeline, "upload", lambda tensor, device: tensor)
        with pytest.raises(RuntimeError):
            apply(hr, drawn)


SLIPS = {"a tensor of the CPU": Tensor.cpu, "another dtype": Tensor.bfloat16}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_planted_slip_is_caught(
    composed: Composed, files: list[str], monkeypatch: pytest.MonkeyPatch, slip: str
) -> None:
    denoise = DeeDSR.denoise
    monkeypatch.setattr(DeeDSR, "denoise", lambda model, x_t, *known: denoise(model, SLIPS[slip](x_t), *known))
    with fake_cuda(), pytest.raises(RuntimeError, match="the same"):
        stage2.train(composed("stage2", "steps=1", "pictures=null", *PLAIN, *files))

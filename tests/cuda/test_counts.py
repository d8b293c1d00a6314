"""What keeps a GPU at work: how many kernels a step and a tile launch, and how often the CPU waits for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deedsr.models.deedsr.model import DeeDSR
from deedsr.models.sd3.dit4sr import SMALL, random_model
from deedsr.options import Options
from deedsr.restorer import Restorer
from deedsr.training.fake_cuda.device import fake_cuda
from deedsr.training.fake_cuda.mode import FakeCuda
from deedsr.training.run import Run
from stage1 import from_config as stage1
from stage2 import from_config as stage2
from stage2.distill.student import train as distill

QUIET = ["steps=3", "checkpoint_every=1000", "trainer.log_every_n_steps=1000"]
STAGE_2 = ["pictures=null", "objective.fidelity=null", "objective.rollout=0"]
OWN = "{adapter:{in_channels:4,width:32,multipliers:[1,1,1],maps:32,vector:16},sft_hidden:8}"


def counted(gpu: FakeCuda) -> tuple[int, int]:
    """Launches, and waits: uploads that are waited for among them."""
    return sum(gpu.launches.values()), sum(gpu.waits.values()) + sum(gpu.uploads.values())


def second_step(monkeypatch: pytest.MonkeyPatch, train: Callable, cfg: Any) -> tuple[int, int]:
    """What a run counts from the start of its second step to that of its third."""
    seen, start = [], Run.on_train_batch_start
    with fake_cuda() as gpu:

        def look(*args: Any) -> None:
            start(*args)
            seen.append(counted(gpu))

        monkeypatch.setattr(Run, "on_train_batch_start", look)
        train(cfg)
    (before, waited), (launched, waits) = seen[-2:]
    return launched - before, waits - waited


def test_a_step_of_stage_1(composed: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    launches, waits = second_step(monkeypatch, stage1.train, composed("stage1", *QUIET))
    assert launches <= 1600
    assert waits == 0


def test_a_step_of_stage_2(
    composed: Callable, tiny_base: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*STAGE_2, f"+model.overrides={OWN}", f"model.base={tiny_base}", f"model.encoder={tiny_encoder}"]
    launches, waits = second_step(monkeypatch, stage2.train, composed("stage2", *QUIET, *words))
    assert launches <= 4700
    assert waits == 0


def test_a_step_of_distilling(
    composed: Callable, tiny_model_folder: Path, needs_weights: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_weights("lpips")
    needs_weights("dists")
    words = ["pictures=null", "adversary.width=4", "model=init", f"init={tiny_model_folder}"]
    launches, waits = second_step(monkeypatch, distill, composed("distill", *QUIET, *words))
    assert launches <= 7700
    assert waits == 0


def test_a_call_of_dit4sr() -> None:
    """Of two pictures; norms of queries and keys are a kernel each."""
    with fake_cuda() as gpu:
        model = random_model(SMALL).to("cuda")
        z_lr, t = torch.zeros(2, model.channels, 16, 16, device="cuda"), torch.full((2,), 500.0, device="cuda")
        with torch.inference_mode():
            condition = model.condition(z_lr, z_lr)
            launched, waited = counted(gpu)
            model.denoise(z_lr, t, condition)
        launches, waits = counted(gpu)
    assert launches - launched <= 460
    assert waits == waited


def test_a_restored_tile(tiny_model: DeeDSR) -> None:
    """Sixteen tiles at once, two steps: a wait after each phase, since NaN is refused, and one at the end."""
    lr = torch.rand(1, 3, 96, 96)
    with fake_cuda() as gpu:
        restorer = Restorer(tiny_model, Options(tile=128, steps=2), device=torch.device("cuda"))
        side = 4 * 96 // tiny_model.factor
        assert len(restorer.layout.tiles(side, side)) == 16
        launched, waited = counted(gpu)
        restorer.restore(lr)
        launches, waits = counted(gpu)
    assert (launches - launched) / 16 <= 270
    assert waits - waited <= 4

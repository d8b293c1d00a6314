"""What reaches the optimizer: accumulated and clipped gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from deedsr.training.fit import fit
from deedsr.training.photographs import Photographs
from stage2.from_config import restoration_run

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]


class Gradients(pl.Callback):
    """The gradient of each step, as one vector: `before` clipping, and what was left `after` the step."""

    def __init__(self) -> None:
        self.before: list[torch.Tensor] = []
        self.after: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, run: pl.LightningModule, optimizer: object) -> None:
        self.before.append(vector(run))

    def on_train_batch_end(self, trainer: pl.Trainer, run: pl.LightningModule, *_: object) -> None:
        self.after.append(vector(run))


def vector(run: pl.LightningModule) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for _, parameter in run.model.trainable()])


@pytest.fixture
def observed(composed: Composed, stage2_options: Options, tmp_path: Path) -> Callable[..., Gradients]:
    def run(*words: str) -> Gradients:
        still = ["optimizer.lr=0", "objective.rollout=0"]
        cfg = composed("stage2", stage2_options(tmp_path / str(len(list(tmp_path.iterdir()))), *still, *words))
        seen = Gradients()
        crops = Photographs(crop=cfg.crop, batch=cfg.batch, seed=cfg.seed, **cfg.data)
        fit(cfg, restoration_run(cfg), crops, Path(cfg.output), cfg.steps, [seen])
        return seen

    return run


def test_accumulated_batches_give_their_mean_gradient(observed: Callable[..., Gradients]) -> None:
    clip = "trainer.gradient_clip_val=null"
    each = observed("steps=3", clip).before
    (together,) = observed("steps=1", "trainer.accumulate_grad_batches=3", clip).before
    assert not torch.allclose(each[0], each[1], rtol=0.1)
    assert torch.allclose(together, torch.stack(each).mean(0), atol=1e-7)


def test_gradients_are_clipped_by_their_norm(observed: Callable[..., Gradients]) -> None:
    seen = observed("steps=1", "trainer.gradient_clip_val=1e-3")
    assert seen.before[0].norm() > 0.01
    assert seen.after[0].norm() == pytest.approx(1e-3, rel=1e-3)
    assert torch.allclose(seen.after[0], seen.before[0] * 1e-3 / seen.before[0].norm(), atol=1e-8)

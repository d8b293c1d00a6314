"""The optimizer and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from timm.optim import Muon as TimmMuon
from timm.optim import muon as timm_muon
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

KINDS = ("adamw", "fused", "8bit", "muon", "sgd")
SCHEDULES = ("cosine", "constant", "milestones")
UNITS = ("steps", "epochs")

Parameters = Sequence[nn.Parameter] | Sequence[dict[str, Any]]
"""Of an optimizer: parameters, or groups of them with options of their own."""


@dataclass(frozen=True)
class Schedule:
    """The factor of the learning rate: a linear warm-up over `warmup` steps, times what `kind` says.

    kind: ``constant``; ``cosine``, down to zero at `steps`; ``milestones``, times `gamma` at each of `milestones`,
    which count steps, or epochs of `epoch` steps. Raises ValueError for an unknown word.
    """

    kind: str
    warmup: int
    steps: int
    milestones: Sequence[float] = ()
    unit: str = "steps"
    gamma: float = 0.1
    epoch: int = 1

    def __post_init__(self) -> None:
        known("schedule", self.kind, SCHEDULES)
        known("unit", self.unit, UNITS)

    def __call__(self, step: int) -> float:
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        if self.kind == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0)))
        length = self.epoch if self.unit == "epochs" else 1
        passed = sum(step >= milestone * length for milestone in self.milestones)
        return rise * self.gamma**passed if self.kind == "milestones" else rise


class Course(LambdaLR):
    """Gives an optimizer's groups their rates: each its own, times `factor` of the step.

    What the groups were made with, rates and all other options, holds whatever state is loaded into either: of a
    checkpoint only the steps taken count, so that a run that goes on with other numbers has them.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        super().__init__(optimizer, lambda step: factor(step))  # of an object it would store, and restore, the numbers
        self.made_with = [{**group, "params": None} for group in optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "made_with"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict({**state, "base_lrs": self.base_lrs})
        numbers = zip(self.optimizer.param_groups, self.made_with, self.base_lrs, self.lr_lambdas, strict=True)
        for group, options, rate, factor in numbers:
            group.update({**options, "params": group["params"], "lr": rate * factor(self.last_epoch)})
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


orthogonal = timm_muon.zeropower_via_newtonschulz


def _orthogonal(matrix: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """timm's Newton-Schulz iteration, in the dtype that suits the matrix's device."""
    dtype = torch.float32 if matrix.device.type == "cpu" else torch.bfloat16
    return orthogonal(matrix, *arguments, dtype=dtype, **options)


class Muon(TimmMuon):
    """timm's, which makes steps orthogonal in float32 on a CPU.

    timm does so in bfloat16 everywhere. Where a processor emulates that, it takes twenty times as long, and longer than
    all else of a step with a small model.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with patch.object(timm_muon, orthogonal.__name__, _orthogonal):
            return super().step(closure)


def known(option: str, word: str, words: Sequence[str]) -> None:
    """Raise ValueError where `word` is none of `words`."""
    if word not in words:
        raise ValueError(f"unknown optimizer.{option} {word!r}; there are: {', '.join(words)}")


def scheduled(
    parameters: Parameters,
    lr: float,
    warmup: int,
    steps: int,
    weight_decay: float = 0.01,
    schedule: str = "cosine",
    kind: str = "adamw",
    momentum: float = 0.9,
    **course: Any,
) -> dict[str, Any]:
    """An optimizer and the course of its learning rate: what a LightningModule's `configure_optimizers` returns.

    kind: ``adamw``; ``fused``, one kernel for all parameters; ``8bit`` with a quarter of the memory, by bitsandbytes;
    ``muon``, orthogonal steps of AdamW's size for matrices and convolutions (arXiv 2502.16982), AdamW's with Nesterov
    momentum for the rest; ``sgd`` with `momentum`. schedule, warmup, steps and `course`: see `Schedule`.
    Raises ValueError for an unknown word, and without bitsandbytes for ``8bit``.
    """
    known("kind", kind, KINDS)
    factor = Schedule(schedule, warmup, steps, **course)
    optimizer = _optimizer(kind, parameters, lr, weight_decay, momentum)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": Course(optimizer, factor), "interval": "step"}}


def _optimizer(kind: str, parameters: Parameters, lr: float, weight_decay: float, momentum: float) -> Optimizer:
    if kind == "sgd":
        return SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    if kind == "muon":
        return Muon(parameters, lr=lr, weight_decay=weight_decay, nesterov=True)
    if kind != "8bit":
        optimizer = AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=kind == "fused" or None)
        optimizer._step_supports_amp_scaling = False  # Lightning clips nothing for optimizers that scale gradients
        return optimizer
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError(
            "optimizer.kind=8bit needs bitsandbytes: run `pip install bitsandbytes`, or take optimizer.kind=fused"
        ) from None
    return AdamW8bit(parameters, lr=lr, weight_decay=weight_decay)

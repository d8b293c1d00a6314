"""The optimizer and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from timm.optim import Muon
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

KINDS = ("adamw", "fused", "8bit", "muon")
SCHEDULES = ("cosine", "constant")


Parameters = Sequence[nn.Parameter] | Sequence[dict[str, Any]]
"""Of an optimizer: parameters, or groups of them with options of their own."""


def scheduled(
    parameters: Parameters,
    lr: float,
    warmup: int,
    steps: int,
    weight_decay: float = 0.01,
    schedule: str = "cosine",
    kind: str = "adamw",
) -> dict:
    """An optimizer with linear warm-up over `warmup` steps, then ``constant`` or a ``cosine`` down to zero at `steps`.

    kind: ``adamw``; ``fused``, one kernel for all parameters; ``8bit`` with a quarter of the memory, by bitsandbytes;
    ``muon``, orthogonal steps of AdamW's size for matrices and convolutions (arXiv 2502.16982), AdamW's with Nesterov
    momentum for the rest.
    Returns what a LightningModule's `configure_optimizers` does. Raises ValueError for an unknown word, and without
    bitsandbytes for ``8bit``.
    """
    for option, word, known in (("schedule", schedule, SCHEDULES), ("kind", kind, KINDS)):
        if word not in known:
            raise ValueError(f"unknown optimizer.{option} {word!r}; there are: {', '.join(known)}")
    optimizer = _optimizer(kind, parameters, lr, weight_decay)

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(warmup, 1))
        return rise if schedule == "constant" else rise * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def _optimizer(kind: str, parameters: Parameters, lr: float, weight_decay: float) -> Optimizer:
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

"""InfoNCE against a queue of negatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Contrast:
    """The InfoNCE loss, and the share of queries whose positive is nearer than every negative (no gradient)."""

    loss: Tensor
    accuracy: Tensor


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.07) -> Contrast:
    """Mean over the batch of −log(exp(q·k/τ) / (exp(q·k/τ) + Σ_j exp(q·n_j/τ))) (MoCo, arXiv 1911.05722, eq. 1).

    The negatives are the queue alone, never the rest of the batch. If all vectors are the same the loss is log(1 + K).

    Args:
        query: (B, D), unit length.
        key: (B, D), unit length; row i is the positive of query i.
        queue: (K, D), unit length: the negatives.
        temperature: τ > 0.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, queue = query.float(), key.float(), queue.float()
        positive = (query * key).sum(1, keepdim=True)  # (B, 1)
        logits = torch.cat([positive, query @ queue.T], 1) / temperature  # (B, 1 + K)
        target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        nearest = logits.detach().argmax(1)
        return Contrast(F.cross_entropy(logits, target), (nearest == 0).float().mean())

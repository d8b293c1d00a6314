"""Momentum contrast: a slowly following copy of the encoder makes the keys, and a queue remembers them as negatives."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from deedsr.devices import upload
from deedsr.models.deedsr.encoder import DegradationEncoder


@dataclass(frozen=True)
class Contrast:
    """The InfoNCE loss, and the share of queries whose positive is nearer than every negative (no gradient)."""

    loss: Tensor
    accuracy: Tensor


def info_nce(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.07, neighbours: bool = False
) -> Contrast:
    """Mean over the batch of −log(exp(q·k/τ) / (exp(q·k/τ) + Σ_j exp(q·n_j/τ))) (MoCo, arXiv 1911.05722, eq. 1).

    The negatives are the queue and, where `neighbours`, the keys of the batch's other rows; if all vectors are the same
    the loss is the logarithm of their number plus 1.

    query, key: (B, D); row i of one is the positive of row i of the other. queue: (K, D). All rows have unit length.
    temperature: τ > 0.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, queue = query.float(), key.float(), queue.float()
        positive = (query * key).sum(1, keepdim=True)  # (B, 1)
        negative = [query @ queue.T]
        if neighbours:
            own = torch.eye(len(query), dtype=torch.bool, device=query.device)
            negative.append((query @ key.T).masked_fill(own, -torch.inf))
        logits = torch.cat([positive, *negative], 1) / temperature  # (B, 1 + K), or (B, 1 + K + B)
        target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        nearest = logits.detach().argmax(1)
        return Contrast(F.cross_entropy(logits, target), (nearest == 0).float().mean())


def rank() -> int:
    """This process's rank; 0 where nothing is distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks, in the order of the ranks: (B, ...) -> (world * B, ...). No gradient goes through it."""
    if not (dist.is_available() and dist.is_initialized()):
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def projection(dimension: int) -> nn.Sequential:
    """The head that only the training has: dimension - ReLU - dimension -> dimension."""
    return nn.Sequential(nn.Linear(dimension, dimension), nn.ReLU(inplace=True), nn.Linear(dimension, dimension))


def unit(head: nn.Module, vectors: Tensor) -> Tensor:
    """(B, D) -> what is compared: (B, D), unit length, float32."""
    return F.normalize(head(vectors).float(), dim=1)


class MomentumContrast(nn.Module):
    """MoCo (arXiv 1911.05722, algorithm 1) around a `DegradationEncoder`.

    The queue and its pointer are buffers, so a checkpoint holds them. On several ranks the keys of all ranks go into
    every rank's queue, which therefore stay equal.

    encoder: the network to train; its copy makes the keys. queue: number of negatives K. momentum: share of the key
    network that stays at each step. temperature: τ of the loss. groups: BatchNorm takes its statistics over this many
    parts of a rank's batch, and the keys are divided otherwise than the queries where a `shuffle` is given to `forward`
    (shuffled BN; on one device as well). neighbours: see `info_nce`; with positives of the same degradation, neighbours
    share pictures, so that it teaches not to go by them. Raises ValueError for a number out of its range.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(
        self,
        encoder: DegradationEncoder,
        queue: int = 24576,
        momentum: float = 0.999,
        temperature: float = 0.07,
        groups: int = 1,
        neighbours: bool = False,
    ) -> None:
        super().__init__()
        if queue < 1 or groups < 1:
            raise ValueError(f"queue and groups must be at least 1, got {queue} and {groups}")
        if not 0 <= momentum < 1 or temperature <= 0:
            raise ValueError(f"momentum must be in [0, 1) and temperature above 0, got {momentum} and {temperature}")
        self.momentum, self.temperature, self.groups = momentum, temperature, groups
        self.neighbours = neighbours
        self.encoder = encoder
        self.head = projection(encoder.dimension)
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(queue, encoder.dimension), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the key network towards the query network: θ_k ← m θ_k + (1 − m) θ_q (eq. 2)."""
        for own, key in ((self.encoder, self.key_encoder), (self.head, self.key_head)):
            torch._foreach_lerp_(list(key.parameters()), list(own.parameters()), 1 - self.momentum)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Writes `keys` (N, D), already of all ranks, over the oldest ones."""
        size = len(self.queue)
        keys = keys[-size:].to(self.queue.dtype)
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.queue[places] = keys
        self.pointer.copy_((self.pointer + len(keys)) % size)

    def _vectors(self, encoder: nn.Module, patches: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, D)."""
        return torch.cat([encoder(part) for part in patches.chunk(self.groups)])

    @torch.no_grad()
    def _keys(self, patches: Tensor, shuffle: torch.Generator | None) -> Tensor:
        """Keys of all ranks' patches, in order: (B, 3, h, w) -> (world * B, D)."""
        if shuffle is None:
            return gather(unit(self.key_head, self._vectors(self.key_encoder, patches)))
        everyone = gather(patches)
        order = upload(torch.randperm(len(everyone), generator=shuffle), patches.device)
        start = rank() * len(patches)
        vectors = self._vectors(self.key_encoder, everyone[order[start : start + len(patches)]])
        return gather(unit(self.key_head, vectors))[order.argsort()]

    def forward(self, query: Tensor, key: Tensor, shuffle: torch.Generator | None = None) -> tuple[Contrast, Tensor]:
        """One training step, but for the optimizer: moves the key network, compares, and enqueues the keys.

        query, key: LR patches (B, 3, h, w) in [0, 1]; row i of both has one degradation. shuffle: a CPU generator in
        the same state on all ranks: exchanges the keys' patches between ranks and groups before BatchNorm sees them
        (shuffled BN, section 3.3); None: they stay where they are. Returns the comparison, and the queries' degradation
        vectors (B, D), before the head.
        """
        self.follow()
        keys = self._keys(key, shuffle)
        start = rank() * len(query)
        vectors = self._vectors(self.encoder, query)
        own = keys[start : start + len(query)]
        contrast = info_nce(unit(self.head, vectors), own, self.queue.clone(), self.temperature, self.neighbours)
        self.enqueue(keys)
        return contrast, vectors

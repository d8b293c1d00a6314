"""Blocks of the adapter and of the injection (arXiv 2404.00661, stage 2), NCHW throughout."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS, EPSILON = 32, 1e-5


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """[cos, sin] of t · 10000^(−i/half), i < half = width/2: (B,) → (B, width), float32."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResBlock(nn.Module):
    """GroupNorm-SiLU-conv twice around an additive time embedding; `down` halves the resolution by average pooling.

    The last convolution starts at zero, so a fresh block is its skip.
    """

    def __init__(self, before: int, after: int, embedding: int, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.norm1 = nn.GroupNorm(GROUPS, before, EPSILON)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time = nn.Linear(embedding, after)
        self.norm2 = nn.GroupNorm(GROUPS, after, EPSILON)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = functional.silu(self.norm1(x))
        if self.down:
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        h = self.conv1(h) + self.time(functional.silu(embedding))[:, :, None, None]
        return self.skip(x) + self.conv2(functional.silu(self.norm2(h)))


class AttentionBlock(nn.Module):
    """Self-attention over all positions; q, k, v are laid out per head, and the projection out starts at zero."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels can't be split among {heads} attention heads")
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels, EPSILON)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x).flatten(2))  # (B, 3C, N), per head (q, k, v)
        split = qkv.view(batch, self.heads, 3, channels // self.heads, -1).permute(2, 0, 1, 4, 3)  # (3, B, h, N, d)
        q, k, v = split.contiguous()  # the fused kernels take no other layout
        h = functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(-1, -2).reshape(batch, channels, -1)).view(batch, channels, height, width)


@dataclass(frozen=True)
class Filters:
    """What a degradation-aware convolution makes of the vector: kernels (B, C, 3, 3), gates (B, C, 1, 1)."""

    kernels: Tensor
    gates: Tensor


FilterPair = tuple[Filters, Filters] | tuple[None, None]  # of a block; none where there is no vector


class DegradationConv(nn.Module):
    """DAconv(x, v) = Conv1x1(SiLU(depthwise3x3(x; K))) + 2·x·sigmoid(A2 SiLU(A1 v)), with K = W2 SiLU(W1 v)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // 32, 1)
        self.kernel = nn.Sequential(
            nn.Linear(channels, channels, bias=False), nn.SiLU(), nn.Linear(channels, 9 * channels, bias=False)
        )
        self.gate = nn.Sequential(
            nn.Linear(channels, squeezed, bias=False), nn.SiLU(), nn.Linear(squeezed, channels, bias=False)
        )
        self.conv = nn.Conv2d(channels, channels, 1)

    def filters(self, v: Tensor) -> Filters:
        """v: (B, C)."""
        batch, channels = v.shape
        return Filters(self.kernel(v).view(batch, channels, 3, 3), 2 * self.gate(v).sigmoid()[:, :, None, None])

    def forward(self, x: Tensor, filters: Filters) -> Tensor:
        batch, channels, height, width = x.shape
        rows = batch * channels
        kernels = filters.kernels.reshape(rows, 1, 3, 3)
        h = functional.conv2d(x.reshape(1, rows, height, width), kernels, padding=1, groups=rows)
        return self.conv(functional.silu(h.view(batch, channels, height, width))) + x * filters.gates


class Shift(nn.Module):
    """x + b: what DAconv(x, v) is at v = 0, where K = 0 and each gate is 1. Starts like a 1x1 convolution's bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = channels**-0.5
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, x: Tensor, _filters: None) -> Tensor:
        return x + self.bias[:, None, None]


class DegradationBlock(nn.Module):
    """x + Conv3(DAB(x, v)); DAB(x, v) = Conv3(SiLU(DAconv(SiLU(Conv3(SiLU(DAconv(x, v)))), v))), v = SiLU(W d).

    vector: length of d; 0 for a block without one, v = 0.
    """

    def __init__(self, channels: int, vector: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(vector, channels, bias=False) if vector else None
        kind = DegradationConv if vector else Shift
        self.first, self.second = kind(channels), kind(channels)
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))

    def filters(self, vector: Tensor) -> FilterPair:
        """All that depends on the degradation vector (B, D) alone, so once per image."""
        if self.squeeze is None:
            return None, None
        v = functional.silu(self.squeeze(vector))
        return self.first.filters(v), self.second.filters(v)

    def forward(self, x: Tensor, filters: FilterPair) -> Tensor:
        h = self.conv1(functional.silu(self.first(x, filters[0])))
        h = self.conv2(functional.silu(self.second(functional.silu(h), filters[1])))
        return x + self.conv3(h)


class Modulation(nn.Module):
    """SFT: γ, β = Conv3(ReLU(Conv3(F))); γ and β alone start at zero, so both get gradients from the first step.

    vector: length of a degradation vector that adds to γ and β by a linear map, which starts at zero; 0: none.
    """

    def __init__(self, maps: int, channels: int, hidden: int, vector: int = 0) -> None:
        super().__init__()
        self.vector = nn.Linear(vector, 2 * channels) if vector else None
        for parameter in () if self.vector is None else self.vector.parameters():
            nn.init.zeros_(parameter)
        self.shared = nn.Conv2d(maps, hidden, 3, padding=1)
        self.gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden, channels, 3, padding=1)
        for conv in (self.gamma, self.beta):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, h: Tensor, maps: Tensor, vector: Tensor | None = None) -> Tensor:
        """h·(1+γ) + β: (B, C, H, W), with `maps` F (B, maps, H, W) and, if it takes one, the `vector` (B, D)."""
        shared = functional.relu(self.shared(maps))
        gamma, beta = self.gamma(shared), self.beta(shared)
        if self.vector is not None and vector is not None:
            more = self.vector(vector)[:, :, None, None].chunk(2, 1)
            gamma, beta = gamma + more[0], beta + more[1]
        return h * (1 + gamma) + beta

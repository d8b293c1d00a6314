"""The adapter of DeeDSR: a time-aware half U-Net on the LR latent, steered by the degradation vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deedsr.models.deedsr.adapter_config import AdapterConfig
from deedsr.models.deedsr.blocks import AttentionBlock, DegradationBlock, FilterPair, ResBlock, timestep_embedding


@dataclass(frozen=True)
class Steering:
    """What the adapter hands to the U-Net. maps: (B, maps, H/2^i, W/2^i), fine to coarse. tokens: (B, N, context).

    What an ablation leaves out is an empty list and None.
    """

    maps: list[Tensor]
    tokens: Tensor | None


@dataclass(frozen=True)
class Told:
    """What the degradation vector makes, once per image. filters: dynamic kernels and gates, level by level.

    prompts: (B, N, context); for the modulations the vector itself (B, D). Where they have no part in it, None.
    """

    filters: list[FilterPair]
    prompts: Tensor | None = None
    vector: Tensor | None = None


class Level(nn.Module):
    """One resolution of the adapter: a ResBlock that goes down, if any, then ResBlock, degradation block, attention."""

    def __init__(self, before: int, channels: int, config: AdapterConfig, index: int) -> None:
        super().__init__()
        embedding = 4 * config.width
        self.down = ResBlock(before, before, embedding, down=True) if index else None
        self.res = ResBlock(before, channels, embedding)
        self.degradation = DegradationBlock(channels, 0 if config.degradation == "zero" else config.vector)
        self.attention = AttentionBlock(channels, config.heads) if config.attention[index] else None

    def forward(self, x: Tensor, embedding: Tensor, filters: FilterPair) -> Tensor:
        if self.down is not None:
            x = self.down(x, embedding)
        x = self.degradation(self.res(x, embedding), filters)
        return x if self.attention is None else self.attention(x)


class Adapter(nn.Module):
    """Simplified ControlNet with degradation-aware blocks (arXiv 2404.00661, stage 2): z_lr, t, vector → `Steering`.

    Nothing is copied from the base, there is no hint network and there are no zero convolutions. What an ablation does
    not use is not built. base_context: width of the context that the base was trained with.
    """

    def __init__(self, config: AdapterConfig, base_context: int) -> None:
        super().__init__()
        self.config = config
        widths, embedding = config.widths, 4 * config.width
        self.time = nn.Sequential(nn.Linear(config.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.null = nn.Parameter(torch.zeros(config.vector)) if config.null else None
        self.stem = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level(widths[max(index - 1, 0)], width, config, index) for index, width in enumerate(widths)
        )
        last, attends = widths[-1], config.cross_attention != "none"
        middle = [ResBlock(last, last, embedding), AttentionBlock(last, config.heads), ResBlock(last, last, embedding)]
        self.middle = nn.ModuleList(middle if attends else [])
        self.projection = nn.Linear(last, base_context) if config.cross_attention == "projected" else None
        self.prompts = nn.Linear(config.vector, config.prompts * last) if config.prompts else None
        # not of attention: one for each local-detail map
        self.heads = nn.ModuleList(
            ResBlock(width, config.maps, embedding) for width in (widths if config.modulation else ())
        )

    def told(self, vector: Tensor) -> Told:
        """What the degradation vectors (B, vector) make."""
        filters = [level.degradation.filters(vector) for level in self.levels]
        prompts = None if self.prompts is None else self.prompts(vector).unflatten(1, (self.config.prompts, -1))
        return Told(filters, prompts, vector if self.config.modulate else None)

    def forward(self, z_lr: Tensor, t: Tensor, told: Told) -> Steering:
        """z_lr: (B, C, H, W), H and W multiples of 2^(levels−1). t: (B,), integer time."""
        embedding = self.time(timestep_embedding(t, self.config.width).to(z_lr.dtype))
        x = self.stem(z_lr)
        features = []
        for level, filter_pair in zip(self.levels, told.filters, strict=True):
            x = level(x, embedding, filter_pair)
            features.append(x)
        maps = [head(feature, embedding) for head, feature in zip(self.heads, features, strict=False)]  # or no heads
        tokens = self._tokens(x, embedding) if self.middle else None
        if tokens is not None and told.prompts is not None:
            tokens = torch.cat([tokens, told.prompts], 1)
        return Steering(maps, tokens)

    def _tokens(self, x: Tensor, embedding: Tensor) -> Tensor:
        first, attention, last = self.middle
        x = last(attention(first(x, embedding)), embedding)
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, context)
        return tokens if self.projection is None else self.projection(tokens)

"""The LR stream of DiT4SR (arXiv 2503.23580): its attention and its injection, as parts of stock diffusers blocks.

Tokens of the noisy latent X and of the LR latent L travel as one sequence [X; L]; C are the tokens of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn
from torch.nn import functional

from deedsr.models.frozen import lora


@dataclass(frozen=True)
class LRStream:
    """What can be chosen of the LR stream; the defaults are the paper's.

    lr_attention: ``joint`` over [X; L; C], or ``self``: L over itself, [X; C] as in the base (ablation A).
    lr_residual: O_L = W(A_L + L̂) + b, or without L̂ (ablation B). injection: ``conv``, ``none`` (ablation C) or
    ``linear`` (ablation D). conv_scale: s of the injection; the authors sample with 1.2. qk_init: ``zero``, or
    ``clone`` of the noise stream's. legacy_noise_keys: L carries the keys of X, normalised twice, as the authors' first
    two checkpoints need it; there are no keys of its own then. lora_rank: of what is trained in addition to the
    projections of X, 0 for nothing. projection: q, k and v of L are ``folded``, a linear layer each, or ``stack``: a
    linear layer each on the frozen projection of X, as the authors train it. Both can say the same, and the optimizer
    moves them otherwise; folded is one product less, and its gradient is not bent by the frozen matrix. out_init: W
    starts as a ``clone`` of the noise stream's, or ``random``, as the authors' does, whose copy comes before the base
    is loaded.
    """

    lr_attention: str = "joint"
    lr_residual: bool = True
    injection: str = "conv"
    conv_scale: float = 1.0
    qk_init: str = "zero"
    legacy_noise_keys: bool = False
    lora_rank: int = 0
    projection: str = "folded"
    out_init: str = "clone"

    def __post_init__(self) -> None:
        for name, choices in (
            ("lr_attention", ("joint", "self")),
            ("injection", ("conv", "linear", "none")),
            ("qk_init", ("zero", "clone")),
            ("projection", ("folded", "stack")),
            ("out_init", ("clone", "random")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are: {', '.join(choices)}")
        lora.check(self.lora_rank)
        if self.lr_attention == "self" and self.injection == "none":
            raise ValueError("lr_attention=self with injection=none: nothing of the LR image would reach the output")
        if self.lr_attention == "self" and self.qk_init == "zero":
            raise ValueError("lr_attention=self needs qk_init=clone: alone, zero queries and zero keys never learn")


class Stream(NamedTuple):
    """Queries, keys and values of one stream, each (B, heads, tokens, width of a head)."""

    query: Tensor
    key: Tensor
    value: Tensor


def attend(streams: Sequence[Stream]) -> list[Tensor]:
    """Attention of all streams over all of them, without a mask: (B, tokens, width) for each."""
    query, key, value = (torch.cat(parts, dim=2) for parts in zip(*streams, strict=True))
    output = functional.scaled_dot_product_attention(query, key, value)
    parts = output.split([stream.query.shape[2] for stream in streams], dim=2)
    return [part.transpose(1, 2).flatten(2) for part in parts]


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _clone(ours: nn.Linear, theirs: nn.Linear) -> None:
    ours.weight.copy_(theirs.weight)
    ours.bias.copy_(theirs.bias)


def _same(layer: nn.Linear) -> None:
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)


def _heads(x: Tensor, heads: int, norm: RMSNorm | None = None) -> Tensor:
    """(B, N, D) → (B, h, N, d), each row of each head normalised."""
    return _normalised(norm, x.unflatten(-1, (heads, -1))).transpose(1, 2)


def _normalised(norm: RMSNorm | None, x: Tensor) -> Tensor:
    """What `norm` makes of x, by one kernel instead of seven; in float64 by itself, which takes the mean in float32."""
    if norm is None or x.dtype == torch.float64:
        return x if norm is None else norm(x)
    return functional.rms_norm(x, norm.dim, norm.weight, norm.eps)


def _halves(tokens: Tensor) -> list[Tensor]:
    """X and L of [X; L], in memory by themselves: a linear layer would copy them each time, and add its bias alone."""
    return [half.contiguous() for half in tokens.chunk(2, dim=1)]


class LRAttention(nn.Module):
    """Processor of a stock `Attention` that takes [X; L], and C where the attention has text; norms are the base's.

    answers: whether L is changed, or is only looked at.
    """

    def __init__(self, width: int, stream: LRStream, answers: bool = True) -> None:
        super().__init__()
        self.stream = stream
        self.to_q = nn.Linear(width, width) if answers else None
        self.to_k = None if stream.legacy_noise_keys else nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width) if answers else None

    @torch.no_grad()
    def reset(self, attention: Attention) -> None:
        """Initial values: zero, but for the projection out and what `qk_init` says; random ones of the global state."""
        stacked = self.stream.projection == "stack"
        for ours, theirs in ((self.to_q, attention.to_q), (self.to_k, attention.to_k), (self.to_v, None)):
            if ours is None:
                continue
            if theirs is not None and self.stream.qk_init == "clone":
                _same(ours) if stacked else _clone(ours, theirs)
            else:
                _zero(ours)
        if self.to_out is not None and self.stream.out_init == "clone":
            _clone(self.to_out, attention.to_out[0])
        elif self.to_out is not None:
            self.to_out.reset_parameters()

    def forward(
        self,
        attention: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """[X; L] (B, 2N, D) and C (B, T, D) after AdaLN → the same after attention; without C, [X; L] alone."""
        x, lr = _halves(hidden_states)
        noise = _noise(attention, x)
        low = self._project(attention, lr, noise.key)
        text = [] if encoder_hidden_states is None else [_text(attention, encoder_hidden_states)]
        if self.stream.lr_attention == "joint":
            a_x, a_lr, *a_text = attend([noise, low, *text])
        else:
            a_x, *a_text = attend([noise, *text])
            (a_lr,) = attend([low])
        output = torch.cat([attention.to_out[0](a_x), self._out(a_lr, lr)], dim=1)
        if not a_text:
            return output
        return output, a_text[0] if attention.context_pre_only else attention.to_add_out(a_text[0])

    def _project(self, attention: Attention, lr: Tensor, noise_key: Tensor) -> Stream:
        def heads(ours: nn.Linear, frozen: nn.Linear, norm: RMSNorm | None = None) -> Tensor:
            return _heads(ours(frozen(lr) if self.stream.projection == "stack" else lr), attention.heads, norm)

        value = heads(self.to_v, attention.to_v)
        query = value[:, :, :0] if self.to_q is None else heads(self.to_q, attention.to_q, attention.norm_q)
        if self.to_k is None:
            return Stream(query, _normalised(attention.norm_k, noise_key), value)
        return Stream(query, heads(self.to_k, attention.to_k, attention.norm_k), value)

    def _out(self, attended: Tensor, lr: Tensor) -> Tensor:
        if self.to_out is None:
            return torch.zeros_like(lr)
        return self.to_out(attended + lr if self.stream.lr_residual else attended)


def _noise(attention: Attention, x: Tensor) -> Stream:
    return Stream(
        _heads(attention.to_q(x), attention.heads, attention.norm_q),
        _heads(attention.to_k(x), attention.heads, attention.norm_k),
        _heads(attention.to_v(x), attention.heads),
    )


def _text(attention: Attention, c: Tensor) -> Stream:
    return Stream(
        _heads(attention.add_q_proj(c), attention.heads, attention.norm_added_q),
        _heads(attention.add_k_proj(c), attention.heads, attention.norm_added_k),
        _heads(attention.add_v_proj(c), attention.heads),
    )


class TokenGrid:
    """Rows and columns of the tokens of the call under way, known where only the sequence is seen.

    They are the shape of a tensor, which a compiler takes for sizes that may change; plain numbers it takes for fixed
    ones. varies: whether they do from the first call on, also where there are as many rows as columns.
    """

    def __init__(self) -> None:
        self.varies = False
        self.set(torch.empty(0, 0))

    def set(self, tokens: Tensor) -> None:
        """tokens: (rows, columns), whatever is in it."""
        self.tokens = tokens
        if self.varies:
            torch._dynamo.maybe_mark_dynamic(tokens, (0, 1))


class CrossStreamConv(nn.Conv2d):
    """φ(X) ← φ(X) + s · DWConv3x3(η(L)) on the hidden layer of an MLP, η(L) as a map; L stays as it is."""

    def __init__(self, channels: int, scale: float, grid: TokenGrid) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        self.scale, self.grid = scale, grid

    def reset(self) -> None:
        _zero(self)

    def forward(self, tokens: Tensor) -> Tensor:
        x, lr = tokens.chunk(2, dim=1)  # (B, N, C) each
        image = lr.transpose(1, 2).unflatten(2, self.grid.tokens.shape)  # (B, C, h, w)
        return torch.cat([x + self.scale * super().forward(image).flatten(2).transpose(1, 2), lr], dim=1)


class CrossStreamLinear(nn.Linear):
    """As `CrossStreamConv`, token by token with a full matrix."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__(channels, channels)
        self.scale = scale

    def reset(self) -> None:
        _zero(self)

    def forward(self, tokens: Tensor) -> Tensor:
        x, lr = tokens.chunk(2, dim=1)
        return torch.cat([x + self.scale * super().forward(lr.contiguous()), lr], dim=1)

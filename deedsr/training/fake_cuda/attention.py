"""softmax(q kᵀ) v on the kernels that CUDA would take: PyTorch itself asks the driver, and a fake GPU has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

HALVES = (torch.float16, torch.bfloat16)
WIDEST = 256
"""Channels of a head that flash attention takes; wider ones, float32 and masks go to the other kernel."""


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As ``scaled_dot_product_attention`` of tensors (B, heads, T, D)."""
    width = query.shape[-1]
    scale = width**-0.5 if scale is None else scale
    if query.dtype in HALVES and attn_mask is None and width <= WIDEST:
        padded = (functional.pad(one, (0, -width % 8)) if width % 8 else one for one in (query, key, value))
        out = torch.ops.aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, scale=scale)
        return out[0][..., :width]
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    kept = any(one.requires_grad for one in (query, key, value)) and torch.is_grad_enabled()
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, kept, dropout_p, is_causal, scale=scale
    )[0]


@contextmanager
def on_cuda() -> Iterator[None]:
    """Within the context PyTorch takes `attention` for tensors on "cuda"."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("scaled_dot_product_attention", attention, "AutogradCUDA")
    try:
        yield
    finally:
        library._destroy()

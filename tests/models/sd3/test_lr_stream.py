"""A stock block with the LR stream swapped in, against the same block by hand.

By hand: three separate streams, an explicit soft-max, the convolution as nine shifted products.
"""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deedsr.models.sd3.dit4sr import DiT4SRConfig
from deedsr.models.sd3.lr_stream import LRStream
from deedsr.models.sd3.transformer import DiT4SRTransformer


def layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6) * weight  # diffusers: root in float32


def heads(x: Tensor) -> Tensor:
    return torch.stack(x.split(16, dim=-1), dim=1)


def soft_max_attention(queries: list[Tensor], keys: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    key, value = torch.cat(keys, dim=2), torch.cat(values, dim=2)
    answers = []
    for query in queries:
        logits = query @ key.transpose(-1, -2) / 4
        mass = (logits - logits.max()).exp()
        answers.append(torch.cat((mass / mass.sum(-1, keepdim=True) @ value).unbind(1), dim=-1))
    return answers


def attention_by_hand(attn: nn.Module, x: Tensor, lr: Tensor, text: Tensor | None, legacy: bool) -> tuple:
    own = attn.processor
    keys = [rms(heads(attn.to_k(x)), attn.norm_k.weight)]
    keys.append(rms(keys[0] if legacy else heads(own.to_k(lr)), attn.norm_k.weight))
    queries = [rms(heads(attn.to_q(x)), attn.norm_q.weight), rms(heads(own.to_q(lr)), attn.norm_q.weight)]
    values = [heads(attn.to_v(x)), heads(own.to_v(lr))]
    if text is not None:
        queries.append(rms(heads(attn.add_q_proj(text)), attn.norm_added_q.weight))
        keys.append(rms(heads(attn.add_k_proj(text)), attn.norm_added_k.weight))
        values.append(heads(attn.add_v_proj(text)))
    a_x, a_lr, *a_text = soft_max_attention(queries, keys, values)
    return attn.to_out[0](a_x), own.to_out(a_lr + lr), a_text


def mlp_by_hand(mlp: nn.Module, x: Tensor, lr: Tensor, grid: tuple[int, int], scale: float) -> tuple[Tensor, Tensor]:
    h_x, h_lr = (functional.gelu(mlp.net[0].proj(part), approximate="tanh") for part in (x, lr))
    rows, columns = grid
    image = torch.zeros(len(lr), rows + 2, columns + 2, h_lr.shape[-1], dtype=lr.dtype)
    image[:, 1:-1, 1:-1] = h_lr.view(len(lr), rows, columns, -1)
    convolved = mlp.net[1].bias + sum(
        image[:, i : i + rows, j : j + columns] * mlp.net[1].weight[:, 0, i, j] for i in range(3) for j in range(3)
    )
    return mlp.net[2](h_x + scale * convolved.flatten(1, 2)), mlp.net[2](h_lr)


def block_by_hand(
    block: nn.Module, streams: tuple, embedding: Tensor, grid: tuple[int, int], stream: LRStream
) -> tuple:
    x, lr, text = streams
    modulation = block.norm1.linear(functional.silu(embedding))[:, None].chunk(9 if block.use_dual_attention else 6, -1)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate, *second = modulation
    of_text = block.norm1_context.linear(functional.silu(embedding))[:, None]
    of_text = of_text.chunk(2 if block.context_pre_only else 6, -1)
    if block.context_pre_only:
        text_scale, text_shift = of_text
    else:
        text_shift, text_scale, text_gate, text_mlp_shift, text_mlp_scale, text_mlp_gate = of_text
    hat = [layer_norm(part) * (1 + scale) + shift for part in (x, lr)]
    legacy = stream.legacy_noise_keys
    o_x, o_lr, o_text = attention_by_hand(block.attn, *hat, layer_norm(text) * (1 + text_scale) + text_shift, legacy)
    if second:
        hat = [layer_norm(part) * (1 + second[1]) + second[0] for part in (x, lr)]
    x, lr = x + gate * o_x, lr + gate * o_lr
    if second:
        o_x, o_lr, _ = attention_by_hand(block.attn2, *hat, None, legacy)
        x, lr = x + second[2] * o_x, lr + second[2] * o_lr
    hat = [layer_norm(part) * (1 + mlp_scale) + mlp_shift for part in (x, lr)]
    o_x, o_lr = mlp_by_hand(block.ff, *hat, grid, stream.conv_scale)
    x, lr = x + mlp_gate * o_x, lr + mlp_gate * o_lr
    if block.context_pre_only:
        return x, lr, None
    text = text + text_gate * block.attn.to_add_out(o_text[0])
    hidden = block.ff_context.net[0].proj(layer_norm(text) * (1 + text_mlp_scale) + text_mlp_shift)
    return x, lr, text + text_mlp_gate * block.ff_context.net[2](functional.gelu(hidden, approximate="tanh"))


@torch.no_grad()
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("index", [0, 2, 3], ids=["with attn2", "without attn2", "last"])
def test_a_swapped_stock_block_equals_three_streams_by_hand(tiny_sd3: DiT4SRConfig, index: int, legacy: bool) -> None:
    stream = LRStream(conv_scale=1.2, legacy_noise_keys=legacy)
    numbers = {name: value for name, value in tiny_sd3.transformer.items() if name != "_class_name"}
    torch.manual_seed(0)
    model = DiT4SRTransformer(**numbers, **asdict(stream)).double()
    block = model.transformer_blocks[index]
    for name, parameter in block.named_parameters():
        if ".norm_" in name:
            nn.init.normal_(parameter, 1, 0.2)
        elif ".processor." in name or ".net.1." in name:
            nn.init.normal_(parameter, std=0.2)
    generator = torch.Generator().manual_seed(1)
    x, lr = (torch.randn(2, 15, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    text = torch.randn(2, 7, 64, generator=generator, dtype=torch.float64)
    embedding = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    model.grid.set(torch.empty(3, 5))
    found_text, found = block(torch.cat([x, lr], dim=1), text, embedding)
    expected_x, expected_lr, expected_text = block_by_hand(block, (x, lr, text), embedding, (3, 5), stream)
    assert (found - torch.cat([expected_x, expected_lr], dim=1)).abs().max() < 1e-10
    assert (found_text is None) == (expected_text is None) == (index == 3)
    if expected_text is not None:
        assert (found_text - expected_text).abs().max() < 1e-10

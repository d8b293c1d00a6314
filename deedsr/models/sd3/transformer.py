"""The transformer of DiT4SR (arXiv 2503.23580): the stock one of Stable Diffusion 3.5 with an LR stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from diffusers import SD3Transformer2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from deedsr.diffusion.process import numbers_of
from deedsr.models.frozen import lora
from deedsr.models.sd3.lr_stream import CrossStreamConv, CrossStreamLinear, LRAttention, LRStream, TokenGrid

PARTS = (LRAttention, CrossStreamConv, CrossStreamLinear, lora.LowRank)


class DiT4SRTransformer(SD3Transformer2DModel):
    """The stock class and its stock `forward` over the tokens [X; L]; the defaults are Stable Diffusion 3.5 Medium.

    Every block keeps its own code: the processors of its attentions and the second entry of its MLP (a Dropout that
    does nothing) are replaced. Names of stock weights are stock. The LR latent comes as ``joint_attention_kwargs=
    {"lr_latents": …}``, which is what lets the stock pipeline of Stable Diffusion 3 sample with it.
    The last nine arguments are those of `LRStream`.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,
        patch_size: int = 2,
        in_channels: int = 16,
        num_layers: int = 24,
        attention_head_dim: int = 64,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 4096,
        caption_projection_dim: int = 1536,
        pooled_projection_dim: int = 2048,
        out_channels: int = 16,
        pos_embed_max_size: int = 384,
        dual_attention_layers: Sequence[int] = tuple(range(13)),
        qk_norm: str | None = "rms_norm",
        lr_attention: str = "joint",
        lr_residual: bool = True,
        injection: str = "conv",
        conv_scale: float = 1.0,
        qk_init: str = "zero",
        legacy_noise_keys: bool = False,
        lora_rank: int = 0,
        projection: str = "folded",
        out_init: str = "clone",
    ) -> None:
        super().__init__(
            sample_size,
            patch_size,
            in_channels,
            num_layers,
            attention_head_dim,
            num_attention_heads,
            joint_attention_dim,
            caption_projection_dim,
            pooled_projection_dim,
            out_channels,
            pos_embed_max_size,
            tuple(dual_attention_layers),
            qk_norm,
        )
        self.stream = LRStream(
            *(lr_attention, lr_residual, injection, conv_scale, qk_init, legacy_noise_keys, lora_rank),
            *(projection, out_init),
        )
        self.grid = TokenGrid()
        self.pos_embed.register_forward_hook(_side_by_side)
        self.norm_out.register_forward_pre_hook(_noise_stream)
        for index, block in enumerate(self.transformer_blocks):
            answers = index < num_layers - 1 or injection != "none"  # or nothing would read the last block's L
            for attention in filter(None, (block.attn, block.attn2)):
                attention.set_processor(LRAttention(self.inner_dim, self.stream, answers))
                lora.attach([attention], lora_rank)
            channels = block.ff.net[2].in_features
            if injection == "conv":
                block.ff.net[1] = CrossStreamConv(channels, conv_scale, self.grid)
            elif injection == "linear":
                block.ff.net[1] = CrossStreamLinear(channels, conv_scale)
        self.reset_lr_stream()

    @classmethod
    def from_transformer(cls, base: SD3Transformer2DModel, stream: LRStream | None = None) -> DiT4SRTransformer:
        """A transformer that shares `base`'s weights, with a fresh LR stream of its dtype and on its device."""
        with torch.device("meta"):
            model = cls(**numbers_of(base.config), **asdict(stream or LRStream()))
        added = {name for name, _ in model.lr_stream()}
        assert added == model.state_dict().keys() - base.state_dict().keys()
        model.load_state_dict(base.state_dict(), strict=False, assign=True)
        like = base.proj_out.weight
        for part in model.modules():
            if isinstance(part, PARTS):
                part.to_empty(device=like.device).to(like.dtype)
        model.reset_lr_stream()
        return model

    def reset_lr_stream(self) -> None:
        """The LR stream's initial values; projections out are cloned from the weights that are loaded now."""
        for block in self.transformer_blocks:
            for attention in filter(None, (block.attn, block.attn2)):
                attention.processor.reset(attention)
            if isinstance(block.ff.net[1], PARTS):
                block.ff.net[1].reset()
        for _, part in lora.parts(self, ""):
            part.reset()

    def lr_stream(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The named parameters of the LR stream, LoRA included: all that DiT4SR trains."""
        for name, module in self.named_modules():
            if isinstance(module, PARTS):
                yield from module.named_parameters(prefix=name)

    def set_attn_processor(self, processor: Any) -> NoReturn:
        """Refused: the LR stream's weights lie in the processors, and another processor would drop them."""
        raise ValueError("the attention processors of DiT4SR hold weights and can't be replaced")

    def fuse_qkv_projections(self) -> NoReturn:
        """Refused, as `set_attn_processor`."""
        raise ValueError("the attention processors of DiT4SR hold weights, so its projections can't be fused")

    def forward(
        self, hidden_states: Tensor, *args: Any, joint_attention_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """As the stock `forward`, its other arguments included.

        hidden_states: x_t (B, C, H, W), H and W multiples of the patch. joint_attention_kwargs: ``lr_latents`` is the
        LR latent (b, C, H, W); where b divides B, as in classifier-free guidance, it is repeated.
        """
        joint = dict(joint_attention_kwargs or {})
        lr = joint.pop("lr_latents", None)
        if lr is None:
            raise ValueError("DiT4SR needs the latent of the LR image: joint_attention_kwargs={'lr_latents': …}")
        if lr.shape[1:] != hidden_states.shape[1:] or len(hidden_states) % len(lr):
            shapes = f"{tuple(lr.shape)} with {tuple(hidden_states.shape)}"
            raise ValueError(f"lr_latents must have the shape of hidden_states, not {shapes}")
        patch = self.config.patch_size
        rows, columns = (side // patch for side in hidden_states.shape[-2:])
        self.grid.set(hidden_states.new_empty(rows, columns))
        both = torch.cat([hidden_states, lr.to(hidden_states).repeat(len(hidden_states) // len(lr), 1, 1, 1)])
        return super().forward(both, *args, joint_attention_kwargs=joint, **kwargs)


def _side_by_side(_: nn.Module, __: tuple, tokens: Tensor) -> Tensor:
    return torch.cat(tokens.chunk(2), dim=1)  # (2B, N, D) → [X; L] (B, 2N, D)


def _noise_stream(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    tokens, embedding = inputs
    return tokens.chunk(2, dim=1)[0], embedding

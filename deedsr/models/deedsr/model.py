"""DeeDSR (arXiv 2404.00661): a frozen latent-diffusion U-Net, steered by an adapter that knows the degradation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from deedsr.diffusion.free_guidance import NO_GUIDANCE, FreeGuidance
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.geometry import SizeRequirement
from deedsr.models import authors
from deedsr.models.contract import DECODING, RestorationModel, Text
from deedsr.models.deedsr.adapter import Adapter, Told
from deedsr.models.deedsr.adapter_config import AdapterConfig
from deedsr.models.deedsr.blocks import AttentionBlock, Modulation, ResBlock
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.sizes import DeeDSRConfig
from deedsr.models.frozen import latents, lora
from deedsr.models.frozen.base import stock
from deedsr.nested import join
from deedsr.tiling import Window


@dataclass(frozen=True)
class DeeDSRCondition:
    """z_lr: latent of the up-sampled LR (B, C, h, w). told: what the degradation vector makes.

    null: what the null vector makes, which the guidance leads away from; None if off.
    """

    z_lr: Tensor
    told: Told
    null: Told | None
    guidance: FreeGuidance

    def crop(self, window: Window) -> DeeDSRCondition:
        return replace(self, z_lr=self.z_lr[window.slices])

    def at(self, process: Process, t: Tensor) -> DeeDSRCondition:
        return replace(self, guidance=self.guidance.at(process, t))


class Maps:
    """The local-detail maps of the call under way, from the finest level on, and its vector and dials; kept until
    backward.
    """

    def __init__(self) -> None:
        self.fill([])

    def fill(self, maps: list[Tensor], vector: Tensor | None = None) -> None:
        self.by_level, self.vector = maps, vector


def _modulate(maps: Maps, modulation: Modulation, level: int, _conv: nn.Module, _inputs: tuple, h: Tensor) -> Tensor:
    return modulation(h, maps.by_level[level], maps.vector)


def _levels(unet: nn.Module) -> dict[nn.Module, int]:
    """The level, from the finest on, of each ResBlock of a U-Net, in the order of its modules."""
    last = len(unet.down_blocks) - 1
    parts = [*enumerate(unet.down_blocks), *((last - index, block) for index, block in enumerate(unet.up_blocks))]
    level = {res: index for index, part in [*parts, (last, unet.mid_block)] for res in part.modules()}
    return {module: level[module] for module in unet.modules() if isinstance(module, ResnetBlock2D)}


class DeeDSR(RestorationModel[DeeDSRCondition]):
    """The whole system on *stock* diffusers modules.

    unet: a UNet2DConditionModel whose cross-attention takes the adapter's tokens. vae: AutoencoderKL or AutoencoderDC.
    Nothing of the U-Net is replaced: a forward hook on the last convolution of each ResBlock modulates its output,
    out = skip(x) + [h·(1+γ) + β], just before the residual is added. `AdapterConfig` has ablations of all this.
    """

    presets = {"authors": Settings.from_dict(authors.DEEDSR)}
    takes_vector = True

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        process: Process,
        encoder: DegradationEncoder,
        adapter: AdapterConfig,
        sft_hidden: int,
        defaults: Settings,
    ) -> None:
        super().__init__()
        if encoder.dimension != adapter.vector:
            raise ValueError(f"the encoder gives {encoder.dimension} numbers, the adapter takes {adapter.vector}")
        if adapter.cross_attention == "fresh" and unet.config.cross_attention_dim != adapter.context:
            raise ValueError(
                f"the U-Net's context is {unet.config.cross_attention_dim}, the adapter's {adapter.context}"
            )
        self.unet, self.vae, self.encoder = unet, vae, encoder
        self.process, self.defaults = process, defaults
        self.adapter = Adapter(adapter, unet.config.cross_attention_dim)
        self.knows_degradation = adapter.degradation not in ("zero", "constant")
        self.guided_by_degradation = adapter.null and self.knows_degradation
        if self.adapter.null is not None and not self.adapter.null.is_meta:
            self.adapter.null.data.copy_(encoder.middle())
        blocks = _levels(unet) if adapter.modulation else {}
        self.modulations = nn.ModuleList(
            Modulation(
                adapter.maps,
                block.conv2.out_channels,
                sft_hidden,
                adapter.vector * adapter.modulate,
            )
            for block in blocks
        )
        self.maps = Maps()
        for (block, level), modulation in zip(blocks.items(), self.modulations, strict=True):
            block.conv2.register_forward_hook(partial(_modulate, self.maps, modulation, level))
        lora.attach(self.attentions(), adapter.lora_rank)
        self.factor = latents.factor(vae)
        self.channels = vae.config.latent_channels
        levels = max(len(unet.config.block_out_channels), len(adapter.widths))
        multiple = self.factor * 2 ** (levels - 1)
        self.size = SizeRequirement(multiple, multiple)
        self.freeze()

    def cross_attentions(self) -> Iterator[tuple[str, nn.Module]]:
        """Every attn2 of the U-Net, by its name within this module."""
        for name, module in self.unet.named_modules(prefix="unet"):
            if name.endswith(".attn2"):
                yield name, module

    def attentions(self) -> Iterator[nn.Module]:
        return (module for name, module in self.unet.named_modules() if name.endswith(".attn1"))

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Adapter, modulations and every attn2, of these what the ablations leave; LoRA and decoder where trained."""
        parts = [("adapter", self.adapter), ("modulations", self.modulations), *lora.parts(self.unet, "unet")]
        kind = self.adapter.config.cross_attention
        if kind == "fresh":
            parts += self.cross_attentions()
        elif kind == "projected":
            for name, attention in self.cross_attentions():
                parts += [(f"{name}.to_q", attention.to_q), (f"{name}.to_out", attention.to_out)]
        if self.adapter.config.decoder:
            parts += [(f"vae.{name}", module) for name, module in self.vae.named_children() if name in DECODING]
        for prefix, module in parts:
            yield from module.named_parameters(prefix=prefix)

    def additions(self) -> set[str]:
        """Names of the trained tensors that not all models have: null vector, prompts, LoRA, own decoder, …"""
        parts = re.compile(r"adapter\.(null|prompts\.)|modulations\.\d+\.vector\.|vae\.")
        return {name for name, _ in self.trainable() if parts.match(name) or lora.is_lora(name)}

    def blocks(self) -> Iterator[nn.Module]:
        for module in [*self.unet.modules(), *self.adapter.modules()]:
            if isinstance(module, (ResnetBlock2D, Transformer2DModel, ResBlock, AttentionBlock)):
                yield module

    def phases(self) -> dict[str, list[nn.Module]]:
        parts = super().phases()
        parts["denoise"].remove(self.encoder)
        return {"vector": [self.encoder], **parts}

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return latents.encode(self.vae, image, generator)

    def decode(self, latent: Tensor) -> Tensor:
        return latents.decode(self.vae, latent)

    def vector(self, lr: Tensor) -> Tensor:
        """The degradation vector (B, D) of LR images (B, 3, h, w), as the ablations of `AdapterConfig` leave it."""
        config = self.adapter.config
        if config.degradation == "zero":
            return lr.new_zeros(len(lr), config.vector)
        if config.degradation == "constant":
            return self.null(len(lr)).to(lr.device)
        with torch.no_grad():
            vector = self._seen(lr)
        if config.degradation == "own":
            return vector
        if len(lr) == 1 and torch.is_grad_enabled():
            raise ValueError("a batch of one picture has no other vector to train with: take a batch of 2 or more")
        return vector.roll(1, 0)

    def _seen(self, lr: Tensor) -> Tensor:
        return self.encoder(lr)

    def _told(self, vector: Tensor) -> Told:
        return self.adapter.told(vector)

    def null(self, batch: int) -> Tensor:
        """The null vector of `batch` images (B, D). Raises ValueError where the model has none."""
        if self.adapter.null is None:
            raise ValueError("this model has no null vector: it was trained without vector.dropout")
        return self.adapter.null.expand(batch, -1)

    def condition(
        self,
        lr: Tensor,
        z_lr: Tensor,
        text: Text | None = None,
        guidance: FreeGuidance = NO_GUIDANCE,
        vector: Tensor | None = None,
        negative: Text | None = None,
    ) -> DeeDSRCondition:
        """Raises ValueError for a text, and for guidance where there is no null vector."""
        if text is not None or negative is not None:
            raise ValueError("DeeDSR takes no text")
        vector = self.vector(lr) if vector is None else vector
        null = None if guidance.scale == 1 else self._told(self.null(len(vector)))
        told = self._told(vector)
        return DeeDSRCondition(z_lr, told, null, guidance)

    def forward(self, x_t: Tensor, t: Tensor, condition: DeeDSRCondition) -> Tensor:
        z_lr, guidance = condition.z_lr, condition.guidance
        if condition.null is None or guidance.scale == 1:
            return self._predict(x_t, t, z_lr, condition.told)
        told = join([condition.null, condition.told])
        return guidance.lead(self._predict(torch.cat([x_t, x_t]), t.repeat(2), z_lr.repeat(2, 1, 1, 1), told))

    def _predict(self, x_t: Tensor, t: Tensor, z_lr: Tensor, told: Told) -> Tensor:
        steering = self.adapter(z_lr, t, told)
        self.maps.fill(steering.maps, told.vector)
        tokens = steering.tokens
        if tokens is None:
            tokens = x_t.new_zeros(len(x_t), 1, self.unet.config.cross_attention_dim)
        output = self.unet(x_t, t, encoder_hidden_states=tokens).sample
        if not torch.is_grad_enabled():
            self.maps.fill([])
        return output

    def counts(self) -> dict[str, int]:
        """`cross_attention`: what is trained of attn2. `unet_total`: the U-Net with all modulations."""

        def size(module: nn.Module) -> int:
            return sum(parameter.numel() for parameter in module.parameters())

        trained = {name: parameter.numel() for name, parameter in self.trainable()}
        low_rank = sum(count for name, count in trained.items() if lora.is_lora(name))
        cross_attention = sum(count for name, count in trained.items() if name.startswith("unet.")) - low_rank
        return {
            "degradation_encoder": size(self.encoder),
            "adapter": size(self.adapter),
            "sft": size(self.modulations),
            "cross_attention": cross_attention,
            "lora": low_rank,
            "trained": sum(trained.values()),
            "unet_frozen": size(self.unet) - cross_attention - low_rank,
            "unet_total": size(self.unet) + size(self.modulations),
            "vae": size(self.vae),
        }


Kind = TypeVar("Kind", bound=DeeDSR)


def random_model(config: DeeDSRConfig) -> DeeDSR:
    """A DeeDSR with random weights (on the meta device: none), for counting and measuring."""
    return described(DeeDSR, config)


def described(kind: type[Kind], config: DeeDSRConfig) -> Kind:
    """The same, of a class of its own."""
    return kind(
        stock(config.unet, **config.adapter.unet_changes),
        stock(config.vae),
        Process.from_config(config.scheduler),
        DegradationEncoder(**config.encoder),
        config.adapter,
        config.sft_hidden,
        Settings.from_dict(config.defaults),
    )

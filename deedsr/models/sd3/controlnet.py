"""The baseline that DiT4SR is compared with: diffusers' ControlNet of Stable Diffusion 3 on the LR latent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from torch import Tensor, nn

from deedsr.diffusion.process import Process, numbers_of
from deedsr.diffusion.sampler import Settings
from deedsr.models.contract import Text
from deedsr.models.sd3.model import SD3Restoration

# of the last block's text, which nobody reads: without a gradient, so distributed training would stop at them
DEAD = ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "ff_context")


@dataclass(frozen=True)
class Branch:
    """layers: blocks of the ControlNet; with 12 on Stable Diffusion 3.5 Medium it has the baseline's size, 3504 M."""

    layers: int = 12


class SD3ControlNet(SD3Restoration):
    """A stock transformer, frozen, and a stock ControlNet on it, trained but for what has no effect."""

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        controlnet: SD3ControlNetModel,
        vae: nn.Module,
        process: Process,
        defaults: Settings,
    ) -> None:
        super().__init__(transformer, vae, process, defaults)
        self.controlnet = controlnet
        self.freeze()

    @classmethod
    def on(
        cls, transformer: SD3Transformer2DModel, numbers: Branch, vae: nn.Module, process: Process, defaults: Settings
    ) -> SD3ControlNet:
        return cls(transformer, controlnet_of(transformer, numbers.layers), vae, process, defaults)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        last = f"transformer_blocks.{len(self.controlnet.transformer_blocks) - 1}"
        dead = tuple(f"controlnet.{last}.{name}." for name in DEAD)
        for name, parameter in self.controlnet.named_parameters(prefix="controlnet"):
            if not name.startswith(dead):
                yield name, parameter

    def blocks(self) -> Iterator[nn.Module]:
        yield from super().blocks()
        yield from self.controlnet.transformer_blocks

    def predict(self, x_t: Tensor, time: Tensor, text: Text, z_lr: Tensor) -> Tensor:
        inputs = {"encoder_hidden_states": text.tokens, "pooled_projections": text.pooled, "timestep": time}
        (residuals,) = self.controlnet(x_t, z_lr, **inputs, return_dict=False)
        return self.transformer(x_t, **inputs, block_controlnet_hidden_states=residuals, return_dict=False)[0]


def controlnet_of(transformer: SD3Transformer2DModel, layers: int = 12) -> SD3ControlNetModel:
    """A ControlNet of `layers` blocks that starts as a copy of `transformer`'s first ones and without influence.

    Raises ValueError where `layers` is not less than the transformer's.
    """
    if not 0 < layers < transformer.config.num_layers:
        raise ValueError(f"a ControlNet on {transformer.config.num_layers} blocks has fewer of them, not {layers}")
    numbers = numbers_of(transformer.config) | {"num_layers": layers, "force_zeros_for_pooled_projection": False}
    controlnet = SD3ControlNetModel(**numbers)
    copied = transformer.state_dict()
    controlnet.load_state_dict({name: copied.get(name, value) for name, value in controlnet.state_dict().items()})
    return controlnet.to(transformer.proj_out.weight)

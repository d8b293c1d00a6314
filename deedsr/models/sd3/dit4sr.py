"""DiT4SR (arXiv 2503.23580): a frozen Stable Diffusion 3.5 whose blocks also carry the tokens of the LR image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.models.contract import Text
from deedsr.models.frozen import configs, lora
from deedsr.models.frozen.base import stock
from deedsr.models.sd3.lr_stream import LRStream
from deedsr.models.sd3.model import DEFAULTS, SD3Restoration
from deedsr.models.sd3.transformer import DiT4SRTransformer


class DiT4SR(SD3Restoration):
    """The whole system; only the LR stream of the transformer can be trained."""

    def __init__(self, transformer: DiT4SRTransformer, vae: nn.Module, process: Process, defaults: Settings) -> None:
        super().__init__(transformer, vae, process, defaults)
        self.freeze()

    @classmethod
    def on(
        cls, transformer: SD3Transformer2DModel, numbers: LRStream, vae: nn.Module, process: Process, defaults: Settings
    ) -> DiT4SR:
        return cls(DiT4SRTransformer.from_transformer(transformer, numbers), vae, process, defaults)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.transformer.lr_stream():
            yield f"transformer.{name}", parameter

    def attentions(self) -> Iterator[nn.Module]:
        for block in self.transformer.transformer_blocks:
            yield from filter(None, (block.attn, block.attn2))

    def additions(self) -> set[str]:
        return {name for name, _ in self.trainable() if lora.is_lora(name)}

    def compile(self, *args: Any, **words: Any) -> None:
        super().compile(*args, **words)
        self.transformer.grid.varies = True

    def predict(self, x_t: Tensor, time: Tensor, text: Text, z_lr: Tensor) -> Tensor:
        return self.transformer(
            x_t, text.tokens, text.pooled, time, joint_attention_kwargs={"lr_latents": z_lr}, return_dict=False
        )[0]


@dataclass(frozen=True)
class DiT4SRConfig:
    """All hyper-parameters of one DiT4SR.

    transformer, vae, scheduler: configurations of diffusers classes; `transformer` is the *stock* base. defaults:
    arguments of `sampler.Settings`.
    """

    name: str
    transformer: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    stream: LRStream = field(default_factory=LRStream)
    defaults: dict[str, Any] = field(default_factory=dict)


SD35 = DiT4SRConfig("dit4sr", **configs.SD35, defaults=DEFAULTS)
SMALL = DiT4SRConfig("dit4sr_small", **configs.SMALL_DIT, defaults={"sampler": "euler", "steps": 8})


def random_model(config: DiT4SRConfig, system: type[SD3Restoration] = DiT4SR, numbers: Any = None) -> SD3Restoration:
    """A model with random weights (on the meta device: none), for counting and measuring.

    system: DiT4SR, or another on the same base, with `numbers` of what it trains instead of the LR stream's.
    """
    process, defaults = Process.from_config(config.scheduler), Settings.from_dict(config.defaults)
    return system.on(stock(config.transformer), numbers or config.stream, stock(config.vae), process, defaults)

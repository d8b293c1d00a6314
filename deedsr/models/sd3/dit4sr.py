"""DiT4SR (arXiv 2503.23580): a frozen Stable Diffusion 3.5 whose blocks also carry the tokens of the LR image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.models.contract import Text
from deedsr.models.deedsr import sizes
from deedsr.models.frozen.stock import stock
from deedsr.models.sd3.lr_stream import LRStream
from deedsr.models.sd3.model import SD3Restoration
from deedsr.models.sd3.transformer import DiT4SRTransformer


class DiT4SR(SD3Restoration):
    """The whole system; only the LR stream of the transformer can be trained."""

    def __init__(self, transformer: DiT4SRTransformer, vae: nn.Module, process: Process, defaults: Settings) -> None:
        super().__init__(transformer, vae, process, defaults)
        self.freeze()

    @classmethod
    def on(
        cls,
        transformer: SD3Transformer2DModel,
        numbers: LRStream,
        vae: nn.Module,
        process: Process,
        defaults: Settings,
    ) -> DiT4SR:
        return cls(DiT4SRTransformer.from_transformer(transformer, numbers), vae, process, defaults)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.transformer.lr_stream():
            yield f"transformer.{name}", parameter

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


SD35 = DiT4SRConfig(
    name="dit4sr",
    transformer={
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "out_channels": 16,
        "pos_embed_max_size": 384,
        "dual_attention_layers": list(range(13)),
        "qk_norm": "rms_norm",
    },
    vae={
        "_class_name": "AutoencoderKL",
        "sample_size": 1024,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    scheduler={"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
    defaults={"sampler": "euler", "steps": 40, "text": [8.0]},
)

SMALL = DiT4SRConfig(
    name="dit4sr_small",
    transformer={
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 64,
        "patch_size": 2,
        "in_channels": 8,
        "num_layers": 6,
        "attention_head_dim": 24,
        "num_attention_heads": 6,
        "joint_attention_dim": 32,
        "caption_projection_dim": 144,
        "pooled_projection_dim": 32,
        "out_channels": 8,
        "pos_embed_max_size": 16,
        "dual_attention_layers": [],
        "qk_norm": "rms_norm",
    },
    vae=sizes.SMALL.vae,
    scheduler={"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0},
    defaults={"sampler": "euler", "steps": 8},
)
"""For the built-in autoencoder's latents: 128 pixels a side in one piece, no text."""


def build(config: DiT4SRConfig) -> DiT4SR:
    """A DiT4SR with random weights (on the meta device: none), for counting, tests and training from a loaded base."""
    numbers = {name: value for name, value in config.transformer.items() if not name.startswith("_")}
    return DiT4SR(
        DiT4SRTransformer(**numbers, **asdict(config.stream)),
        stock(config.vae),
        Process.from_config(config.scheduler),
        Settings.from_dict(config.defaults),
    )

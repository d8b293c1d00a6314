"""What all restoration models on Stable Diffusion 3 share: autoencoder, texts, and guidance by text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from deedsr.diffusion.free_guidance import NO_GUIDANCE, FreeGuidance
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.geometry import SizeRequirement
from deedsr.models import authors
from deedsr.models.contract import RestorationModel, Text
from deedsr.models.frozen import latents
from deedsr.models.sd3.encoders import embed
from deedsr.models.sd3.prompts import NEGATIVE, Prompts, embedded, read_captions
from deedsr.nested import join
from deedsr.options import Options
from deedsr.tiling import Window

DEFAULTS: dict[str, Any] = {name: authors.DIT4SR[name] for name in ("sampler", "steps", "text")}
FAST: dict[str, Any] = {"sampler": "euler", "steps": 12, "start": 0.8, "text": [8.0, 0.6]}
"""A sampling preset, as arguments of `Settings`: a quarter of the work, from the LR latent at σ = 0.92 where the shift
is 3, guided in the first 7 steps alone."""
UNTOLD = (
    "this model is guided by what pictures show, and is told nothing: it restores with an empty token and without "
    "guidance; `caption`, `captions` or `embeddings` tell it more"
)


@dataclass(frozen=True)
class SD3Condition:
    """z_lr: latent of the up-sampled LR (B, C, h, w). negative: what the guidance leads away from, None if off."""

    z_lr: Tensor
    text: Text
    negative: Text | None
    guidance: FreeGuidance

    def crop(self, window: Window) -> SD3Condition:
        return replace(self, z_lr=self.z_lr[window.slices])

    def at(self, process: Process, t: Tensor) -> SD3Condition:
        return replace(self, guidance=self.guidance.at(process, t))


class SD3Restoration(RestorationModel[SD3Condition]):
    """A frozen transformer of Stable Diffusion 3 and the trained part of a subclass.

    transformer: `SD3Transformer2DModel` or a subclass; its positional embedding sets the limit. vae: AutoencoderKL or
    AutoencoderDC. Without texts (see `set_texts`), a model sees one token of zeros, and guidance has no effect. base:
    where its text encoders are, as `deedsr.models.sd3.encoders.embed` takes it; None where that is not known.
    """

    base: tuple[str, Path | None] | None = None

    presets = {"authors": Settings.from_dict(authors.DIT4SR), "fast": Settings.from_dict(FAST)}
    takes_text = True

    def __init__(self, transformer: nn.Module, vae: nn.Module, process: Process, defaults: Settings) -> None:
        super().__init__()
        if process.prediction != "flow_prediction":
            raise ValueError(f"Stable Diffusion 3 is a rectified flow; its scheduler says {process.prediction}")
        self.transformer, self.vae = transformer, vae
        self.process, self.defaults = process, defaults
        self.factor = latents.factor(vae)
        self.channels = vae.config.latent_channels
        multiple = self.factor * transformer.config.patch_size
        self.size = SizeRequirement(multiple, multiple)
        self.limit = multiple * transformer.config.pos_embed_max_size
        nothing = Text(
            torch.zeros(1, 1, transformer.config.joint_attention_dim),
            torch.zeros(1, transformer.config.pooled_projection_dim),
        )
        self.set_texts(nothing, nothing)
        self.has_texts = False

    @classmethod
    @abstractmethod
    def on(
        cls, transformer: SD3Transformer2DModel, numbers: Any, vae: nn.Module, process: Process, defaults: Settings
    ) -> SD3Restoration:
        """On a stock transformer, the trained part fresh and of these `numbers`."""

    def set_texts(self, positive: Text, negative: Text) -> None:
        """The text of every image, and the one that guidance leads away from; a batch of 1 each."""
        for name, text in (("positive", positive), ("negative", negative)):
            self.register_buffer(f"{name}_tokens", text.tokens, persistent=False)
            self.register_buffer(f"{name}_pooled", text.pooled, persistent=False)
        self.has_texts = True

    def texts(self, options: Options, settings: Settings, device: torch.device) -> Prompts | None:
        """Captions get the words of `settings` behind them. The base's text encoders are gone when it returns."""
        if not options.tells:
            if options.text_guidance not in (None, 1) and not self.has_texts:
                ways = "give `caption`, `captions` or `embeddings`, or leave it at 1"
                raise ValueError(f"guidance by text needs one: {ways}")
            return None
        if options.embeddings is not None:
            found = embedded(Path(options.embeddings))
        elif self.base is None:
            raise ValueError("this model was not read from a file that names its base: give `embeddings`")
        else:
            captions = {} if options.captions is None else read_captions(Path(options.captions))
            told = {name: f"{caption} {settings.words}".strip() for name, caption in captions.items()}
            others = None if options.caption is None else f"{options.caption} {settings.words}".strip()
            negative = NEGATIVE if options.negative is None else options.negative
            wanted = {*told.values(), *([] if others is None else [others]), *([negative] * (settings.text.scale != 1))}
            by_text = embed(self.base, sorted(wanted), options.text_length, device, self.dtype)
            own = {name: by_text[text] for name, text in told.items()}
            default = None if others is None else by_text[others]
            found = Prompts(own, default, by_text.get(negative), str(options.captions))
        return found

    def notes(self, options: Options, settings: Settings) -> list[str]:
        told = self.has_texts or options.tells or settings.text.scale == 1
        return [*super().notes(options, settings), *([] if told else [UNTOLD])]

    def text(self, name: str) -> Text:
        """The text called ``positive`` or ``negative``."""
        return Text(getattr(self, f"{name}_tokens"), getattr(self, f"{name}_pooled"))

    def blocks(self) -> Iterator[nn.Module]:
        yield from self.transformer.transformer_blocks

    def compile(self, *args: Any, **words: Any) -> None:
        """In place, each block by itself: those alike are compiled once, so the first call waits less."""
        for block in self.blocks():
            block.compile(*args, **words)

    def counts(self) -> dict[str, int]:
        """`base`: what stays frozen. `total`: all that runs at every step."""
        total = sum(parameter.numel() for name, parameter in self.named_parameters() if not name.startswith("vae."))
        trained = sum(parameter.numel() for _, parameter in self.trainable())
        vae = sum(parameter.numel() for parameter in self.vae.parameters())
        return {"base": total - trained, "trained": trained, "total": total, "vae": vae}

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return latents.encode(self.vae, image, generator, torch.float32)

    def decode(self, latent: Tensor) -> Tensor:
        return latents.decode(self.vae, latent)

    def condition(
        self,
        lr: Tensor,
        z_lr: Tensor,
        text: Text | None = None,
        guidance: FreeGuidance = NO_GUIDANCE,
        vector: Tensor | None = None,
        negative: Text | None = None,
    ) -> SD3Condition:
        """text, negative: of each image (or one for all), the model's own where None. The LR image counts through z_lr.

        Raises ValueError for a degradation vector, which it knows none of, and where guidance is asked for and the two
        texts have not the same number of tokens.
        """
        if vector is not None:
            raise ValueError("this model takes no degradation vector")
        silent = text is None and not self.has_texts
        text = (text or self.text("positive")).like(z_lr)
        width, wanted = text.tokens.shape[-1], self.transformer.config.joint_attention_dim
        if width != wanted:
            raise ValueError(f"the text's tokens are {width} wide, but the model takes {wanted}: it is another base's")
        if guidance.scale == 1 or silent:
            return SD3Condition(z_lr, text, None, guidance)
        negative = (negative or self.text("negative")).like(z_lr)
        lengths = text.tokens.shape[1], negative.tokens.shape[1]
        if lengths[0] != lengths[1]:
            raise ValueError(f"the text has {lengths[0]} tokens, the negative one {lengths[1]}: embed both alike")
        return SD3Condition(z_lr, text, negative, guidance)

    def forward(self, x_t: Tensor, t: Tensor, condition: SD3Condition) -> Tensor:
        """u = ε − x0; where `condition` is guided, from one call on the batch twice: negative texts, then positive."""
        time = (self.process.steps * self.process.levels(t)[1]).to(x_t.device, torch.float32)
        guidance, negative = condition.guidance, condition.negative
        if negative is None or guidance.scale == 1:
            return self.predict(x_t, time, condition.text, condition.z_lr)
        texts = join([negative, condition.text])
        outputs = self.predict(torch.cat([x_t, x_t]), time.repeat(2), texts, condition.z_lr.repeat(2, 1, 1, 1))
        return guidance.lead(outputs)

    @abstractmethod
    def predict(self, x_t: Tensor, time: Tensor, text: Text, z_lr: Tensor) -> Tensor:
        """One call of the network. time: 1000·σ, (B,)."""

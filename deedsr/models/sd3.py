"""What all restoration models on Stable Diffusion 3 share: autoencoder, texts, and guidance by text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.diffusion.text_guidance import NO_TEXT_GUIDANCE, TextGuidance
from deedsr.images import SizeRequirement
from deedsr.models import latents
from deedsr.models.base import RestorationModel
from deedsr.tiling import Window, join


@dataclass(frozen=True)
class Text:
    """Embedded texts. tokens: (B, T, D), those of CLIP-L ++ CLIP-G padded to D, then T5's. pooled: (B, P)."""

    tokens: Tensor
    pooled: Tensor

    def like(self, latent: Tensor) -> Text:
        """For a batch of latents, in its dtype and on its device; a single text counts for all."""
        return Text(*(part.to(latent).expand(len(latent), *part.shape[1:]) for part in (self.tokens, self.pooled)))


@dataclass(frozen=True)
class SD3Condition:
    """z_lr: latent of the up-sampled LR (B, C, h, w). negative: what `guidance` leads away from, None if it is off."""

    z_lr: Tensor
    text: Text
    negative: Text | None
    guidance: TextGuidance

    def crop(self, window: Window) -> SD3Condition:
        return replace(self, z_lr=self.z_lr[window.slices])


class SD3Restoration(RestorationModel):
    """A frozen transformer of Stable Diffusion 3 with something trained beside it; a subclass says what.

    transformer: `SD3Transformer2DModel` or a subclass. vae: AutoencoderKL or AutoencoderDC. Without texts of its own
    (see `set_texts`), a model is told nothing: one token of zeros.
    """

    def __init__(self, transformer: nn.Module, vae: nn.Module, process: Process, defaults: Settings) -> None:
        super().__init__()
        if process.prediction != "flow_prediction":
            raise ValueError(f"Stable Diffusion 3 is a rectified flow; its scheduler says {process.prediction}")
        self.transformer, self.vae = transformer, vae
        self.process, self.defaults = process, defaults
        self.factor = latents.factor(vae)
        multiple = self.factor * transformer.config.patch_size
        self.size = SizeRequirement(multiple, multiple)
        nothing = Text(
            torch.zeros(1, 1, transformer.config.joint_attention_dim),
            torch.zeros(1, transformer.config.pooled_projection_dim),
        )
        self.set_texts(nothing, nothing)

    def set_texts(self, positive: Text, negative: Text) -> None:
        """What every image is told, and what guidance leads away from; a batch of 1 each."""
        for name, text in (("positive", positive), ("negative", negative)):
            self.register_buffer(f"{name}_tokens", text.tokens, persistent=False)
            self.register_buffer(f"{name}_pooled", text.pooled, persistent=False)

    def freeze(self) -> None:
        """Only what `trainable` names can be trained."""
        self.requires_grad_(False)
        for _, parameter in self.trainable():
            parameter.requires_grad_(True)

    def blocks(self) -> Iterator[nn.Module]:
        yield from self.transformer.transformer_blocks

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return latents.encode(self.vae, image, generator)

    def decode(self, latent: Tensor) -> Tensor:
        return latents.decode(self.vae, latent)

    def condition(
        self, lr: Tensor, z_lr: Tensor, text: Text | None = None, guidance: TextGuidance = NO_TEXT_GUIDANCE
    ) -> SD3Condition:
        """text: of each image (or one for all), the model's own where None. The LR image counts through z_lr alone.

        Raises ValueError where guidance is asked for and the two texts have not the same number of tokens.
        """
        text = (text or Text(self.positive_tokens, self.positive_pooled)).like(z_lr)
        if guidance.scale == 1:
            return SD3Condition(z_lr, text, None, guidance)
        negative = Text(self.negative_tokens, self.negative_pooled).like(z_lr)
        lengths = text.tokens.shape[1], negative.tokens.shape[1]
        if lengths[0] != lengths[1]:
            raise ValueError(f"the text has {lengths[0]} tokens, the negative one {lengths[1]}: embed both alike")
        return SD3Condition(z_lr, text, negative, guidance)

    def denoise(self, x_t: Tensor, t: Tensor, condition: SD3Condition) -> Tensor:
        """u = ε − x0; where `condition` is guided, from one call on the batch twice: negative texts, then positive."""
        sigma = self.process.coefficients(t, t.cpu().double())[1]  # (B,)
        time = (self.process.steps * sigma).to(x_t.device, torch.float32)
        guidance, negative = condition.guidance, condition.negative
        if negative is None or not guidance.at(float(sigma.max())):
            return self.predict(x_t, time, condition.text, condition.z_lr)
        texts = join([negative, condition.text])
        output = self.predict(torch.cat([x_t, x_t]), time.repeat(2), texts, condition.z_lr.repeat(2, 1, 1, 1))
        without, with_text = output.chunk(2)
        return without + guidance.scale * (with_text - without)

    @abstractmethod
    def predict(self, x_t: Tensor, time: Tensor, text: Text, z_lr: Tensor) -> Tensor:
        """One call of the network. time: 1000·σ, (B,)."""

"""The contract between the networks and all that uses them: sampler, tiling, restorer, training, evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from deedsr.diffusion.free_guidance import NO_GUIDANCE, FreeGuidance
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings, make_scheduler
from deedsr.geometry import SizeRequirement
from deedsr.options import Options, one_of
from deedsr.tiling import Window


@dataclass(frozen=True)
class Text:
    """Embedded texts. tokens: (B, T, D), those of CLIP-L ++ CLIP-G padded to D, then T5's. pooled: (B, P)."""

    tokens: Tensor
    pooled: Tensor

    def like(self, latent: Tensor) -> Text:
        """For a batch of latents, in its dtype and on its device; a single text counts for all."""
        return Text(*(part.to(latent).expand(len(latent), *part.shape[1:]) for part in (self.tokens, self.pooled)))


TextOf = Callable[[str | Path | None], tuple[Text, Text | None]]
"""The text of a picture by its name, and the negative one; ValueError for a picture that has none."""


class Condition(Protocol):
    """All that a network knows of one batch of LR images and that does not depend on t."""

    @property
    def z_lr(self) -> Tensor: ...

    def crop(self, window: Window) -> Condition:
        """The condition of one tile, `window` in latent pixels: what is global stays, what has a place is cut."""
        ...

    def at(self, process: Process, t: Tensor) -> Condition:
        """The condition at times t (B,), where guidance acts or doesn't; see `FreeGuidance.at`."""
        ...


Known = TypeVar("Known", bound=Condition)

DECODING = ("decoder", "post_quant_conv")
"""Parts of an autoencoder that `RestorationModel.decode` takes."""


class RestorationModel(nn.Module, ABC, Generic[Known]):
    """A latent diffusion model that restores photographs; nobody outside it knows which system it is.

    vae: its autoencoder. process: of the diffusion. size: what height and width of an HR image must be multiples of,
    and the least. factor: HR pixels per latent pixel. channels: of the latent. defaults: how to sample where the user
    does not say; presets: other ways, the sampling presets, by name. limit: the longest side of an image, in HR pixels,
    that it takes in one piece; None for any. takes_text: whether it can be guided by text. takes_vector: whether it is
    steered by a degradation vector. knows_degradation: whether that is of the picture, not the same for all.
    guided_by_degradation: whether by the degradation vector, so that guidance has a null vector to lead away from.
    """

    vae: nn.Module
    process: Process
    size: SizeRequirement
    factor: int
    channels: int
    defaults: Settings
    presets: Mapping[str, Settings]
    limit: int | None = None
    takes_text: bool = False
    takes_vector: bool = False
    knows_degradation: bool = False
    guided_by_degradation: bool = False

    @abstractmethod
    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, H, W) in [0, 1] → latent (B, C, H/f, W/f): the posterior's mode, or with a generator a sample."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Latent (B, C, h, w) → image (B, 3, fh, fw) in [0, 1]."""

    def vector(self, lr: Tensor) -> Tensor | None:
        """The degradation vector (B, D) of LR images (B, 3, h, w) in [0, 1]; None of a model that knows none."""
        return None

    @abstractmethod
    def condition(
        self,
        lr: Tensor,
        z_lr: Tensor,
        text: Text | None = None,
        guidance: FreeGuidance = NO_GUIDANCE,
        vector: Tensor | None = None,
        negative: Text | None = None,
    ) -> Known:
        """What depends on the LR image (B, 3, H/4, W/4) and on the latent of its up-sampled self, once per image.

        text: of each image or one for all; None leaves it to the model. guidance: by the text, or by the degradation.
        vector: the degradation vector (B, D), in place of that of `lr`. negative: the text that guidance leads away
        from; None leaves it to the model. Raises ValueError for what it can't take.
        """

    def settings(self, options: Options) -> Settings:
        """The sampling preset that `options` name, or the defaults, with the user's changes.

        Raises ValueError for what is not of this model.
        """
        preset = options.preset
        chosen = self.defaults if preset is None else self.presets[one_of("preset", preset, self.presets)]
        settings = chosen.chosen(options)
        make_scheduler(self.process, settings)
        if settings.degradation.scale != 1 and not self.guided_by_degradation:
            raise ValueError(
                "this model has no null vector for guidance by the degradation to lead away from: leave it at 1, or "
                "train with vector.dropout"
            )
        return settings

    def texts(self, options: Options, settings: Settings, device: torch.device) -> TextOf | None:
        """The texts that `options` name, embedded on `device`; None where they name none.

        Raises ValueError for a model that takes none or can't be guided by one, and for texts that can't be had.
        """
        if options.tells:
            raise ValueError("this model takes no text: leave caption, captions, negative and embeddings out")
        if settings.text.scale != 1:
            raise ValueError("this model takes no text, so it can't be guided by one either: leave text guidance at 1")
        return None

    def notes(self, options: Options, settings: Settings) -> list[str]:
        """What to say to the user, a line each: which of the `options` change nothing, and what the model lacks."""
        notes = []
        if options.seed and not settings.noisy:
            notes.append("`seed` changes nothing: this model restores without noise")
        if options.spacing is not None and self.process.flows:
            notes.append("`spacing` changes nothing: this model's times are spread in one way alone")
        return notes

    def guidance(self, settings: Settings) -> FreeGuidance:
        """That of `settings` which is this model's: by text, or by the degradation."""
        return settings.text if self.takes_text else settings.degradation

    def denoise(self, x_t: Tensor, t: Tensor, condition: Known) -> Tensor:
        """The network's prediction for x_t (B, C, h, w) at the process's times t (B,), in its parameterisation."""
        return self(x_t, t, condition.at(self.process, t))

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, condition: Known) -> Tensor:
        """As `denoise`, with a guidance that acts at any t, or none: one graph, which `compile` compiles in place."""

    @abstractmethod
    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The named parameters that training may change, chosen by module."""

    def additions(self) -> set[str]:
        """Names of trained tensors that a model to start from may lack."""
        return set()

    def attentions(self) -> Iterable[nn.Module]:
        """The attentions of the frozen base that LoRA may change."""
        return ()

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Parameters by part."""

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its first parameter, and in restoring of all."""
        return next(self.parameters()).dtype

    def freeze(self) -> None:
        """Only what `trainable` names can be trained."""
        self.requires_grad_(False)
        for _, parameter in self.trainable():
            parameter.requires_grad_(True)
        self.train(False)

    def train(self, mode: bool = True) -> RestorationModel:
        """Stays in evaluation mode: frozen BatchNorms must not move, and no trained part has a mode."""
        return super().train(False)

    def phases(self) -> dict[str, list[nn.Module]]:
        """Its modules by what they work for in restoring, ``vector``, ``encode``, ``denoise`` or ``decode``.

        These come one after another, so that a module need not lie on a GPU while others work.
        """
        parts = {"encode": [], "denoise": [part for part in self.children() if part is not self.vae], "decode": []}
        for name, part in self.vae.named_children():
            parts["decode" if name in DECODING else "encode"].append(part)
        return parts

    def blocks(self) -> Iterator[nn.Module]:
        """The modules that do most of the work: tensors in, one result out, none inside another.

        Training may recompute their activations, and shard them, one by one.
        """
        raise NotImplementedError

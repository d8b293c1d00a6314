"""Images in [0, 1] to latents and back, by any stock autoencoder: the only place where value ranges are converted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_dc import DCUpBlock2d, EfficientViTBlock, ResBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

BLOCKS = (ResnetBlock2D, Attention, Upsample2D, ResBlock, EfficientViTBlock, DCUpBlock2d)
"""Of AutoencoderKL, and of AutoencoderDC."""


def signed(image: Tensor) -> Tensor:
    """[0, 1] → [-1, 1], which autoencoders take and give."""
    return 2 * image - 1


def unsigned(image: Tensor) -> Tensor:
    """[-1, 1] → [0, 1]; values outside stay outside."""
    return (image + 1) / 2


def encode(
    vae: nn.Module, image: Tensor, generator: torch.Generator | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """(B, 3, H, W) in [0, 1] → latent (B, C, H/f, W/f): the posterior's mode, or with a generator a sample.

    dtype: in which the latent is shifted and scaled; None leaves it in the autoencoder's. An autoencoder that is stored
    in half precision as a whole runs in it, its norms too, whatever autocast says.
    """
    half = _half(vae)
    with torch.autocast(image.device.type, enabled=False) if half else nullcontext():
        output = vae.encode(signed(image).to(half or image.dtype))
    posterior = getattr(output, "latent_dist", None)  # AutoencoderDC has none: its latent is the mode
    if posterior is None:
        latent = output.latent
    else:
        latent = posterior.mode() if generator is None else posterior.sample(generator)
    return (latent.to(dtype or latent.dtype) - _shift(vae)) * vae.config.scaling_factor


def decode(vae: nn.Module, latent: Tensor) -> Tensor:
    """Latent (B, C, h, w) → image (B, 3, fh, fw) in [0, 1]."""
    return unsigned(vae.decode(latent / vae.config.scaling_factor + _shift(vae)).sample).clamp(0, 1)


def _half(vae: nn.Module) -> torch.dtype | None:
    """The dtype of all parameters, where that is one of half precision."""
    dtypes = {parameter.dtype for parameter in vae.parameters()}
    return dtypes.pop() if len(dtypes) == 1 and dtypes < {torch.bfloat16, torch.float16} else None


def decoder_blocks(vae: nn.Module) -> Iterator[nn.Module]:
    """The modules that do most of the decoder's work: tensors in, one result out, none inside another."""
    return (module for module in vae.decoder.modules() if isinstance(module, BLOCKS))


def factor(vae: nn.Module) -> int:
    """Pixels per latent pixel."""
    widths = vae.config.get("block_out_channels") or vae.config["encoder_block_out_channels"]
    return 2 ** (len(widths) - 1)


def _shift(vae: nn.Module) -> float:
    return vae.config.get("shift_factor") or 0.0

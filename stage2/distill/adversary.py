"""Critics that tell a student's results from real pictures, of latents or of pixels."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from deedsr.devices import upload
from deedsr.options import one_of

SIGHTS = ("latents", "pixels")
"""What a critic may judge."""
SLOPE = 0.2
"""Of the critics' leaky ReLUs below zero."""
NOISE = 0.01
"""Standard deviation of what a critic of pixels should not care for; pictures are in [0, 1]."""


class Adversary(nn.Module):
    """A critic that says which of two is restored and which real, each patch by itself.

    The two show the same thing, so the critic need not know what is real, only what differs: the relativistic loss of
    arXiv 1807.00734 on pairs. Of ``latents`` it sees each beside the latent of the LR image: that costs next to
    nothing, and tells the student to stay where the decoder knows its way. Of ``pixels`` it sees pictures alone, and
    must not care for noise of `NOISE`, which bounds its slopes (as in arXiv 2501.08316).

    weight: of the student's term. rise: steps in which it rises from nothing: a critic that can't judge yet would teach
    noise. width: channels of the critic's finest level. channels: of the latents. Raises ValueError for another `of`
    than `SIGHTS`.
    """

    def __init__(self, weight: float, width: int, channels: int, of: str = "latents", rise: int = 0) -> None:
        super().__init__()
        self.weight, self.rise, self.pixels = weight, rise, one_of("adversary.of", of, SIGHTS) == "pixels"
        self.critic = PixelCritic(width) if self.pixels else latent_critic(width, channels)

    def forward(
        self, restored: Tensor, real: Tensor, beside: Tensor, generator: torch.Generator, step: int = 0
    ) -> dict[str, Tensor]:
        """The term of the student and that of the critic in a step.

        restored, real: latents (B, C, h, w), or pictures (B, 3, H, W) in [0, 1]. beside: the LR images' latents.
        generator: of the noise that a critic of pixels must not care for.
        """
        weight = self.weight * min(step / self.rise, 1.0) if self.rise else self.weight
        shown = restored.detach()
        on_real, on_restored = self.judged(real, beside), self.judged(shown, beside)
        critic = functional.softplus(on_restored - on_real).mean()
        if self.pixels:
            noise = NOISE * upload(torch.randn(real.shape, generator=generator), real.device)
            for seen, verdict in ((real, on_real), (shown, on_restored)):
                critic = critic + (self.judged(seen + noise, beside) - verdict).square().mean()
        self.critic.requires_grad_(False)
        adversarial = weight * functional.softplus(on_real.detach() - self.judged(restored, beside)).mean()
        self.critic.requires_grad_(True)
        return {"adversarial": adversarial, "critic": critic}

    def judged(self, seen: Tensor, beside: Tensor) -> Tensor:
        return self.critic(seen if self.pixels else torch.cat([seen, beside], 1)).float()


def latent_critic(width: int, channels: int) -> nn.Sequential:
    """Latents beside those of LR images (B, 2C, h, w) → a number for each patch (B, 1, h/4, w/4)."""
    layers: list[nn.Module] = []
    widths = [2 * channels, width, width, 2 * width, 2 * width, 2 * width]
    for (below, above), stride in zip(pairwise(widths), (1, 1, 2, 1, 2), strict=True):
        layers += [spectral_norm(nn.Conv2d(below, above, 3, stride, 1)), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))


class PixelCritic(nn.Sequential):
    """Pictures (B, 3, H, W) in [0, 1] → a number for each patch (B, 1, H/4, W/4), H and W multiples of 4.

    It sees each picture and, ten times as strong, what is finer than five pixels in it, as restored pictures differ
    from real ones by little. Spectral normalisation would keep it from making much of little: with it the U-Net of
    Real-ESRGAN (arXiv 2107.10833, section 3.3) could not tell them apart (record of the built-in model).
    """

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = []
        widths = [6, width, 2 * width, 2 * width, 4 * width, 4 * width]
        for (below, above), stride in zip(pairwise(widths), (1, 2, 1, 2, 1), strict=True):
            convolution = nn.Conv2d(below, above, 2 + stride, stride, 1)
            nn.init.kaiming_normal_(convolution.weight, SLOPE)
            layers += [convolution, nn.LeakyReLU(SLOPE)]
        super().__init__(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, picture: Tensor) -> Tensor:
        coarse = functional.avg_pool2d(picture, 5, 1, 2, count_include_pad=False)
        return super().forward(torch.cat([2 * picture - 1, 10 * (picture - coarse)], 1))

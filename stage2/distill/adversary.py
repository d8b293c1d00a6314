"""Critics that tell a student's results from real pictures, of latents or of pixels."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from deedsr.options import one_of

SIGHTS = ("latents", "pixels")
"""What a critic may judge."""


class Adversary(nn.Module):
    """A critic that tells restored from real pictures (hinge loss, arXiv 1705.02894), each patch or pixel by itself.

    Of ``latents`` it sees each beside the latent of the LR image: that costs next to nothing, and tells the student to
    stay where the decoder knows its way. Of ``pixels`` it sees pictures alone.

    weight: of the student's term. rise: steps in which it rises from nothing: a critic that can't judge yet would teach
    noise. width: channels of the critic's finest level. channels: of the latents. Raises ValueError for another `of`
    than `SIGHTS`.
    """

    def __init__(self, weight: float, width: int, channels: int, of: str = "latents", rise: int = 0) -> None:
        super().__init__()
        self.weight, self.rise, self.pixels = weight, rise, one_of("adversary.of", of, SIGHTS) == "pixels"
        self.critic = PixelCritic(width) if self.pixels else latent_critic(width, channels)

    def forward(self, restored: Tensor, real: Tensor, beside: Tensor, step: int = 0) -> dict[str, Tensor]:
        """The term of the student and that of the critic in a step.

        restored, real: latents (B, C, h, w), or pictures (B, 3, H, W) in [0, 1]. beside: the LR images' latents.
        """
        weight = self.weight * min(step / self.rise, 1.0) if self.rise else self.weight
        self.critic.requires_grad_(False)
        adversarial = -weight * self.judged(restored, beside).mean()
        self.critic.requires_grad_(True)
        on_real, on_restored = self.judged(real, beside), self.judged(restored.detach(), beside)
        critic = functional.relu(1 - on_real).mean() + functional.relu(1 + on_restored).mean()
        return {"adversarial": adversarial, "critic": critic}

    def judged(self, seen: Tensor, beside: Tensor) -> Tensor:
        return self.critic(seen if self.pixels else torch.cat([seen, beside], 1)).float()


def latent_critic(width: int, channels: int) -> nn.Sequential:
    """Latents beside those of LR images (B, 2C, h, w) → a number for each patch (B, 1, h/4, w/4)."""
    layers: list[nn.Module] = []
    widths = [2 * channels, width, width, 2 * width, 2 * width, 2 * width]
    for (below, above), stride in zip(pairwise(widths), (1, 1, 2, 1, 2), strict=True):
        layers += [spectral_norm(nn.Conv2d(below, above, 3, stride, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))


class PixelCritic(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] → a number for each pixel (B, 1, H, W), H and W multiples of 8.

    A U-Net with spectral normalisation, after that of Real-ESRGAN (arXiv 2107.10833, section 3.3): three levels down to
    eight times the width, and up again with what was there before added.
    """

    def __init__(self, width: int) -> None:
        super().__init__()

        def normed(below: int, above: int, kernel: int = 3, stride: int = 1) -> nn.Module:
            return spectral_norm(nn.Conv2d(below * width, above * width, kernel, stride, 1, bias=False))

        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(normed(level, 2 * level, 4, 2) for level in (1, 2, 4))
        self.up = nn.ModuleList(normed(2 * level, level) for level in (4, 2, 1))
        self.last = nn.Sequential(normed(1, 1), nn.LeakyReLU(0.2), normed(1, 1), nn.LeakyReLU(0.2))
        self.verdict = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        levels = [functional.leaky_relu(self.first(2 * picture - 1), 0.2)]
        for down in self.down:
            levels.append(functional.leaky_relu(down(levels[-1]), 0.2))
        h = levels.pop()
        for up in self.up:
            larger = functional.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
            h = functional.leaky_relu(up(larger), 0.2) + levels.pop()
        return self.verdict(self.last(h))

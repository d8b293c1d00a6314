"""The two phases of pre-training a small base."""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional

from deedsr.data.batch import Crops
from deedsr.devices import upload
from deedsr.diffusion.process import Process
from deedsr.ema import Average
from deedsr.metrics.perceptual import lpips_loss, shifted
from deedsr.models.frozen import latents
from deedsr.training.optimizer import scheduled
from deedsr.training.run import Run, pixels
from stage2.base.sizes import unconditional


class Frozen(nn.Module):
    """Holds a network that is used but neither trained, saved, nor put into train mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


class BaseRun(Run):
    """A phase: `cfg` is its part of the configuration."""

    def __init__(self, cfg: DictConfig, seed: int) -> None:
        super().__init__(seed)
        self.cfg = cfg

    def configure_optimizers(self) -> dict:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return scheduled(trained, self.cfg.lr, self.cfg.warmup, self.cfg.steps)


class AutoencoderRun(BaseRun):
    """Reconstruction of crops: L1, LPIPS on some steps, a small pull of the latents towards zero, noise on them."""

    def __init__(self, vae: nn.Module, cfg: DictConfig, seed: int) -> None:
        super().__init__(cfg, seed)
        self.vae = vae
        self.perceptual = lpips_loss(cfg.perceptual) if cfg.perceptual else None
        self.register_buffer("mean_square", torch.ones(()))

    def saved(self) -> set[str]:
        return {name for name in self.state_dict() if not name.startswith("perceptual.")}

    def scaling_factor(self) -> float:
        """1/rms of the latents, from the running mean of their squares."""
        return float(self.mean_square.rsqrt())

    def training_step(self, batch: Crops) -> Tensor:
        image = pixels(batch.hr)
        z = self.vae.encoder(latents.signed(image))
        square = z.float().square().mean()
        self.mean_square.lerp_(self.trainer.strategy.reduce(square.detach()), 0.01)
        noise = upload(torch.randn(z.shape, generator=self.generator(1)), z.device).to(z)
        output = self.vae.decoder(z + self.cfg.latent_noise * square.detach().sqrt().to(z) * noise).float()
        result = latents.unsigned(output)
        l1 = functional.l1_loss(result, image)
        loss = l1 + self.cfg.latent_penalty * square
        if self.perceptual is not None and self.global_step % self.cfg.perceptual_every == 0:
            count = self.global_step // self.cfg.perceptual_every
            lpips = self.perceptual(shifted(result.clamp(0, 1), count), shifted(image, count))
            loss = loss + self.cfg.perceptual_weight * lpips
            self.log("lpips", lpips)
        self.log("l1", l1)
        self.log("latent_rms", square.sqrt())
        return loss


class DenoiserRun(BaseRun):
    """The unconditional denoiser: mean squared error of the prediction at uniform t; its text is one zero token."""

    def __init__(self, denoiser: nn.Module, vae: nn.Module, scheduler: dict, cfg: DictConfig, seed: int) -> None:
        super().__init__(cfg, seed)
        self.denoiser, self.vae = denoiser, Frozen(vae)
        self.process = Process.from_config(scheduler)
        self.average: Average = Average(self.denoiser.named_parameters(), cfg.ema)

    def saved(self) -> set[str]:
        return {name for name in self.state_dict() if not name.startswith("vae.")}

    def training_step(self, batch: Crops) -> Tensor:
        with torch.no_grad():
            z = latents.encode(self.vae.network, pixels(batch.hr), dtype=torch.float32)
        generator = self.generator(1)
        if self.process.flows:
            t = self.process.steps * (1 - torch.rand(len(z), generator=generator))
        else:
            t = torch.randint(0, self.process.steps, (len(z),), generator=generator)
        t, noise = upload(t, z.device), upload(torch.randn(z.shape, generator=generator), z.device)
        output = unconditional(self.denoiser, self.process.noised(z, noise, t), t)
        loss = functional.mse_loss(output.float(), self.process.target(z, noise, t))
        self.log("mse", loss)
        return loss

    def averaged(self) -> dict[str, Tensor]:
        """The denoiser's state with the averaged parameters in it."""
        return {**self.denoiser.state_dict(), **self.average.tensors}

"""The LightningModule of stage 2, for any restoration model."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor

from deedsr.data.photos import seeded
from deedsr.degradation import Mixture, Recipe, apply
from deedsr.ema import Average
from deedsr.images import upsample
from deedsr.models.base import RestorationModel
from stage2.objective import Objective, draw_times
from stage2.run import adamw, pixels


class RestorationRun(pl.LightningModule):
    """Degrades crops on the device and trains what `model` says is trainable; only that is in the checkpoint.

    A batch is uint8 (B, 3, S, S). Everything random is a pure function of (seed, step, rank).
    """

    def __init__(
        self,
        model: RestorationModel,
        recipe: Recipe | Mixture,
        objective: Objective,
        optimizer: DictConfig,
        steps: int,
        ema: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.objective = model, recipe, objective
        self.optimizer_config, self.steps, self.seed = optimizer, steps, seed
        self.average = Average(model.trainable(), ema)

    def generators(self) -> tuple[torch.Generator, torch.Generator]:
        """For the degradation and for the diffusion of this step on this rank."""
        accumulated = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        numbers = (self.seed, self.global_step, self.global_rank, accumulated if self._accumulates() else 0)
        return seeded(*numbers, 1), seeded(*numbers, 2)

    def _accumulates(self) -> bool:
        return self.trainer.accumulate_grad_batches > 1

    @torch.no_grad()
    def prepare(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """HR in [0, 1], LR, and the latents of the HR and of the up-sampled LR."""
        hr = pixels(batch)
        with torch.autocast(hr.device.type, enabled=False):
            lr = apply(hr, self.recipe.sample(generator, len(hr)))
        return hr, lr, self.model.encode(hr).float(), self.model.encode(upsample(lr)).float()

    def training_step(self, batch: Tensor) -> Tensor:
        for_degradation, for_diffusion = self.generators()
        hr, lr, z, z_lr = self.prepare(batch, for_degradation)
        t = draw_times(self.model.process, len(z), self.objective.time_bias, for_diffusion).to(z.device)
        noise = torch.randn(z.shape, generator=for_diffusion).to(z)
        x_t = self.model.process.noised(z, noise, t)
        output = self.model.denoise(x_t, t, self.model.condition(lr, z_lr)).float()
        fidelity = self.objective.fidelity
        decode = fidelity is not None and self.global_step % fidelity.every == 0
        terms = self.objective(self.model, output, z, noise, t, hr, decode)
        for name, term in terms.items():
            self.log(f"train/{name}", term.detach(), prog_bar=name in ("mse", "perceptual"))
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of step {self.global_step} is {loss.item()}: lower optimizer.lr, or precision")
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        if not self._accumulates() or self.global_step > self.average.updates:
            self.average.update()

    def configure_optimizers(self) -> dict:
        trained = [parameter for _, parameter in self.model.trainable()]
        return adamw(trained, steps=self.steps, **self.optimizer_config)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        trained = {f"model.{name}" for name, _ in self.model.trainable()}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in trained}
        checkpoint["average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        trained = {f"model.{name}" for name, _ in self.model.trainable()}
        state = checkpoint["state_dict"]
        if state.keys() != trained:
            name = sorted(state.keys() ^ trained)[0]
            raise ValueError(f"the checkpoint is of another model: {name} is only in one of the two")
        own = self.state_dict()
        checkpoint["state_dict"] = {**own, **state}
        self.average.load_state_dict(checkpoint["average"])

"""The LightningModule of stage 2, for any restoration model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from deedsr.data.batch import Crops
from deedsr.data.pair_crops import degraded
from deedsr.degradation import Mixture, Recipe
from deedsr.degradation.operations import unsharp
from deedsr.devices import upload
from deedsr.diffusion.free_guidance import NO_GUIDANCE, FreeGuidance
from deedsr.ema import Average
from deedsr.geometry import resize, upsample
from deedsr.models.contract import Condition, RestorationModel, Text
from deedsr.restorer import Restorer
from deedsr.training.optimizer import scheduled
from deedsr.training.run import Run, in_bytes, pixels
from stage2.cache.samples import Samples
from stage2.objective import Objective, draw_times
from stage2.scaling import shard
from stage2.vector import Vector, cut, places

NULL = "adapter.null"
"""The name of the null vector."""

DEGRADATION, DIFFUSION, ROLLOUT, DROPOUT, CRITIC = 1, 2, 3, 4, 5  # independent streams of a batch's random numbers


class RestorationRun(Run):
    """Degrades pictures, uint8 (B, 3, S, S), on the device and trains what `model` says is trainable.

    Those of pairs have their LR already.

    crop: HR pixels of the part of each that the network sees. vector: what it is told of the degradation. usm: strength
    of the unsharp mask on the ground truth, None for none. only: part of the names of the parameters that are trained,
    the others stay; None for all. Raises ValueError where it is part of no name.
    """

    average: Average

    def __init__(
        self,
        model: RestorationModel,
        recipe: Recipe | Mixture,
        objective: Objective,
        optimizer: Mapping[str, Any],
        steps: int,
        ema: float,
        seed: int,
        crop: int,
        vector: Vector,
        usm: float | None = None,
        only: str | None = None,
    ) -> None:
        super().__init__(seed)
        self.model, self.recipe, self.objective, self.crop, self.vector = model, recipe, objective, crop, vector
        self.usm = usm
        self.optimizer_config, self.steps = optimizer, steps
        self.average = Average(model.trainable(), ema)
        for name, parameter in model.trainable():
            # DDP takes one without a gradient for a fault, and an optimizer lets it decay
            if not self.learns(name) or (only is not None and only not in name):
                parameter.requires_grad_(False)
        if only is not None and not any(only in name for name, _ in model.trainable()):
            raise ValueError(
                f"only={only} is part of no trained parameter's name, such as {next(model.trainable())[0]}"
            )

    def learns(self, name: str) -> bool:
        """Whether a step may use the trainable parameter."""
        return name != NULL or self.asks_null()

    def asks_null(self) -> bool:
        """Whether a step may use the model's null vector, where it has one."""
        return bool(self.vector.dropout) or not self.model.knows_degradation

    def saved(self) -> set[str]:
        return {f"model.{name}" for name, _ in self.model.trainable()}

    def configure_model(self) -> None:
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            shard(self, self.model, self.device_mesh)
            self.average.follow(self.model.trainable())

    def awake(self) -> None:
        """To FSDP a forward pass of the whole: before the first step a part that is used would become its root."""

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the context the model can be used, with its averaged parameters; all ranks must enter it together."""
        with self.average.swapped():
            if isinstance(self, FSDPModule):
                self.awake()
                for part in self.modules():
                    if isinstance(part, FSDPModule):
                        part.unshard()  # first here: what it gathers into must not be made in inference mode
                        part.reshard()
                self.unshard()
            yield
            if isinstance(self, FSDPModule):
                self.reshard()

    @torch.no_grad()
    def samples(self, batch: Crops | Samples, generator: torch.Generator) -> Samples:
        """What the network learns from, made of crops unless it is made already."""
        if isinstance(batch, Samples):
            return batch
        hr, image = batch.hr, pixels(batch.hr)
        with torch.autocast(image.device.type, enabled=False):
            if self.usm is not None:
                image = unsharp(image, self.usm)
                hr = in_bytes(image)
            degradation = self.recipe.sample(generator, len(image))
            lr = degraded(image, degradation, batch.lr, batch.paired)
            enlarged = upsample(lr)
        aim = self.aim(hr, lr, generator)
        if aim is not hr:
            hr, image = aim, pixels(aim)
        if image.shape[-1] > self.crop:
            seen = places(len(image), image.shape[-1], self.crop, generator)
            hr, image, enlarged = (cut(one, seen, self.crop) for one in (hr, image, enlarged))
        z, z_lr = self.model.encode(image), self.model.encode(enlarged)
        return Samples(in_bytes(lr) if self.recipe.eight_bits else lr, z, z_lr, hr, batch.tokens, batch.pooled)

    def aim(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> Tensor:
        """What the network learns to make of `lr`, uint8 (B, 3, S, S): the ground truth."""
        return hr

    def conditioned(
        self, batch: Crops | Samples, guidance: FreeGuidance = NO_GUIDANCE
    ) -> tuple[Tensor | None, Tensor, Condition]:
        """HR in [0, 1], where the batch has it, its latent, and what the network is told of the LR images."""
        made = self.samples(batch, self.generator(DEGRADATION))
        hr = None if made.hr is None else pixels(made.hr)
        text = None if made.tokens is None or made.pooled is None else Text(made.tokens, made.pooled)
        lr = pixels(made.lr)
        condition = self.model.condition(lr, made.z_lr.float(), text, guidance, self.told(lr))
        return hr, made.z.float(), condition

    def told(self, lr: Tensor) -> Tensor | None:
        """The degradation vectors (B, D) for LR images, and now and then the null vector."""
        vector = self.model.vector(lr)
        if vector is None or not self.vector.dropout:
            return vector
        dropped = torch.rand(len(lr), 1, generator=self.generator(DROPOUT)) < self.vector.dropout
        return torch.where(upload(dropped, lr.device), self.model.null(len(lr)), vector)

    def pictures(self, batch: Crops | Samples, count: int) -> dict[str, tuple[Tensor, int]]:
        """What the degradation made; of `count` the LR enlarged, restored with averaged weights, and ground truth."""
        with self.averaged(), self.trainer.precision_plugin.forward_context():
            made = self.samples(batch, self.generator(DEGRADATION))
            given = batch.hr if isinstance(batch, Crops) else made.hr
            lr, restorer = pixels(made.lr[:count]), Restorer(self.model)
            restored = torch.cat([restorer.restore(picture) for picture in lr.cpu().split(1)]).to(lr)
            truth = self.model.decode(made.z[:count]).float() if given is None else pixels(given[:count])
        cells = [resize(part, (restored.shape[-1], restored.shape[-2])) for part in (upsample(lr), restored, truth)]
        return {
            "degraded": (pixels(made.lr), len(made.lr)),
            "restored": (torch.stack(cells, 1).flatten(0, 1).clamp(0, 1), len(cells)),
        }

    def training_step(self, batch: Crops | Samples) -> Tensor:
        hr, z, condition = self.conditioned(batch)
        for_diffusion = self.generator(DIFFUSION)
        t = draw_times(self.model.process, len(z), self.objective.time_bias, for_diffusion)
        noise = torch.randn(z.shape, generator=for_diffusion)
        t, noise = upload(t, z.device), upload(noise, z.device)
        if torch.rand((), generator=self.generator(ROLLOUT, alike=True)) < self.objective.rollout:
            x_t, target_noise = self.rolled_out(noise, t, condition), None
        else:
            x_t, target_noise = self.model.process.noised(z, noise, t), noise
        output = self.model.denoise(x_t, t, condition).float()
        return self.total(self.objective(self.model, output, x_t, t, z, target_noise, hr, self.global_step))

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of the terms of the loss; each is logged."""
        for name, term in terms.items():
            self.log(f"train/{name}", term.detach())
        return torch.stack(list(terms.values())).sum()

    @torch.no_grad()
    def rolled_out(self, noise: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x_t after one deterministic step from pure `noise`: x_t = α_t x̂0 + σ_t ε̂, x̂0 the model's first estimate."""
        process = self.model.process
        first = torch.full_like(t, process.last)
        clean = process.clean(self.model.denoise(noise, first, condition).float(), noise, first)
        alpha, sigma = process.coefficients(first, noise)
        return process.noised(clean, (noise - alpha * clean) / sigma, t)

    def configure_optimizers(self) -> dict:
        trained = [parameter for _, parameter in self.model.trainable()]
        return scheduled(trained, steps=self.steps, **self.optimizer_config)

"""The LightningModule of `stage2.distill`: the sampler's result itself is compared with the ground truth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deedsr.coherence import coherent
from deedsr.data.batch import Crops
from deedsr.devices import upload
from deedsr.diffusion.sampler import sample
from deedsr.models.contract import Condition
from deedsr.training.optimizer import scheduled
from deedsr.training.run import in_bytes
from stage2.cache.samples import Samples
from stage2.distill.adversary import Adversary
from stage2.distill.teacher import Teacher
from stage2.module import CRITIC, DIFFUSION, RestorationRun


class StudentRun(RestorationRun):
    """Samples as the model's defaults say, all steps with gradients, and compares the result with the ground truth.

    run: of `RestorationRun`; of the objective only the terms of fidelity count. adversary: arguments of `Adversary` and
    lr, the critic's learning rate; None for none. teacher: whose pictures are learned as well; None for none.
    """

    def __init__(self, adversary: dict[str, Any] | None, teacher: Teacher | None = None, **run: Any) -> None:
        super().__init__(**run)
        self.teacher = teacher
        torch.manual_seed(self.seed)  # the critic's first weights, too, are a function of it
        critic = dict(adversary or {})
        self.critic_lr = critic.pop("lr", None)
        self.adversary = Adversary(channels=self.model.channels, **critic) if adversary else None

    def asks_null(self) -> bool:
        return super().asks_null() or self.model.guidance(self.model.defaults).scale != 1

    def saved(self) -> set[str]:
        return super().saved() | {name for name in self.state_dict() if name.startswith("adversary.")}

    def aim(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> Tensor:
        """The ground truth, or in a share of the samples what the teacher makes of the LR image or of it."""
        if self.teacher is None:
            return hr
        taught = (torch.rand(len(lr), generator=generator) < self.teacher.share).nonzero().squeeze(1)
        if not len(taught):
            return hr
        rows = upload(taught, lr.device)
        return hr.index_copy(0, rows, in_bytes(self.teacher(lr[rows], hr[rows])))

    def training_step(self, batch: Crops | Samples) -> Tensor:
        fidelity = self.objective.fidelity
        hr, z, condition = self.conditioned(batch, self.model.guidance(self.model.defaults))
        assert hr is not None and fidelity is not None
        clean = self.sampled(condition, self.generator(DIFFUSION))
        picture = self.finished(clean)
        terms = fidelity.latent(clean, z) | fidelity.picture(picture, hr, self.global_step)
        if self.adversary is not None:
            restored, real = (picture, hr) if self.adversary.pixels else (clean, z)
            terms |= self.adversary(restored, real, condition.z_lr, self.generator(CRITIC), self.global_step)
        return self.total(terms)

    def finished(self, clean: Tensor) -> Tensor:
        """The picture (B, 3, H, W) of a latent (B, C, h, w), with edges as the restorer leaves them; differentiable."""
        return coherent(self.model.decode(clean).float(), self.model.defaults.coherence)

    def sampled(self, condition: Condition, generator: torch.Generator) -> Tensor:
        """What the sampler gives, (B, C, h, w), from noise that `generator` draws; differentiable."""
        model, z_lr = self.model, condition.z_lr
        noise = upload(torch.randn(z_lr.shape, generator=generator), z_lr.device).to(z_lr)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return model.denoise(x_t, t, condition).float()

        return sample(denoise, model.process, z_lr, model.defaults, noise, generator, checked=False)

    def configure_optimizers(self) -> dict:
        groups: list[dict[str, Any]] = [{"params": [parameter for _, parameter in self.model.trainable()]}]
        if self.adversary is not None:
            groups.append({"params": list(self.adversary.parameters()), "lr": self.critic_lr, "weight_decay": 0.0})
        return scheduled(groups, steps=self.steps, **self.optimizer_config)

"""The diffusion process x_t = α_t x0 + σ_t ε and the three things that networks predict of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from deedsr.devices import upload

PREDICTIONS = ("epsilon", "v_prediction", "flow_prediction")


def numbers_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration of diffusers says of its object, without the names of class, version and file."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


@dataclass(frozen=True)
class Process:
    """A process with times up to `last`. config: of the diffusers scheduler.

    alphas, sigmas: by integer time, (steps,), float64, on the CPU; a rectified flow has none, its times t are real,
    0 < t ≤ steps, and σ = t/steps.

    epsilon: the network predicts ε. v_prediction: v = α ε − σ x0 (arXiv 2202.00512). flow_prediction: u = ε − x0 with
    α = 1 − σ (rectified flow, arXiv 2209.03003).
    """

    steps: int
    prediction: str
    config: Mapping[str, Any]
    alphas: Tensor | None = None
    sigmas: Tensor | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Process:
        """From a diffusers scheduler configuration; the prediction type is read from it.

        Raises ValueError for a prediction type that is none of the three.
        """
        if "Flow" in str(config.get("_class_name", "")):
            return cls(config.get("num_train_timesteps", 1000), "flow_prediction", dict(config))
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in PREDICTIONS[:2]:
            raise ValueError(f"prediction_type {prediction!r} is not known; it must be one of {', '.join(PREDICTIONS)}")
        cumulative = diffusers.DDIMScheduler.from_config(
            {**config, "_class_name": "DDIMScheduler"}
        ).alphas_cumprod.double()
        return cls(len(cumulative), prediction, dict(config), cumulative.sqrt(), (1 - cumulative).sqrt())

    @property
    def flows(self) -> bool:
        """Whether it is a rectified flow."""
        return self.prediction == "flow_prediction"

    @property
    def last(self) -> int:
        """The noisiest time."""
        return self.steps if self.flows else self.steps - 1

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t for times t (B,): (B,), float64, where t is; on the CPU where Apple has none."""
        if t.device.type == "mps":
            t = t.cpu()
        if self.alphas is None or self.sigmas is None:
            sigma = t.double() / self.steps
            return 1 - sigma, sigma
        alpha, sigma = upload(torch.stack([self.alphas, self.sigmas]), t.device)[:, t.long()]
        return alpha, sigma

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t for times t (B,), shaped (B, 1, 1, 1), of `like`'s dtype and device."""
        alpha, sigma = self.levels(t)
        shape = (-1,) + (1,) * (like.ndim - 1)
        return alpha.view(shape).to(like), sigma.view(shape).to(like)

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = α_t x0 + σ_t ε."""
        alpha, sigma = self.coefficients(t, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "flow_prediction":
            return noise - x0
        alpha, sigma = self.coefficients(t, x0)
        return alpha * noise - sigma * x0

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x̂0 from the network's `output`."""
        alpha, sigma = self.coefficients(t, x_t)
        if self.prediction == "epsilon":
            return (x_t - sigma * output) / alpha
        if self.prediction == "flow_prediction":
            return x_t - sigma * output
        return alpha * x_t - sigma * output

    def output(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The network output that means x̂0 = `x0`: the inverse of `clean`, where σ_t > 0."""
        alpha, sigma = self.coefficients(t, x_t)
        return self.target(x0, (x_t - alpha * x0) / sigma, t)

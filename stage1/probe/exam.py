"""What a degradation vector tells: linear probes of single degradations, the level, and the content that leaks in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deedsr.degradation import Degradation, Mixture, Order, Recipe, apply
from deedsr.randomness import seeded

Reader = Callable[[Tensor], Tensor]
"""What is probed: LR pictures (B, 3, h, w) in [0, 1] -> features (B, D). An encoder must be in eval mode."""

PENALTIES = tuple(10.0**exponent for exponent in range(-4, 3))
"""The strengths of the penalty that `ridge` chooses from."""

NEUTRAL = Order(0, (0.2, 0.2), (0, 0, 1), (1, 1), gaussian=(0, 0), poisson=(0, 0), jpeg=(100, 100), gaussian_share=1)
"""An order that does nothing but JPEG at quality 100."""


def ridge(features: Tensor, targets: Tensor, penalties: Sequence[float] = PENALTIES) -> tuple[Tensor, Tensor]:
    """Linear least squares with a penalty λN|w|²: (N, D), (N, T) -> weights (D, T) and offset (T,).

    Closed form on standardised features X = U S Vᵀ: ŷ = U S²/(S² + λN) Uᵀ y. λ is the one of `penalties` with the
    least leave-one-out error, which is (y − ŷ)/(1 − h) with h the diagonal of the map from y to ŷ.
    """
    mean, scale, centre = features.mean(0), features.std(0).clamp_min(1e-8), targets.mean(0)
    u, s, vt = torch.linalg.svd((features - mean) / scale, full_matrices=False)
    inner = u.T @ (targets - centre)
    best, error = torch.zeros_like(inner), math.inf
    for penalty in penalties:
        shrink = s.square() / (s.square() + penalty * len(u))
        leverage = u.square() @ shrink + 1 / len(u)
        left_out = (targets - centre - u @ (shrink[:, None] * inner)) / (1 - leverage).clamp_min(1e-8)[:, None]
        if left_out.square().mean() < error:
            error = float(left_out.square().mean())
            best = vt.T @ ((shrink / s.clamp_min(1e-12))[:, None] * inner)
    weights = best / scale[:, None]
    return weights, centre - mean @ weights


def linear_r2(fit: Tensor, fit_target: Tensor, test: Tensor, test_target: Tensor) -> float:
    """R² on the test rows of `ridge` on the fit rows: (N, D), (N,), (M, D), (M,); rows without a target don't count.

    Test features are held within twice the range of the fit rows: what a unit that hardly any picture excites would
    say far beyond it is not known.
    """
    fit, fit_target = fit[fit_target.isfinite()], fit_target[fit_target.isfinite()]
    test, test_target = test[test_target.isfinite()], test_target[test_target.isfinite()]
    weights, offset = ridge(fit, fit_target[:, None])
    low, high = fit.amin(0), fit.amax(0)
    test = test.clamp(low - (high - low) / 2, high + (high - low) / 2)
    error = test_target - (test @ weights + offset)[:, 0]
    return float(1 - error.square().mean() / test_target.var(correction=0))


def linear_accuracy(features: Tensor, label: Tensor) -> float:
    """Accuracy of `ridge` on one-hot labels (N,): fitted to the even rows and tested on the odd ones, and reversed."""
    target = F.one_hot(label).to(features.dtype)
    right = 0
    for held in (0, 1):
        weights, offset = ridge(features[1 - held :: 2], target[1 - held :: 2])
        right += int(((features[held::2] @ weights + offset).argmax(1) == label[held::2]).sum())
    return right / len(label)


def nearest_accuracy(fit: Tensor, fit_label: Tensor, test: Tensor, test_label: Tensor, neighbours: int = 15) -> float:
    """Accuracy of the vote of the nearest fit rows (cosine) of standardised vectors: (N, D), (N,), (M, D), (M,)."""
    mean, scale = fit.mean(0), fit.std(0).clamp_min(1e-8)
    fit, test = F.normalize((fit - mean) / scale, dim=1), F.normalize((test - mean) / scale, dim=1)
    nearest = (test @ fit.T).topk(min(neighbours, len(fit)), 1).indices
    votes = F.one_hot(fit_label)[nearest].sum(1)
    return float((votes.argmax(1) == test_label).double().mean())


def single_recipes() -> dict[str, Recipe]:
    """Recipes in which one operation alone varies, by its name."""
    orders = {
        "blur": (replace(NEUTRAL, blur=1, sigma=(0.2, 3)), NEUTRAL),
        "noise": (NEUTRAL, replace(NEUTRAL, gaussian=(1, 25))),
        "jpeg": (NEUTRAL, replace(NEUTRAL, jpeg=(30, 95))),
        "resize": (replace(NEUTRAL, resize=(0, 1, 0), scale=(0.15, 1)), NEUTRAL),
    }
    plain = Recipe(NEUTRAL, NEUTRAL, (1, 1), (1, 1), (1, 0, 0, 0, 0, 0), sinc=0, final_sinc=0, clean=0)
    return {name: replace(plain, first=first, second=second) for name, (first, second) in orders.items()}


def targets(degradation: Degradation) -> dict[str, Tensor]:
    """What the linear probes shall read, (N,) each; not a number where the operation was not done."""
    values = {
        "blur": degradation.sigma_x[:, 0],
        "noise": degradation.noise_sigma[:, 1],
        "jpeg": degradation.quality[:, 1],
        "resize": degradation.resize_scale[:, 0],
    }
    return {name: torch.where(value > 0, value.double(), torch.nan) for name, value in values.items()}


@dataclass(frozen=True, eq=False)
class Exam:
    """Degraded pictures of which all is known, made once for all readers that are to be compared on them.

    pictures: uint8 (N + M, 3, S/4, S/4) for each of `single_recipes` and ``mixed``. drawn: their degradations. fit: N,
    the first rows, to which the probes are fitted; M others are the test. photo: (M,), which photograph each is of.
    """

    pictures: dict[str, Tensor]
    drawn: dict[str, Degradation]
    fit: int
    photo: Tensor

    @classmethod
    def make(
        cls,
        fit: Tensor,
        test: Tensor,
        photo: Tensor,
        recipe: Recipe | Mixture,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> Exam:
        """Degrades crops, fit: uint8 (N, 3, S, S), S a multiple of 4, and test: (M, 3, S, S) of other photographs.

        Of each of these there is the same, even number of crops, one after the other; photo: (M,) int64, from 0, says
        which it is. recipe: the whole random degradation. device: where it is computed.
        """
        images, pictures, drawn = torch.cat([fit, test]), {}, {}
        for number, (name, single) in enumerate({**single_recipes(), "mixed": recipe}.items()):
            drawn[name] = single.sample(seeded(seed, number), len(images))
            rows = [
                apply(image[None].to(device).float() / 255, drawn[name][index]) for index, image in enumerate(images)
            ]
            pictures[name] = torch.cat([(row * 255).round().byte().cpu() for row in rows])
        return cls(pictures, drawn, len(fit), photo)


@torch.no_grad()
def read(reader: Reader, pictures: Tensor, device: torch.device | str = "cpu", batch: int = 32) -> Tensor:
    """What `reader`, on `device`, says of uint8 pictures (N, 3, h, w): (N, D), float64 on the CPU."""
    parts = [reader(part.to(device).float() / 255).double().cpu() for part in pictures.split(batch)]
    return torch.cat(parts)


def probe(reader: Reader, exam: Exam, device: torch.device | str = "cpu") -> dict[str, float]:
    """What the vectors of a reader on `device` tell, on photographs that the probes were not fitted to.

    R² of linear probes, 1 is perfect and 0 knows nothing: ``blur`` σ (HR pixels, isotropic), Gaussian ``noise`` σ,
    ``jpeg`` quality and first ``resize`` factor where each *alone* varies; ``mixed_…`` the same within the whole random
    degradation. ``level``: accuracy of light, medium or heavy by the 15 nearest neighbours (chance: 1/3; the levels
    overlap). ``content``: accuracy of a linear probe for *which photograph* it was, among ``photos`` (lower is better;
    chance: 1/photos).
    """
    n, results = exam.fit, {}
    for name in single_recipes():
        features, target = read(reader, exam.pictures[name], device), targets(exam.drawn[name])[name]
        results[name] = linear_r2(features[:n], target[:n], features[n:], target[n:])
    features = read(reader, exam.pictures["mixed"], device)
    for name, target in targets(exam.drawn["mixed"]).items():
        results[f"mixed_{name}"] = linear_r2(features[:n], target[:n], features[n:], target[n:])
    level = exam.drawn["mixed"].level.clamp_min(0)
    results["level"] = nearest_accuracy(features[:n], level[:n], features[n:], level[n:])
    results["content"] = linear_accuracy(features[n:], exam.photo)
    return {**results, "photos": int(exam.photo.max()) + 1}


def principal(features: Tensor, count: int = 2) -> Tensor:
    """The first principal components of standardised features: (N, D) -> (N, count), longest first."""
    standard = (features - features.mean(0)) / features.std(0).clamp_min(1e-8)
    u, s, _ = torch.linalg.svd(standard, full_matrices=False)
    return u[:, :count] * s[:count]

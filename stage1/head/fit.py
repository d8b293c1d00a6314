"""Fits the head of ``deedsr diagnose`` and judges it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from deedsr import weights
from deedsr.data.members import Photo
from deedsr.data.photos import PhotoCrops
from deedsr.degradation.statistics import laplacian
from deedsr.geometry import SCALE
from deedsr.models.deedsr.folder import load_encoder
from deedsr.models.deedsr.head import QUANTITIES, DiagnosisHead, from_scale, median_level, to_scale
from deedsr.nested import join
from deedsr.randomness import seeded
from stage1.head.truth import Truth, direct, drawn
from stage1.probe.crops import splits
from stage1.probe.exam import read
from stage1.probe.levels import graded

BATCH = 256
JITTER = 0.5
"""Of the vectors in the fit, in their standard deviations: a few thousand pictures invite overfitting."""

CALIBRATION = 5
"""One photograph of so many is kept from the fit: it chooses the epoch and scales the uncertainty."""

REACH = 0.99
"""The share of the pictures kept from the fit that count as like those that it saw."""


def sharp_crops(cfg: DictConfig, photos: list[Photo]) -> tuple[Tensor, Tensor]:
    """Crops, uint8 (N, 3, S, S), and the photograph that each is of: `cfg.crops` of each photograph.

    They are the half with the more detail of twice as many: what is out of focus in the photograph itself would be
    told to be sharp.
    """
    images, photo = [], []
    for number, file in enumerate(photos):
        stream = PhotoCrops([file], cfg.crop, cfg.seed + number, 2 * cfg.crops, cache=True)
        drawn_crops = torch.stack([stream.crop(0, sample) for sample in range(2 * cfg.crops)])
        small = F.avg_pool2d(drawn_crops.float().mean(1, keepdim=True), SCALE)
        images.append(drawn_crops[laplacian(small).flatten(1).var(1).topk(cfg.crops).indices])
        photo += [number] * cfg.crops
    return torch.cat(images), torch.tensor(photo)


def make_truth(cfg: DictConfig, photos: list[Photo]) -> dict[str, tuple[Truth, Tensor]]:
    """Pictures by kind, and the photograph that each is of."""
    images, photo = sharp_crops(cfg, photos)
    kinds = {"drawn": drawn(images, graded(cfg.recipe), cfg.seed), "direct": direct(images, cfg.seed)}
    return {kind: (truth, photo) for kind, truth in kinds.items()}


def fit(vectors: Tensor, truth: Truth, held: Tensor, epochs: int, lr: float, hidden: int, seed: int) -> DiagnosisHead:
    """A head fitted to vectors (N, D), but for the rows `held` (N,) bool, on which it is calibrated."""
    torch.manual_seed(seed)
    head = DiagnosisHead(vectors.shape[1], truth.pictures.shape[-1], hidden)
    vectors, values = vectors.float(), to_scale(truth.values.float())
    scale = vectors[~held].std(0)
    head.mean.copy_(vectors[~held].mean(0))
    head.scale.copy_(scale.clamp_min(0.01 * scale.max()))
    head.centre.copy_(values[~held].mean(0))
    head.spread.copy_(values[~held].std(0))
    rows = (~held).nonzero()[:, 0]
    optimizer = torch.optim.AdamW(head.parameters(), lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(rows) // BATCH))
    best, least = copy.deepcopy(head), float("inf")
    for epoch in range(epochs):
        generator = seeded(seed, epoch)
        jittered = vectors + JITTER * head.scale * torch.randn(vectors.shape, generator=generator)
        for chosen in rows[torch.randperm(len(rows), generator=generator)].split(BATCH):
            optimizer.zero_grad()
            _loss(head, jittered[chosen], values[chosen], truth.level[chosen], beta=0.5).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            loss = float(_loss(head, vectors[held], values[held], truth.level[held]))
        if loss < least:
            best, least = copy.deepcopy(head), loss
    best.half().float()  # as it is stored
    mean, std, _ = best(vectors[held])
    best.widen.copy_(((mean - values[held]) / std).square().mean(0).sqrt())
    familiarise(best, vectors, held)
    return best.half().float().requires_grad_(False)


@torch.no_grad()
def familiarise(head: DiagnosisHead, vectors: Tensor, held: Tensor) -> None:
    """Fill the buffers `whiten` and `reach` of a head from vectors (N, D)."""
    variances, axes = torch.linalg.eigh(vectors[~held].double().T.cov())
    # 1 to 100: float16 holds it, and beyond lies its rounding
    root = (variances / variances[-1]).clamp_min(1e-4).rsqrt()
    head.whiten.copy_(((axes * root) @ axes.T).half())
    head.reach.fill_(1)
    head.reach.copy_(head.strangeness(vectors[held]).quantile(REACH))


def _loss(head: DiagnosisHead, vectors: Tensor, values: Tensor, level: Tensor, beta: float = 0.0) -> Tensor:
    """Negative log-likelihood of Gaussians, weighted by variance^β (Seitzer et al., arXiv 2203.09168), and of levels.

    Without the weight, rows that seem hard at first are given up.
    """
    mean, log_variance, logits = head.raw(vectors)
    target = (values - head.centre) / head.spread
    likelihood = ((mean - target).square() * (-log_variance).exp() + log_variance) / 2
    weighted = (likelihood * (beta * log_variance.detach()).exp()).sum(1).mean()
    return weighted + F.cross_entropy(logits, level)


@torch.no_grad()
def judge(head: DiagnosisHead, vectors: Tensor, truth: Truth) -> dict[str, Any]:
    """Of a head on vectors (N, D), for each quantity: R², the mean error, and the shares within 1 and 2 std."""
    mean, std, probabilities = head(vectors.float())
    value, std = from_scale(mean, std)
    report: dict[str, Any] = {}
    for column, name in enumerate(QUANTITIES):
        target = truth.values[:, column].float()
        error = value[:, column] - target
        deviations = error.abs() / std[:, column]
        report[name] = {
            "r2": float(1 - error.square().mean() / target.var(correction=0)),
            "mean_error": float(error.abs().mean()),
            "within_1_std": float((deviations < 1).float().mean()),
            "within_2_std": float((deviations < 2).float().mean()),
        }
    report["level"] = float((median_level(probabilities) == truth.level).float().mean())
    return report


def fit_and_judge(cfg: DictConfig) -> dict[str, Any]:
    """Fits, writes `cfg.output` and reports on photographs of another split, by kind of degradation.

    Raises ValueError for weights or photographs that can't be used.
    """
    encoder = load_encoder(Path(cfg.weights)).to(cfg.device).eval()
    photos, others = splits(cfg.data.roots, cfg.data.split, cfg.test)
    if len(photos) < 2:
        raise ValueError(f"{photos[0]} is the only photograph to fit to; at least two are needed, one to calibrate on")
    kinds = make_truth(cfg, photos).values()
    truth, photo = join([kind for kind, _ in kinds]), torch.cat([photo for _, photo in kinds])
    vectors = read(encoder, truth.pictures, cfg.device)
    every = min(CALIBRATION, len(photos))
    held = photo % every == every - 1
    head = fit(vectors, truth, held, cfg.epochs, cfg.lr, cfg.hidden, cfg.seed)
    weights.save(cfg.output, weights.cast(head.state_dict(), torch.float16), head.config())
    test = make_truth(cfg, others)
    return {
        "weights": str(cfg.weights),
        "output": str(cfg.output),
        "fitted": int((~held).sum()),
        **{kind: judge(head, read(encoder, rows.pictures, cfg.device), rows) for kind, (rows, _) in test.items()},
    }

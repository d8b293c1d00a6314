"""Scores a set of restored pictures against their ground truth, with bicubic and ground-truth rows for comparison."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

import deedsr
from deedsr.data.pairs import read_rgb
from deedsr.metrics import fidelity
from deedsr.metrics.catalogue import Metric, select
from deedsr.metrics.perceptual import Scorer, Unavailable, load_perceptual

RESTORED, BICUBIC, TRUTH = "restored", "bicubic", "ground_truth"


@dataclass(frozen=True)
class Sample:
    """A restored picture, its ground truth and what it was restored from: (1, 3, H, W) RGB in [0, 1]; `lr` smaller."""

    stem: str
    restored: Tensor
    hr: Tensor | None = None
    lr: Tensor | None = None

    def __post_init__(self) -> None:
        if self.hr is not None and self.hr.shape != self.restored.shape:
            raise ValueError(f"{self.stem}: restored is {_size(self.restored)} and hr is {_size(self.hr)}")
        if self.lr is not None:
            (height, width), (low_height, low_width) = self.restored.shape[-2:], self.lr.shape[-2:]
            if height * low_width != width * low_height or low_height > height:
                raise ValueError(f"{self.stem}: lr is {_size(self.lr)}, which doesn't scale to {_size(self.restored)}")


@dataclass
class Row:
    """What one set of pictures scored: for each picture, and for the set as a whole (FID)."""

    images: dict[str, dict[str, float]] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)


@dataclass
class Report:
    """Scores under a named protocol. `rows` has ``restored`` and, where they were asked for and can be made,
    ``bicubic`` and ``ground_truth``; `unavailable` gives the reason for each metric of `metrics` that no row has.
    """

    protocol: str
    metrics: dict[str, Metric]
    rows: dict[str, Row]
    unavailable: dict[str, str]
    versions: dict[str, str]

    @property
    def stems(self) -> list[str]:
        """The pictures, in the order in which they were scored."""
        return list(self.rows[RESTORED].images)


class Evaluator:
    """Loads the networks of a protocol's metrics once, then scores any number of sets.

    `metrics` chooses columns by name (all of the protocol's by default); `download` allows weights to be fetched from
    the network. A metric that can't be had is kept in `unavailable` with the reason.
    """

    def __init__(
        self,
        protocol: str = "osediff",
        metrics: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
        download: bool = False,
    ) -> None:
        self.protocol = protocol
        self.metrics = select(protocol, metrics)
        self.device = torch.device(device)
        self.unavailable: dict[str, str] = {}
        self.scorers: dict[str, Scorer] = {}
        for column, metric in self.metrics.items():
            try:
                self.scorers[column] = _scorer(metric, self.device, download)
            except Unavailable as error:
                self.unavailable[column] = str(error)

    def run(
        self, samples: Iterable[Sample], total: int | None = None, extra_rows: bool = True, progress: bool = False
    ) -> Report:
        """Score `samples` one by one, holding one at a time.

        `extra_rows` adds the rows of Pillow's bicubic up-sampling (of samples with an `lr`) and of the ground truth.
        `progress` shows a bar on standard error. Raises ValueError for an empty set.
        """
        rows: dict[str, Row] = {}
        unavailable = dict(self.unavailable)
        for sample in track(samples, total, progress, "scoring"):
            for name, image in _pictures(sample, extra_rows).items():
                row = rows.setdefault(name, Row())
                row.images[sample.stem] = self._score(sample, name, image, unavailable)
        if RESTORED not in rows:
            raise ValueError("there is nothing to evaluate")
        for scores in (scores for row in rows.values() for scores in row.images.values()):
            for column in unavailable:
                scores.pop(column, None)
        return Report(self.protocol, self.metrics, rows, unavailable, versions())

    def _score(self, sample: Sample, row: str, image: Tensor, unavailable: dict[str, str]) -> dict[str, float]:
        """One picture's scores; a metric that fails is noted in `unavailable` and not tried again."""
        scores: dict[str, float] = {}
        for column, scorer in self.scorers.items():
            metric = self.metrics[column]
            if column in unavailable or (metric.needs_reference and sample.hr is None):
                continue
            if row == TRUTH and metric.needs_reference:
                if metric.perfect is not None:
                    scores[column] = metric.perfect
                continue
            try:
                value = scorer(image, sample.hr)
            except Exception as error:  # whatever a third party's network raises must not stop the other metrics
                unavailable[column] = f"{metric.label} failed on {sample.stem}: {' '.join(str(error).split())[:200]}"
                continue
            if math.isfinite(value):
                scores[column] = value
            else:
                unavailable[column] = f"{metric.label} is not finite on {sample.stem} ({row})"
        return scores


def load(stem: str, files: Mapping[str, Path]) -> Sample:
    """The sample of a stem from its files by role (``restored``, ``hr``, ``lr``)."""
    return Sample(stem, **{role: read_rgb(path) for role, path in files.items()})


def versions() -> dict[str, str]:
    """The versions of all that the numbers depend on; a package that isn't installed is left out."""
    found = {"deedsr": deedsr.__version__, "python": platform.python_version(), "torch": torch.__version__}
    found |= {"numpy": np.__version__, "pillow": PIL.__version__}
    for package in ("torchvision", "pyiqa", "open_clip_torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def bicubic(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Pillow's bicubic up-sampling to (height, width), through 8 bits as published rows of this name do it."""
    pixels = (lr[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    large = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(large)).permute(2, 0, 1).unsqueeze(0).float().div_(255)


def track(items: Iterable, total: int | None, show: bool, label: str) -> Iterator:
    """`items` with a progress bar on standard error if `show`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        yield from bar.track(items, total=total, description=label)


def _pictures(sample: Sample, extra_rows: bool) -> dict[str, Tensor]:
    """The pictures of a sample that are scored, by row."""
    images = {RESTORED: sample.restored}
    if extra_rows and sample.hr is not None:
        if sample.lr is not None:
            images[BICUBIC] = bicubic(sample.lr, sample.hr.shape[-2:])
        images[TRUTH] = sample.hr
    return images


def _scorer(metric: Metric, device: torch.device, download: bool) -> Scorer:
    """What computes `metric`; raises Unavailable."""
    if metric.package == "pyiqa":
        return load_perceptual(metric, device, download)
    if metric.package == "open_clip":
        raise Unavailable("not yet")
    name, channel = metric.name.split("-")
    function = fidelity.psnr if name == "psnr" else fidelity.ssim
    return partial(_fidelity, function, channel)


def _fidelity(function, channel: fidelity.Channel, image: Tensor, reference: Tensor) -> float:
    return float(function(image, reference, channel))


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}×{image.shape[-2]}"

"""Scores of restored pictures under a named protocol, with rows of bicubic up-sampling and of the ground truth."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from deedsr.metrics import fidelity, frechet
from deedsr.metrics.catalogue import Metric, select
from deedsr.metrics.loading import Unavailable, one_line
from deedsr.metrics.outputs import Sample, bicubic
from deedsr.metrics.perceptual import Scorer, load_perceptual
from deedsr.metrics.semantic import ClipModel, load_semantic

Value = TypeVar("Value")

RESTORED, BICUBIC, TRUTH = "restored", "bicubic", "ground_truth"


@dataclass
class Row:
    """What one set of pictures scored. images: each picture, by stem and column. whole: the set (FID), by column."""

    images: dict[str, dict[str, float]] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)


@dataclass
class Report:
    """Scores under a named protocol.

    metrics: the columns. rows: ``restored``, the samples' others and, where asked for and possible, ``bicubic`` and
    ``ground_truth``. unavailable: the reason for each column that no row has. versions: see `versions`.
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

    @property
    def deciding(self) -> str | None:
        """The column by which pictures are ranked: LPIPS, or what comes nearest to it of those that are there."""
        there = [column for column in self.metrics if any(column in s for s in self.rows[RESTORED].images.values())]
        return next((column for column in ("lpips", "lpips-vgg", "dists", "ssim", *there) if column in there), None)


class Evaluator:
    """Loads the networks of a protocol's metrics once, then scores any number of sets.

    metrics: columns by name; all of the protocol's by default. download: let weights be fetched from the network. clip:
    the model of the column of that name. A column that can't be had is in `unavailable` with its reason.
    """

    def __init__(
        self,
        protocol: str = "osediff",
        metrics: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
        download: bool = False,
        clip: ClipModel | None = None,
    ) -> None:
        self.protocol = protocol
        self.metrics = select(protocol, metrics)
        self.unavailable: dict[str, str] = {}
        self._scorers: dict[str, Scorer] = {}
        self._features: dict[str, frechet.Features] = {}
        clip = clip or ClipModel()
        for column, metric in self.metrics.items():
            if metric.package == "open_clip":
                self.metrics[column] = replace(metric, label=f"{metric.label} ({clip.label})")
            try:
                if metric.of_a_set:
                    self._features[column] = frechet.load_features(device, download)
                else:
                    self._scorers[column] = _scorer(metric, device, download, clip)
            except Unavailable as error:
                self.unavailable[column] = str(error)

    def run(
        self, samples: Iterable[Sample], total: int | None = None, extra_rows: bool = True, progress: bool = False
    ) -> Report:
        """Score `samples` (`total` of them), holding one at a time.

        extra_rows: also Pillow's bicubic up-sampling (of samples with an `lr`) and the ground truth. progress: show a
        bar on standard error. Raises ValueError for an empty set.
        """
        scoring = _Scoring(self.metrics, self._scorers, self._features, dict(self.unavailable))
        for sample in track(samples, total, progress, "scoring"):
            scoring.add(sample, extra_rows)
        if not scoring.rows:
            raise ValueError("there are no pictures to evaluate")
        scoring.finish()
        return Report(self.protocol, self.metrics, scoring.rows, scoring.unavailable, versions())


@dataclass
class _Scoring:
    """One run: the rows as they grow, and the columns that failed on the way."""

    metrics: dict[str, Metric]
    scorers: dict[str, Scorer]
    features: dict[str, frechet.Features]
    unavailable: dict[str, str]
    rows: dict[str, Row] = field(default_factory=dict)
    sets: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)

    def add(self, sample: Sample, extra_rows: bool) -> None:
        """Score one sample in every row."""
        images = {RESTORED: sample.restored, **sample.others}
        if extra_rows and sample.hr is not None:
            if sample.lr is not None:
                images[BICUBIC] = bicubic(sample.lr, sample.hr.shape[-2:])
            images[TRUTH] = sample.hr
        for name, image in images.items():
            scores = self.rows.setdefault(name, Row()).images.setdefault(sample.stem, {})
            for column, scorer in self.scorers.items():
                self._score(column, scorer, name, image, sample, scores)
        for column, features in self.features.items():
            if sample.hr is None:
                self.unavailable.setdefault(column, f"{self.metrics[column].label} needs the ground truth")
                continue
            for name, image in (images | {TRUTH: sample.hr}).items():
                if (found := self._guarded(column, sample.stem, partial(features, image))) is not None:
                    self.sets.setdefault((column, name), []).append(found)

    def finish(self) -> None:
        """The numbers of whole sets; afterwards no row has a column that is unavailable."""
        for column in self.features:
            for name, row in self.rows.items():
                if name == TRUTH:
                    row.whole[column] = 0.0
                elif column not in self.unavailable and (column, name) in self.sets:
                    pair = np.stack(self.sets[column, name]), np.stack(self.sets[column, TRUTH])
                    distance = self._guarded(column, "the set", partial(frechet.distance, *pair))
                    row.whole |= {} if distance is None else {column: distance}
        for row in self.rows.values():
            for column in self.unavailable:
                for scores in (row.whole, *row.images.values()):
                    scores.pop(column, None)

    def _score(
        self, column: str, scorer: Scorer, row: str, image: Tensor, sample: Sample, scores: dict[str, float]
    ) -> None:
        """One picture's score in one column, unless it has no meaning there."""
        metric = self.metrics[column]
        if metric.needs_reference and sample.hr is None:
            self.unavailable.setdefault(column, f"{metric.label} needs the ground truth; {sample.stem} has none")
        elif metric.needs_reference and row == TRUTH:
            scores.update({} if metric.perfect is None else {column: metric.perfect})
            return
        value = self._guarded(column, sample.stem, partial(scorer, image, sample.hr))
        if value is not None and math.isfinite(value):
            scores[column] = value
        elif value is not None:
            self.unavailable[column] = f"{metric.label} is not finite on {sample.stem} ({row})"

    def _guarded(self, column: str, where: str, compute: Callable[[], Value]) -> Value | None:
        """`compute()`, or None and a note in `unavailable`: one metric's failure must not stop the others."""
        if column in self.unavailable:
            return None
        try:
            return compute()
        except Exception as error:  # whatever a third party's network raises is the reason
            self.unavailable[column] = f"{self.metrics[column].label} failed on {where}: {one_line(error)}"
            return None


def versions() -> dict[str, str]:
    """The versions of all that the numbers depend on; a package that isn't installed is left out."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("deedsr", "numpy", "pillow", "torchvision", "pyiqa", "open_clip_torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def track(items: Iterable, total: int | None, show: bool, label: str) -> Iterator:
    """`items` with a progress bar on standard error if `show`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        yield from bar.track(items, total=total, description=label)


def _scorer(metric: Metric, device: torch.device | str, download: bool, clip: ClipModel) -> Scorer:
    """What computes `metric`; raises Unavailable."""
    if metric.package == "pyiqa":
        return load_perceptual(metric, device, download)
    if metric.package == "open_clip":
        return load_semantic(clip, device, download)
    function = fidelity.psnr if metric.name.startswith("psnr") else fidelity.ssim
    return partial(_fidelity, function, "y" if metric.name.endswith("-y") else "rgb")


def _fidelity(function: Callable[..., Tensor], channel: fidelity.Channel, image: Tensor, reference: Tensor) -> float:
    """PSNR or SSIM of one picture."""
    if image.device.type == "mps":  # has no float64
        image, reference = image.cpu(), reference.cpu()
    return float(function(image, reference, channel))

"""Two sets of outputs of the same inputs side by side: paired differences, wins, and the pictures behind them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deedsr.data.pairs import match, pictures, read_rgb
from deedsr.metrics import sheet
from deedsr.metrics.catalogue import Metric, select
from deedsr.metrics.evaluation import RESTORED, Evaluator, Report
from deedsr.metrics.outputs import Sample
from deedsr.metrics.semantic import ClipModel
from deedsr.metrics.table import column_values, interval, means


@dataclass(frozen=True)
class Difference:
    """One metric on both sets.

    difference: mean of b - a over the pictures. interval: its 95 % bootstrap interval. Both are None for a number of
    the whole set. wins_a, wins_b, ties: numbers of pictures.
    """

    mean_a: float
    mean_b: float
    difference: float | None = None
    interval: tuple[float, float] | None = None
    wins_a: int = 0
    wins_b: int = 0
    ties: int = 0


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. differences: by column, for each metric that could be computed on both sets."""

    protocol: str
    names: tuple[str, str]
    stems: list[str]
    metrics: dict[str, Metric]
    differences: dict[str, Difference]
    unavailable: dict[str, str]
    versions: dict[str, str]
    sheet: Image.Image | None

    def to_json(self) -> str:
        """All numbers as JSON."""
        document = {
            "protocol": self.protocol,
            "a": self.names[0],
            "b": self.names[1],
            "n": len(self.stems),
            "versions": self.versions,
            "unavailable": self.unavailable,
            "differences": {column: asdict(found) for column, found in self.differences.items()},
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """A Markdown table, and below it what could not be computed."""
        lines = ["| | A | B | B - A | A wins | B wins | ties |", "|---|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(self._cells(column))} |" for column in self.metrics]
        names = f"A = `{self.names[0]}`, B = `{self.names[1]}`"
        lines += ["", f"{names}; protocol `{self.protocol}`, n = {len(self.stems)};"]
        lines[-1] += " mean of the paired differences [95 % bootstrap interval]."
        lines += [f"- Unavailable: {why}" for why in self.unavailable.values()]
        return "\n".join(lines) + "\n"

    def _cells(self, column: str) -> list[str]:
        """A metric's line of the table."""
        metric, found = self.metrics[column], self.differences.get(column)
        if found is None:
            return [metric.heading, "unavailable", "unavailable", "–", "–", "–", "–"]
        cells = [metric.heading, f"{found.mean_a:.4f}", f"{found.mean_b:.4f}"]
        if found.difference is None or found.interval is None:
            return [*cells, f"{found.mean_b - found.mean_a:+.4f}", "–", "–", "–"]
        bounds = f"[{found.interval[0]:+.4f}, {found.interval[1]:+.4f}]"
        return [*cells, f"{found.difference:+.4f} {bounds}", str(found.wins_a), str(found.wins_b), str(found.ties)]


def compare(
    a: str | Path,
    b: str | Path,
    hr: str | Path | None = None,
    protocol: str = "osediff",
    metrics: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    download: bool = False,
    clip: ClipModel | None = None,
    progress: bool = False,
) -> Comparison:
    """Score the pictures of folders `a` and `b`, matched by stem, against those of `hr`, and compare them pairwise.

    Without `hr` only metrics that need no ground truth are computed. Raises ValueError for folders that don't match,
    pictures of different sizes, unknown names, and where no metric at all can be computed.
    """
    folders = {"a": pictures(a), "b": pictures(b)} | ({"hr": pictures(hr)} if hr is not None else {})
    files = match(folders)
    evaluator = Evaluator(protocol, _without_reference(protocol, metrics, hr), device, download, clip)

    sizes: dict[str, torch.Size] = {}

    def samples(role: str) -> Iterator[Sample]:
        for stem, paths in files.items():
            image = read_rgb(paths[role])
            if sizes.setdefault(stem, image.shape) != image.shape:
                raise ValueError(f"{stem}: the picture of {a} and that of {b} differ in size")
            yield Sample(stem, image, read_rgb(paths["hr"]) if hr is not None else None)

    first, second = (evaluator.run(samples(role), len(files), False, progress) for role in ("a", "b"))
    unavailable = first.unavailable | second.unavailable
    found = {column: _difference(first, second, column) for column in evaluator.metrics if column not in unavailable}
    if not found:
        raise ValueError(f"no metric can be computed: {'; '.join(unavailable.values())}")
    names = (str(a), str(b))
    ranked = [column for column in found if not evaluator.metrics[column].of_a_set]
    ranking = next((column for column in (first.deciding, second.deciding, *ranked) if column in ranked), None)
    strips = _strips(ranking, first, second, files, names) if ranking else []
    picture = sheet.draw(strips) if strips else None
    return Comparison(protocol, names, list(files), evaluator.metrics, found, unavailable, first.versions, picture)


def _without_reference(protocol: str, metrics: Sequence[str] | None, hr: str | Path | None) -> Sequence[str] | None:
    """The metrics to compute: without ground truth the protocol's others, if none were chosen."""
    if hr is not None or metrics is not None:
        return metrics
    return [column for column, metric in select(protocol).items() if not metric.needs_reference]


def _difference(first: Report, second: Report, column: str) -> Difference:
    """One column of both reports."""
    row_a, row_b = first.rows[RESTORED], second.rows[RESTORED]
    mean_a, mean_b = means(first, row_a)[column], means(second, row_b)[column]
    assert mean_a is not None and mean_b is not None
    metric = first.metrics[column]
    if metric.of_a_set:
        return Difference(mean_a, mean_b)
    difference = np.array(column_values(row_b, column)) - np.array(column_values(row_a, column))
    better = difference if metric.better == "higher" else -difference
    wins_a, wins_b = int((better < 0).sum()), int((better > 0).sum())
    ties = len(difference) - wins_a - wins_b
    return Difference(mean_a, mean_b, float(difference.mean()), interval(difference.tolist()), wins_a, wins_b, ties)


def _strips(
    column: str, first: Report, second: Report, files: dict[str, dict[str, Path]], names: tuple[str, str]
) -> list[sheet.Strip]:
    """A, B and the ground truth where A wins most in a metric, in the middle, and where B wins most."""
    metric = first.metrics[column]
    scores = [report.rows[RESTORED].images for report in (first, second)]
    gain = {stem: scores[1][stem][column] - scores[0][stem][column] for stem in files}
    chosen = sheet.extremes(gain, metric.better)
    titles = {"best": "best for B", "median": "in the middle", "worst": "best for A"}
    strips = []
    for stem, which in chosen.items():
        labels = [f"{letter} = {Path(name).name}" for letter, name in zip("AB", names, strict=True)]
        panels = [
            (f"{label}  {metric.label} {score[stem][column]:.3f}", read_rgb(files[stem][role]))
            for label, score, role in zip(labels, scores, "ab", strict=True)
        ]
        if "hr" in files[stem]:
            panels.append(("ground truth", read_rgb(files[stem]["hr"])))
        strips.append(sheet.Strip(f"{titles[which]} by {metric.label}: {stem}", panels))
    return strips

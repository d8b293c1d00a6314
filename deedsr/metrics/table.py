"""A report as JSON, CSV and Markdown, with bootstrap confidence intervals."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence

import numpy as np

from deedsr.metrics.evaluation import BICUBIC, RESTORED, TRUTH, Report, Row

_RESAMPLES = 2000
_CHUNK = 100
_TITLES = {RESTORED: "restored", BICUBIC: "bicubic (Pillow)", TRUTH: "ground truth"}


def interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (2,000 resamples): two values in the unit of `values`.

    Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapter 13. A single value is its own interval.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("no values to make an interval of")
    generator = np.random.default_rng(seed)
    means = np.concatenate(
        [data[generator.integers(0, data.size, (_CHUNK, data.size))].mean(1) for _ in range(_RESAMPLES // _CHUNK)]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def means(report: Report, row: Row) -> dict[str, float | None]:
    """The mean of every column of a row; None where the metric is unavailable or means nothing in this row."""
    result: dict[str, float | None] = {}
    for column in report.metrics:
        values = column_values(row, column)
        result[column] = row.whole.get(column, math.fsum(values) / len(values) if values else None)
    return result


def column_values(row: Row, column: str) -> list[float]:
    """A column's value for every picture that has one."""
    return [scores[column] for scores in row.images.values() if column in scores]


def to_json(report: Report) -> str:
    """The report as JSON: restored pictures at the top, other rows under ``rows``. An unavailable metric is null."""
    restored = report.rows[RESTORED]
    columns = [column for column, metric in report.metrics.items() if not metric.of_a_set]
    document = {
        "protocol": report.protocol,
        "n": len(report.stems),
        "versions": report.versions,
        "metrics": {
            column: {"name": metric.name, "label": metric.label, "better": metric.better, "package": metric.package}
            for column, metric in report.metrics.items()
        },
        "unavailable": report.unavailable,
        "mean": means(report, restored),
        "interval": _intervals(report, restored),
        "rows": {
            name: {"mean": means(report, row), "interval": _intervals(report, row)}
            for name, row in report.rows.items()
            if name != RESTORED
        },
        "images": {
            stem: {column: scores.get(column) for column in columns} for stem, scores in restored.images.items()
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(report: Report) -> str:
    """One line for each picture and row; ``unavailable`` where a metric is, nothing where it has no meaning."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = [column for column, metric in report.metrics.items() if not metric.of_a_set]
    writer.writerow(["stem", "row", *columns])
    for name, row in report.rows.items():
        for stem, scores in row.images.items():
            missing = dict.fromkeys(report.unavailable, "unavailable")
            cells = {column: f"{value:.6f}" for column, value in scores.items()}
            writer.writerow([stem, name, *((missing | cells).get(column, "") for column in columns)])
    return stream.getvalue()


def to_markdown(report: Report) -> str:
    """The means as a Markdown table, 95 % intervals in brackets, with what the reader must know below it."""
    head = [metric.heading for metric in report.metrics.values()]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    others = [name for name in report.rows if name not in _TITLES]
    order = [name for name in (BICUBIC, *others, RESTORED, TRUTH) if name in report.rows]
    for name in order:
        lines.append(f"| {_TITLES.get(name, name)} | " + " | ".join(_cells(report, report.rows[name])) + " |")
    names = ", ".join(f"{package} {version}" for package, version in report.versions.items())
    lines += ["", f"Protocol `{report.protocol}`, n = {len(report.stems)}; mean [95 % bootstrap interval]; {names}."]
    lines += [f"- Unavailable: {why}" for why in report.unavailable.values()]
    if any(metric.of_a_set for column, metric in report.metrics.items() if column not in report.unavailable):
        lines.append("- FID is biased at small n: compare it at equal n only.")
    if any(not metric.needs_reference for metric in report.metrics.values()):
        lines.append("- Metrics without a reference may rank outputs above the ground truth: read them beside PSNR.")
    return "\n".join(lines) + "\n"


def _cells(report: Report, row: Row) -> list[str]:
    """A row's cells, column by column."""
    cells, intervals = [], _intervals(report, row)
    for column, mean in means(report, row).items():
        if column in report.unavailable:
            cells.append("unavailable")
        elif mean is None:
            cells.append("–")
        else:
            bounds = intervals.get(column)
            cells.append(f"{mean:.4f}" + (f" [{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else ""))
    return cells


def _intervals(report: Report, row: Row) -> dict[str, tuple[float, float]]:
    """Intervals of the columns that vary from picture to picture."""
    values = {column: column_values(row, column) for column in report.metrics}
    return {column: interval(data) for column, data in values.items() if len(set(data)) > 1}

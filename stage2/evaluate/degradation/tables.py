"""The benchmark's findings as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stage2.evaluate.degradation.dials import DIALS, MEASURES
from stage2.evaluate.degradation.scores import METRICS
from stage2.evaluate.degradation.vectors import VECTORS


def markdown(found: Mapping[str, Any]) -> str:
    """Everything in `found` that there is, a table each, and below what it means."""
    metrics = list(found["settings"]["metrics"])
    parts = [
        _swap(found.get("swap", []), metrics),
        _arms(found.get("arms", []), metrics),
        _dials(found.get("dials", [])),
        _shared(found.get("shared", []), metrics),
    ]
    lines = [
        f"Sampling: {', '.join(f'{name} {how}' for name, how in found['sampling'].items())}.",
        "Brackets: 95 % bootstrap intervals over photographs; lower is better, of PSNR higher.",
        *(f"- {line}" for line in found["missing"]),
    ]
    return "\n\n".join([*(part for part in parts if part), "\n".join(lines)]) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def signed(change: Mapping[str, Any], digits: int = 4) -> str:
    """A paired difference and its interval."""
    low, high = change["interval"]
    return f"{change['difference']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _digits(metric: str) -> int:
    return 2 if metric == "psnr" else 4


def _cell(row: Mapping[str, Any], metric: str) -> str:
    """A mean, or the difference where there is one."""
    if metric not in row:
        return "–"
    found, digits = row[metric], _digits(metric)
    return signed(found, digits) if "difference" in found else f"{found['mean']:.{digits}f}"


def _swap(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    if not rows:
        return ""
    head = ["model", "recipe", "field", "vector", *(METRICS[metric] for metric in metrics)]
    cells = [
        [
            row["model"],
            row["recipe"],
            str(row["field"]),
            f"**{row['vector']}**" if row["vector"] == "own" else row["vector"],
        ]
        + [_cell(row, metric) for metric in metrics]
        for row in rows
    ]
    used = {row["vector"] for row in rows}
    words = "; ".join(f"{name}: {what}" for name, what in VECTORS.items() if name in used)
    note = f"Swap: the own vector's score, and of others the difference to it, n = {rows[0]['photographs']}. {words}."
    return f"{table(head, cells)}\n\n{note}"


def _arms(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    if not rows:
        return ""
    head = ["model", "recipe", "field", *(METRICS[metric] for metric in metrics)]
    cells = [
        [row["model"], row["recipe"], str(row["field"]), *(_cell(row, metric) for metric in metrics)] for row in rows
    ]
    note = f"Arms: differences to {rows[0]['against']} on the same pictures, each with its own vector."
    return f"{table(head, cells)}\n\n{note}"


def _dials(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    head = ["model", "dial", "Spearman", "monotone", *(f"Δ {name}" for name in MEASURES), "selectivity"]
    cells = []
    for row in rows:
        for dial in DIALS:
            of = row["dials"][dial]
            moved = [f"{of['moved'][name]:+.2f}" for name in MEASURES]
            cells.append([row["model"], dial, f"{of['spearman']:+.2f}", f"{of['monotone']:.0%}", *moved])
            cells[-1].append(f"{of['selectivity']:.1f}")
    note = (
        f"Dials: Δ from {rows[0]['positions'][0]:g} to {rows[0]['positions'][-1]:g} in standard deviations over the "
        f"ground truth of different pictures; {rows[0]['pictures']} pictures. Spearman: the median, its sign that of "
        "the dial's name, as Δ is; monotone: share of pictures with at least .9; selectivity: own Δ over the larger "
        "other one."
    )
    return f"{table(head, cells)}\n\n{note}"


def _shared(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    if not rows:
        return ""
    head = [
        "model",
        "field",
        "crops",
        *(f"{METRICS[m]}, {what}" for m in metrics for what in ("crop", "shared - crop", "shared - around")),
    ]
    cells = []
    for row in rows:
        cells.append([row["model"], str(row["field"]), str(row["crops"])])
        for metric in metrics:
            digits = _digits(metric)
            cells[-1].append(f"{row[metric]['crop']:.{digits}f}")
            cells[-1] += [signed(row[metric][f"shared - {other}"], digits) for other in ("crop", "around")]
    note = (
        "Shared: the flattest crops, each by several degradations; the mean vector of other photographs with the same "
        "degradation against the crop's own, and against that of the piece around it."
    )
    return f"{table(head, cells)}\n\n{note}"

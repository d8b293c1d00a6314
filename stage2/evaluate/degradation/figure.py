"""The benchmark in one figure: whose vector, how large a field, and what the dials do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stage2.evaluate.degradation.dials import DIALS, MEASURES
from stage2.evaluate.degradation.scores import METRICS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")  # Okabe and Ito's
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
SHOWN = {
    "mean_varied": "mean of varied",
    "mean": "mean of the recipe",
    "another": "another's",
    "same": "another's, same degradation",
    "crop": "of the field alone",
    "photograph": "of the whole photograph",
    "null": "null vector",
    "fitted": "fitted (bound)",
}
"""Vectors in the figure; zeros are so far off that they would hide the others."""
UNITS = {"psnr": " (dB)"}


def figure(found: Mapping[str, Any], metric: str) -> Figure:
    """All panels that there are findings for."""
    swap = [row for row in found.get("swap", []) if row["vector"] in SHOWN]
    dials = next(iter(found.get("dials", [])), None)
    recipes = list(dict.fromkeys(row["recipe"] for row in swap or found.get("arms", [])))
    upper = recipes or not dials
    heights = [*([max(2.6, 0.34 * len(recipes) + 1.2)] if upper else []), *([2.5] if dials else [])]
    drawn = Figure(figsize=(9, sum(heights)), layout="constrained")
    parts = drawn.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if upper:
        left, right = parts[0].subplots(1, 2, width_ratios=(1.15, 1))
        label = METRICS[metric] + UNITS.get(metric, "")
        _swap(left, swap, recipes, metric, label)
        parts[0].legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8)
        _fields(right, found, swap, metric, label)
    if dials:
        _dials(parts[-1].subplots(1, len(DIALS), sharey=True), dials)
    return drawn


def _points(panel: Axes, at: Sequence[float], rows: Sequence[Mapping[str, Any]], metric: str, **style: Any) -> None:
    """Differences with their intervals, along x; ``vertical=True``: along y."""
    values = [row[metric]["difference"] for row in rows]
    reach = [
        [value - row[metric]["interval"][0] for value, row in zip(values, rows, strict=True)],
        [row[metric]["interval"][1] - value for value, row in zip(values, rows, strict=True)],
    ]
    reach = [[max(length, 0) for length in side] for side in reach]
    style = {"markersize": 4, "elinewidth": 1.2, "capsize": 2, **style}
    if style.pop("vertical", False):
        panel.errorbar(at, values, yerr=reach, **style)
    else:
        panel.errorbar(values, at, xerr=reach, **style)


def _swap(panel: Axes, rows: Sequence[Mapping[str, Any]], recipes: Sequence[str], metric: str, label: str) -> None:
    """Recipes down, differences to the own vector across, of the first model in the field nearest to a tile's."""
    if not rows:
        panel.set_axis_off()
        return
    seen = _field(rows)
    chosen = [row for row in rows if row["field"] == seen and row["model"] == rows[0]["model"]]
    vectors = [name for name in SHOWN if any(row["vector"] == name for row in chosen)]
    for number, vector in enumerate(vectors):
        of = [row for row in chosen if row["vector"] == vector]
        offset = (number - (len(vectors) - 1) / 2) * 0.8 / max(len(vectors), 1)
        at = [recipes.index(row["recipe"]) + offset for row in of]
        _points(panel, at, of, metric, fmt=MARKERS[number], color=COLOURS[number], label=SHOWN[vector])
    panel.axvline(0, color="black", linewidth=1)
    panel.set_yticks(range(len(recipes)), recipes)
    panel.set_ylim(len(recipes) - 0.5, -0.5)
    panel.set_title(f"Whose vector (field {_named(seen)})", fontsize=10)
    panel.set_xlabel(f"{label} minus that with the own vector", fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.3)


def _fields(panel: Axes, found: Mapping[str, Any], swap: Sequence[Mapping[str, Any]], metric: str, label: str) -> None:
    """Fields across: models against the first, or where there is one model, the mean of varied against the own."""
    arms = found.get("arms", [])
    rows = arms or [row for row in swap if row["vector"] == "mean_varied"]
    if not rows:
        panel.set_axis_off()
        return
    fields = list(dict.fromkeys(row["field"] for row in rows))
    recipes = [name for name in ("varied", "heavy", "light", "camera") if any(row["recipe"] == name for row in rows)]
    recipes = recipes or [rows[0]["recipe"]]
    lines = [(model, name) for model in dict.fromkeys(row["model"] for row in rows) for name in recipes]
    for number, (model, name) in enumerate(lines):
        of = [row for row in rows if (row["model"], row["recipe"]) == (model, name)]
        at = [fields.index(row["field"]) + (number - (len(lines) - 1) / 2) * 0.06 for row in of]
        style = {"color": COLOURS[number % 8], "marker": MARKERS[number % 8], "linewidth": 1, "vertical": True}
        _points(panel, at, of, metric, label=f"{model}, {name}" if arms else name, **style)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xticks(range(len(fields)), [_named(seen) for seen in fields])
    panel.set_xlabel("what the network sees in one piece (HR pixels)", fontsize=9)
    other, title = f"{arms[0]['against']}'s" if arms else "own vector's", "Models" if arms else "Mean of varied"
    panel.set_ylabel(f"{label} minus {other}", fontsize=9)
    panel.set_title(f"{title}, by field", fontsize=10)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)


def _dials(panels: Sequence[Axes], row: Mapping[str, Any]) -> None:
    """Each dial: the three measures over its position, its own one strong."""
    for panel, (dial, (measure, _)) in zip(panels, DIALS.items(), strict=True):
        for number, name in enumerate(MEASURES):
            curve, own = row["dials"][dial]["curves"][name], name == measure
            style = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4, "label": name}
            panel.plot(row["positions"], [at["mean"] for at in curve], linewidth=2.2 if own else 1, **style)
            low, high = ([at["interval"][side] for at in curve] for side in (0, 1))
            panel.fill_between(row["positions"], low, high, color=COLOURS[number], alpha=0.15, linewidth=0)
        panel.axhline(0, color="black", linewidth=0.8)
        panel.axvline(1, color="grey", linewidth=0.8, linestyle=":")
        panel.set_title(f"--{dial}", fontsize=10)
        panel.set_xlabel("position (1: neutral)", fontsize=9)
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=8)
    panels[0].set_ylabel("change (SD over pictures)", fontsize=9)
    panels[0].legend(fontsize=8)


def _field(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The field of the first row, or that of restoring's tiles if there is one."""
    return 256 if any(row["field"] == 256 for row in rows) else rows[0]["field"]


def _named(seen: Any) -> str:
    return f"{seen}²" if isinstance(seen, int) else str(seen)

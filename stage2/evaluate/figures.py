"""Figures of scores: one panel for each metric."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deedsr.metrics.catalogue import Metric


def panels_of(metrics: Mapping[str, Metric]) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a titled panel for each metric, and the panels."""
    drawn = Figure(figsize=(4 * len(metrics), 3.4), layout="constrained")
    panels = dict(zip(metrics, drawn.subplots(1, len(metrics), squeeze=False)[0], strict=True))
    for name, panel in panels.items():
        panel.set_title(metrics[name].heading)
        panel.grid(alpha=0.3)
    return drawn, panels

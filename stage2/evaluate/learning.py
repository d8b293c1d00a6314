"""The learning curve: what models that were kept while training score, over the hours that each had taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from deedsr.files import write_text
from deedsr.metrics.catalogue import Metric
from deedsr.metrics.evaluation import BICUBIC, TRUTH
from deedsr.training.command import plain
from stage2.evaluate.figures import panels_of
from stage2.evaluate.rows import means, sweep, to_markdown

Means = Mapping[str, Mapping[str, float | None]]  # by row: the mean of every metric


def learning_curve(cfg: DictConfig) -> str:
    """Write FILE.md, FILE.json and FILE.png; what FILE.md says. Raises ValueError for a point without its numbers."""
    given = plain(cfg.points)
    points = {str(name): point for name, point in given.items()}
    for name, point in points.items():
        if name in (BICUBIC, TRUTH) or not isinstance(point, dict) or point.keys() != {"model", "hours"}:
            raise ValueError(f"points={{{name}: {point}}}: a point is NAME: {{model: FOLDER, hours: NUMBER}}")
        if not isinstance(point["hours"], int | float):
            raise ValueError(f"the hours of the point {name!r} are {point['hours']!r}: give a number")
    if not points:
        raise ValueError("there are no points: points={NAME: {model: FOLDER, hours: NUMBER}, …}")
    rows = {name: {"model": point["model"]} for name, point in points.items()}
    reports = sweep(OmegaConf.create({**plain(cfg), "rows": rows, "model": None}))
    metrics = next(iter(reports.values())).metrics
    hours = {f"{name} ({point['hours']:g} h)": reports[name] for name, point in points.items()}
    text, output = to_markdown(hours), Path(cfg.output)
    write_text(output, text)
    times = {name: point["hours"] for name, point in points.items()}
    figure(means(reports), times, metrics).savefig(output.with_suffix(".png"), dpi=150)
    return text


def figure(found: Means, hours: Mapping[str, float], metrics: Mapping[str, Metric]) -> Figure:
    """A panel for each metric over the hours; bicubic up-sampling as a dashed line."""
    drawn, panels = panels_of(metrics)
    order = sorted(hours, key=hours.__getitem__)
    for metric, panel in panels.items():
        known = [name for name in order if found[name].get(metric) is not None]
        panel.plot([hours[name] for name in known], [found[name][metric] for name in known], marker="o", markersize=4)
        level = found.get(BICUBIC, {}).get(metric)
        if level is not None:
            panel.axhline(level, linestyle="--", linewidth=1, color="grey", label="bicubic")
            panel.legend()
        panel.set(xlabel="hours of training")
    return drawn

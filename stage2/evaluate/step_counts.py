"""Steps against quality: one table, one figure, and the fewest steps that are as good as any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from deedsr.files import write_text
from deedsr.metrics.catalogue import Metric
from deedsr.training.command import plain
from stage2.evaluate.figures import panels_of
from stage2.evaluate.rows import means, sweep, to_markdown

Curves = dict[str, dict[int, Mapping[str, float | None]]]  # by sampler, then by steps: the mean of every metric


def steps_against_quality(cfg: DictConfig) -> str:
    """Write FILE.md, FILE.json and FILE.png; what FILE.md says. A row ``SAMPLER STEPS`` for each of them."""
    names = {f"{sampler} {steps}": (sampler, steps) for sampler in cfg.samplers for steps in cfg.steps}
    rows = {name: {"sampler": sampler, "steps": steps} for name, (sampler, steps) in names.items()}
    shared = {**plain(cfg.options), "start": cfg.start, "spacing": "trailing", "eta": 0.0}
    sweeping = {**plain(cfg), "rows": rows, "options": shared}
    reports = sweep(OmegaConf.create(sweeping))
    found = means(reports)
    curves: Curves = {sampler: {} for sampler in cfg.samplers}
    for name, (sampler, steps) in names.items():
        curves[sampler][steps] = found[name]
    metrics = next(iter(reports.values())).metrics
    output = Path(cfg.output)
    figure(curves, metrics).savefig(output.with_suffix(".png"), dpi=150)
    best = fewest(curves, cfg.deciding, metrics[cfg.deciding].better) if cfg.deciding in metrics else None
    text = to_markdown(reports)
    if best is not None:
        text += f"\nFewest steps within 1 % of the best {metrics[cfg.deciding].label}: {best[1]} with {best[0]}.\n"
    write_text(output, text)
    return text


def fewest(curves: Curves, metric: str, better: str, margin: float = 0.01) -> tuple[str, int] | None:
    """(sampler, steps) of the fewest steps whose `metric` is within `margin` of the best.

    better: ``lower`` or ``higher``. Of several samplers with as many steps the best one. None where the metric could
    not be had.
    """
    sign = 1 if better == "lower" else -1
    values = [
        (sign * value, steps, sampler)
        for sampler, curve in curves.items()
        for steps, found in curve.items()
        if (value := found.get(metric)) is not None
    ]
    if not values:
        return None
    best = min(values)[0]
    limit = best + margin * abs(best)
    _, steps, sampler = min(
        (entry for entry in values if entry[0] <= limit), key=lambda entry: (entry[1], round(entry[0], 4))
    )
    return sampler, steps


def figure(curves: Curves, metrics: Mapping[str, Metric]) -> Figure:
    """A panel for each metric, a line for each sampler, over the number of steps."""
    drawn, panels = panels_of(metrics)
    for metric, panel in panels.items():
        for sampler, curve in curves.items():
            points = [(steps, found[metric]) for steps, found in curve.items() if found[metric] is not None]
            panel.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=4, label=sampler)
        ticks = sorted({steps for curve in curves.values() for steps in curve})
        panel.set_xscale("log")
        panel.set_xticks(ticks, [str(steps) for steps in ticks])
        panel.minorticks_off()
        panel.set(xlabel="steps")
    next(iter(panels.values())).legend()
    return drawn

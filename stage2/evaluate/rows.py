"""Rows of a comparison: models and ways to sample, all on the same pairs and with the same metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import torch
from omegaconf import DictConfig

from deedsr.data.pairs import match, pictures
from deedsr.devices import pick_device
from deedsr.files import write_json, write_text
from deedsr.geometry import pad_to
from deedsr.metrics import table
from deedsr.metrics.evaluation import RESTORED, Evaluator, Report
from deedsr.metrics.outputs import Sample
from deedsr.metrics.outputs import load as read
from deedsr.models import RestorationModel, load_model
from deedsr.options import Options
from deedsr.pictures.picture import Picture
from deedsr.restorer import Restorer
from deedsr.training.command import plain

AUTOENCODER = "autoencoder"
FURTHER = ("start", "noise", "eta")
Make = Callable[[Sample], torch.Tensor]


def autoencoded(model: RestorationModel) -> Make:
    """The ground truth through the model's autoencoder: what no sampling can exceed."""
    first = next(model.parameters())

    @torch.no_grad()
    def make(sample: Sample) -> torch.Tensor:
        assert sample.hr is not None
        height, width = sample.hr.shape[-2:]
        padded = pad_to(sample.hr, model.size).to(first)
        return model.decode(model.encode(padded)).float().cpu()[..., :height, :width]

    return make


def split(row: str, options: dict) -> tuple[Options, dict]:
    """`options` of a row: those of `Options`, and of `Settings` what a user can't choose; ValueError for others."""
    further = {name: options.get(name) for name in FURTHER}
    try:
        return Options(**{name: value for name, value in options.items() if name not in FURTHER}), further
    except (TypeError, ValueError) as error:
        raise ValueError(f"rows.{row}: {error}") from None


def restored(model: RestorationModel, options: Options, further: dict) -> Make:
    """The input, restored as `split` says."""
    restorer = Restorer(model, options)
    restorer.settings = restorer.settings.with_(**further)
    return lambda sample: restorer(Picture(sample.lr), name=sample.stem).rgb


def eight_bits(image: torch.Tensor) -> torch.Tensor:
    return (image * 255).round().clamp(0, 255) / 255


def sweep(cfg: DictConfig) -> dict[str, Report]:
    """Every row's report; writes the table as Markdown, and the means as JSON beside it."""
    output, data = Path(cfg.output), Path(cfg.data)
    files = match({"restored": pictures(data / "lr"), "hr": pictures(data / "hr"), "lr": pictures(data / "lr")})
    files = dict(list(files.items())[: cfg.images])
    device = pick_device(cfg.device)
    load = lru_cache(1)(lambda name: load_model(name, device, getattr(torch, cfg.dtype)))
    evaluator = Evaluator(cfg.protocol, cfg.metrics, device)
    shared = {"model": cfg.model, **plain(cfg.options)}
    rows = {}
    for name, row in plain(cfg.rows).items():  # all, before hours of restoring
        options = {**shared, **({} if row == AUTOENCODER else row)}
        rows[str(name)] = options.pop("model"), None if row == AUTOENCODER else split(name, options)
    reports: dict[str, Report] = {}
    for name, (model_name, chosen) in rows.items():
        model = load(model_name)
        make = autoencoded(model) if chosen is None else restored(model, *chosen)
        reports[name] = evaluator.run(_samples(files, make), len(files), not reports, cfg.progress)
        write_text(output, to_markdown(reports))
        write_json(output.with_suffix(".json"), means(reports))
    return reports


def sweep_table(cfg: DictConfig) -> str:
    """`sweep`, as a Markdown table."""
    return to_markdown(sweep(cfg))


def _samples(files: dict[str, dict[str, Path]], make: Make) -> Iterator[Sample]:
    for stem, roles in files.items():
        given = read(stem, {"restored": roles["hr"], "hr": roles["hr"], "lr": roles["lr"]})
        yield Sample(stem, eight_bits(make(given)), given.hr, given.lr)


def means(reports: dict[str, Report]) -> dict[str, dict[str, float | None]]:
    """Means by row; the first report also has the rows of bicubic and of the ground truth."""
    first = next(iter(reports.values()))
    extra = {name: table.means(first, row) for name, row in first.rows.items() if name != RESTORED}
    return {**extra, **{name: table.means(report, report.rows[RESTORED]) for name, report in reports.items()}}


def to_markdown(reports: dict[str, Report]) -> str:
    """The means of all rows as a Markdown table."""
    first = next(iter(reports.values()))
    lines = ["| | " + " | ".join(metric.label for metric in first.metrics.values()) + " |"]
    lines.append("|---" * (len(first.metrics) + 1) + "|")
    for name, row in means(reports).items():
        cells = ["–" if value is None else f"{value:.4f}" for value in row.values()]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    lines += ["", f"Protocol `{first.protocol}`, n = {len(first.stems)}; means."]
    return "\n".join(lines) + "\n"

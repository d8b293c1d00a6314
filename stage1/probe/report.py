"""What encoders have learned, in a table and a figure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from deedsr.degradation import Mixture
from deedsr.degradation.statistics import statistics
from deedsr.files import write_json, write_text
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.folder import load_encoder
from deedsr.training.pace import paced
from stage1.probe.crops import make_exam
from stage1.probe.exam import Exam, Reader, probe
from stage1.probe.levels import bayes_accuracy, graded

log = logging.getLogger(__name__)

COLUMNS = {
    "blur": "blur",
    "noise": "noise",
    "jpeg": "JPEG",
    "resize": "resize",
    "mixed_blur": "blur, mixed",
    "mixed_noise": "noise, mixed",
    "mixed_jpeg": "JPEG, mixed",
    "mixed_resize": "resize, mixed",
    "level": "level",
    "content": "content ↓",
}
"""Columns of the table, by their name in `stage1.probe.exam.probe`."""


def readers(files: Mapping[str, str], seed: int, device: str) -> dict[str, Reader]:
    """The encoders in `files`, a fresh one of each of their shapes, and the hand-made statistics.

    Raises ValueError for weights that can't be used.
    """
    trained, untrained, shapes = {}, {}, []
    for name, file in files.items():
        trained[name] = encoder = load_encoder(Path(file)).to(device).eval()
        if encoder.config() not in shapes:
            shapes.append(encoder.config())
            label = "untrained" if len(shapes) == 1 else f"untrained, as {name}"
            torch.manual_seed(seed)
            untrained[label] = DegradationEncoder(**encoder.config()).to(device).eval()
    return {**trained, **untrained, "hand-made": statistics}


def examine(cfg: DictConfig) -> dict[str, Any]:
    """Probes of the encoders in `cfg.weights`, a file or files by name, and of what they are compared with.

    The last row is the best that the true parameters allow. With `cfg.output` given, writes ``probes.json``,
    ``probes.md`` and ``probes.png`` there. Raises ValueError for weights or photographs that can't be used.
    """
    files = {"trained": cfg.weights} if isinstance(cfg.weights, str) else dict(cfg.weights)
    compared = readers(files, cfg.seed, cfg.device)
    recipe = graded(cfg.recipe)
    log.info("drawing and degrading the pictures")
    exam = make_exam(cfg.data.roots, cfg, recipe, cfg.seed, cfg.device)
    rows: dict[str, Any] = {}
    for name, reader in paced(compared.items(), "encoders"):
        log.info("examining %s", name)
        rows[name] = probe(reader, exam, cfg.device)
    if isinstance(recipe, Mixture):
        drawn = exam.drawn["mixed"][exam.fit :]
        rows["true parameters"] = {"level": bayes_accuracy(recipe.recipes, drawn, drawn.level)}
    report = {
        "weights": {name: str(file) for name, file in files.items()},
        "crop": cfg.crop,
        "recipe": cfg.recipe,
        "seed": cfg.seed,
        "fit": exam.fit,
        "test": len(exam.photo),
        "probes": rows,
    }
    if cfg.output:
        _write(Path(cfg.output), report, {name: compared[name] for name in files}, exam, cfg.device)
    return report


def _write(folder: Path, report: dict[str, Any], encoders: dict[str, Reader], exam: Exam, device: str) -> None:
    from stage1.probe.figure import figure

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "probes.json", report)
    write_text(folder / "probes.md", markdown(report))
    figure(encoders, exam, device).savefig(folder / "probes.png", dpi=100)


def markdown(report: dict[str, Any]) -> str:
    """The table of a report: R² of the parameters, alone and within the whole degradation, and accuracies."""
    rows, photos = report["probes"], max(row.get("photos", 0) for row in report["probes"].values())
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        values = [f"{row[column]:.3f}" if column in row else "–" for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(values)} |")
    if photos:
        chance = [*["0"] * (len(COLUMNS) - 2), "0.333", f"{1 / photos:.3f}"]
        lines.append(f"| chance | {' | '.join(chance)} |")
    return "\n".join(lines) + "\n"

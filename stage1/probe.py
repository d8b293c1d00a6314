"""What encoders have learned: ``python -m stage1.probe weights=encoder.safetensors data.roots=[PHOTOS]``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.members import Photo
from deedsr.data.photos import PhotoCrops, list_photos
from deedsr.degradation import Mixture, Recipe
from deedsr.encoder.levels import bayes_accuracy
from deedsr.encoder.network import DegradationEncoder
from deedsr.encoder.probes import Exam, Reader, probe
from deedsr.encoder.statistics import statistics
from stage1.truth import graded

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
"""Columns of the table, by their name in `deedsr.encoder.probes.Probes`."""


def splits(roots: Any, fit: str | None, test: str | None) -> tuple[list[Photo], list[Photo]]:
    """The photographs of two splits; ValueError where one is in both, as in folders without a table of splits."""
    ours, theirs = list_photos(roots, fit), list_photos(roots, test)
    if both := sorted(set(ours) & set(theirs), key=str):
        raise ValueError(
            f"{both[0]} is in both splits, {fit} and {test}, so nothing would be held back: give two splits, and "
            "beside each folder a table FOLDER.tsv with the columns file and split"
        )
    return ours, theirs


def crops(photos: list[Photo], size: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` crops of each photograph: uint8 (N, 3, size, size), and which photograph each is of, (N,)."""
    images, photo = [], []
    for number, file in enumerate(photos):
        stream = PhotoCrops([file], size, seed + number, count, cache=True)
        images += [stream.crop(0, sample) for sample in range(count)]
        photo += [number] * count
    return torch.stack(images), torch.tensor(photo)


def make_exam(roots: Any, probes: DictConfig, recipe: Recipe | Mixture, seed: int, device: str = "cpu") -> Exam:
    """The degraded crops that `probes` (crop, fit, test) names. Raises ValueError as `splits` does."""
    ours, theirs = splits(roots, probes.fit.split, probes.test.split)
    fit, _ = crops(ours, probes.crop, probes.fit.crops, seed)
    test, photo = crops(theirs, probes.crop, probes.test.crops, seed)
    return Exam.make(fit, test, photo, recipe, seed, device)


def readers(files: Mapping[str, str], seed: int, device: str) -> dict[str, Reader]:
    """The encoders in `files`, a fresh one of each of their shapes, and the hand-made statistics.

    Raises ValueError for weights that can't be used.
    """
    trained, untrained, shapes = {}, {}, []
    for name, file in files.items():
        stored = weights.load(file)
        torch.manual_seed(seed)
        encoder = DegradationEncoder(**stored.config).to(device).eval()
        if stored.config not in shapes:
            shapes.append(stored.config)
            label = "untrained" if len(shapes) == 1 else f"untrained, as {name}"
            untrained[label] = DegradationEncoder(**stored.config).to(device).eval()
        weights.load_strict(encoder, stored.tensors, file)
        trained[name] = encoder
    return {**trained, **untrained, "hand-made": statistics}


def run(cfg: DictConfig) -> dict[str, Any]:
    """Probes of the encoders in `cfg.weights`, a file or files by name, and of what they are compared with.

    The last row is the best that the true parameters allow. With `cfg.output` given, writes ``probes.json``,
    ``probes.md`` and ``probes.png`` there. Raises ValueError for weights or photographs that can't be used.
    """
    files = {"trained": cfg.weights} if isinstance(cfg.weights, str) else dict(cfg.weights)
    compared = readers(files, cfg.seed, cfg.device)
    recipe = graded(cfg.recipe)
    exam = make_exam(cfg.data.roots, cfg, recipe, cfg.seed, cfg.device)
    rows: dict[str, Any] = {name: asdict(probe(reader, exam, cfg.device)) for name, reader in compared.items()}
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
    from stage1.figure import figure

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "probes.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "probes.md").write_text(markdown(report), encoding="utf-8")
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


@hydra.main(config_path="../conf", config_name="probe", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """The command line: prints the report as JSON."""
    try:
        sys.stdout.write(json.dumps(run(cfg), indent=2) + "\n")
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

"""What it is worth to a model that it knows the degradation, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from deedsr.data.photos import list_photos
from deedsr.devices import pick_device
from deedsr.files import replacing, write_json, write_text
from deedsr.metrics.evaluation import versions
from deedsr.models import load_model
from deedsr.options import DTYPES, Options, one_of
from deedsr.training.command import plain
from stage2.evaluate.degradation.dials import Response
from stage2.evaluate.degradation.figure import figure
from stage2.evaluate.degradation.fitted import Fit
from stage2.evaluate.degradation.pictures import WHOLE, Field, Scenes
from stage2.evaluate.degradation.recipes import recipe
from stage2.evaluate.degradation.restoring import Arm
from stage2.evaluate.degradation.scores import Score, scorers
from stage2.evaluate.degradation.shared import Shared
from stage2.evaluate.degradation.swap import Swap
from stage2.evaluate.degradation.tables import markdown
from stage2.evaluate.degradation.vectors import VECTORS

PARTS = ("swap", "dials", "shared")


def degradation(cfg: DictConfig) -> str:
    """Writes FILE.json, FILE.md (the tables) and FILE.png; what FILE.md says.

    Raises ValueError for what can't be measured, before anything is restored.
    """
    output = Path(cfg.output)
    if output.suffix.lower() != ".json":
        raise ValueError(f"output={cfg.output} must be a file name that ends in .json")
    output.parent.mkdir(parents=True, exist_ok=True)  # fails now if at all, not after hours
    for part in cfg.parts:
        one_of("part", part, PARTS)
    for name in cfg.vectors:
        one_of("vector", name, VECTORS)
    recipes = [str(name) for name in cfg.recipes]
    for name in (*recipes, cfg.dials.recipe, cfg.shared.recipe):
        recipe(name)
    metrics = scorers(cfg.metrics, pick_device(cfg.device), cfg.download)
    scenes = _scenes(cfg)
    arms = _arms(cfg)
    against = cfg.against or arms[0].name
    one_of("against", against, [arm.name for arm in arms])
    fields = _fields(cfg.fields, arms, cfg.around)
    found: dict[str, Any] = {
        "settings": plain(cfg),
        "sampling": {arm.name: str(arm.settings) for arm in arms},
        "versions": versions(),
        "missing": [],
    }
    for part, rows in _parts(cfg, arms, scenes, fields, metrics, against):
        found[part] = rows
        _write(output, found, next(iter(metrics)))  # what there is, should the rest take too long
    return markdown(found)


def _parts(
    cfg: DictConfig,
    arms: Sequence[Arm],
    scenes: Scenes,
    fields: Sequence[Field],
    metrics: Mapping[str, Score],
    against: str,
) -> Iterator[tuple[str, list]]:
    """What is found, by name, as it grows."""
    recipes = [str(name) for name in cfg.recipes]
    if "swap" in cfg.parts:
        fit = Fit(**cfg.fitted)
        swap = Swap(arms, scenes, fields, list(cfg.vectors), metrics, list(cfg.dear), fit, cfg.progress)
        for name in recipes:
            swap.run(name)
            yield "missing", swap.missing
            yield "arms", swap.beside(recipes, against)
            yield "swap", swap.rows(recipes)
    if "dials" in cfg.parts:
        response = Response(**plain(cfg.dials))
        yield "dials", [response.run(arm, scenes, cfg.progress) for arm in arms]
    if "shared" in cfg.parts:
        shared = Shared(**plain(cfg.shared))
        yield "shared", [row for arm in arms for row in shared.run(arm, scenes, fields, metrics, cfg.progress)]


def _write(output: Path, found: dict[str, Any], metric: str) -> None:
    write_json(output, found)
    write_text(output.with_suffix(".md"), markdown(found))
    if found.get("swap") or found.get("dials"):
        with replacing(output.with_suffix(".png")) as part:
            figure(found, metric).savefig(part, dpi=150, format="png")


def _scenes(cfg: DictConfig) -> Scenes:
    """Pieces of the photographs that were held back, of two at least: one's vector comes from another."""
    files = list_photos(cfg.data.roots, cfg.data.split)[: cfg.photographs]
    if len(files) < 2:
        raise ValueError(f"{len(files)} photograph held back: give at least 2, one's vector must come from another")
    return Scenes(files, cfg.around, cfg.crops, list(cfg.seeds))


def _arms(cfg: DictConfig) -> list[Arm]:
    """The models, by name."""
    device, dtype = pick_device(cfg.device), getattr(torch, one_of("dtype", cfg.dtype, DTYPES))
    options = Options(**plain(cfg.options))
    models = plain(cfg.models) or {Path(cfg.model).name: cfg.model}
    return [Arm(str(name), load_model(str(place), device, dtype), options) for name, place in models.items()]


def _fields(given: Sequence[Any], arms: Sequence[Arm], around: int) -> list[Field]:
    """Raises ValueError for a field that a model can't take, or that is larger than the piece around it."""
    fields: list[Field] = [WHOLE if field == WHOLE else int(field) for field in given]
    multiple = max(16 * 4, *(arm.model.size.multiple for arm in arms))
    for field in (around, *fields):
        if field != WHOLE and not (int(field) <= around and int(field) % multiple == 0):
            raise ValueError(
                f"fields={list(given)}, around={around}: give multiples of {multiple} up to around, or whole"
            )
    return fields

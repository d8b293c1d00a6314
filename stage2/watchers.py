"""What watches over a run of stage 2, from its configuration: validation, the best, and early stopping."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from deedsr.diffusion.sampler import Settings
from deedsr.models import TrainableModel
from deedsr.models.card import trained_on
from deedsr.training.command import plain
from deedsr.training.photographs import Batches, Photographs
from deedsr.training.recipe import recipe
from stage2.best import Best, Origin, mode
from stage2.measuring import Samples, metric_names, of_folder, of_pairs, of_photos, sizes
from stage2.validation import Validation


class OfOneTable(pl.Callback):
    """What follows the rows of a table, `measured`, and starts anew with another one."""

    measured = ""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("measured", self.measured) == self.measured:
            super().load_state_dict(state_dict)


class Patience(OfOneTable, EarlyStopping):
    """Lightning's, but that a run which goes on has the patience that it is given now."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})


class BestCheckpoints(OfOneTable, ModelCheckpoint):
    """Lightning's, of one table."""


def watchers(cfg: DictConfig, data: Batches, trainable: TrainableModel, output: Path) -> list[pl.Callback]:
    """The callbacks of ``cfg.validation``, ``cfg.checkpoint`` and ``cfg.early_stopping``.

    Raises ValueError for what there is nothing to measure for.
    """
    words, monitor, stopping = cfg.validation, cfg.checkpoint.monitor, plain(cfg.early_stopping)
    if cfg.checkpoint.top and not monitor:
        raise ValueError(f"checkpoint.top={cfg.checkpoint.top} needs checkpoint.monitor=val/lpips, or another metric")
    samples = validated(cfg, data) if words else {}
    if not samples:
        if monitor or stopping:
            word = f"checkpoint.monitor={monitor}" if monitor else "early_stopping"
            raise ValueError(f"{word} needs a validation: give validation.data=PAIRS, or data.held_back=0.1")
        return []
    defaults = (trainable.before or trainable.header["defaults"]) if cfg.init else None
    start = None if defaults is None else Settings.from_dict(defaults)
    measured = described(cfg, data, samples)
    validation = Validation(samples, words.every, metric_names(words), start, measured=measured)
    callbacks: list[pl.Callback] = [validation]
    if stopping:
        direction = mode(stopping["monitor"] or "")
        callbacks.append(Patience(**stopping, mode=direction))
    if monitor:
        origin = origin_of(cfg, data, samples, defaults)
        best = Best(output / "best", monitor, trainable, validation, origin)
        validation.followers = [best]
        callbacks.append(best)
        if cfg.checkpoint.top:
            callbacks.append(best_checkpoints(output, monitor, cfg.checkpoint.top))
    for callback in callbacks:
        if isinstance(callback, OfOneTable):
            callback.measured = measured
    return callbacks


def validated(cfg: DictConfig, data: Batches) -> Samples:
    """The pictures to validate on: given ones, or those that the run's own data hold back; {} for none."""
    words = cfg.validation
    numbers = sizes(words)
    if words.data:
        return of_folder(Path(words.data), *numbers)
    if not isinstance(data, Photographs):
        return {}
    if data.held_pairs:
        return of_pairs(data.held_pairs, *numbers)
    return of_photos(data.held_photos, *numbers, recipe(cfg.recipe), cfg.seed)


def described(cfg: DictConfig, data: Batches, samples: Samples) -> str:
    """A digest of what makes the rows of a table comparable: metrics, which of them decides, and the pictures.

    LR pictures that a recipe makes count as its words: in pixels they are a machine's.
    """
    made = not cfg.validation.data and isinstance(data, Photographs) and not data.held_pairs
    by = [plain(cfg)["recipe"], cfg.seed] if made else []
    digest = hashlib.sha256(json.dumps([metric_names(cfg.validation), cfg.checkpoint.monitor, by]).encode())
    for name, sample in samples.items():
        digest.update(name.encode())
        for picture in (sample.hr, None if made else sample.lr):
            if picture is not None:
                digest.update(f"{picture.shape}".encode() + (255 * picture).round().byte().numpy().tobytes())
    return digest.hexdigest()[:16]


def origin_of(cfg: DictConfig, data: Batches, samples: Samples, defaults: dict[str, Any] | None) -> Origin:
    """What the card says that a run is of."""
    doubts, held = (data.doubts, data.held_pairs) if isinstance(data, Photographs) else ([], [])
    void = bool(held) and not cfg.validation.data and 2 * len({*held} & {*data.unlike}) > len(held)
    pictures = trained_on({} if cfg.cache else plain(cfg.data))
    what = f"{pictures}, {len(data)} pictures, {len(samples)} others to validate on"
    start = Path(cfg.init).name if cfg.init else None
    return Origin(start, defaults, what, doubts, cfg.optimizer.lr, len(samples), void)


def best_checkpoints(output: Path, monitor: str, top: int) -> BestCheckpoints:
    """Keeps the `top` best checkpoints in `output`."""
    return BestCheckpoints(
        output,
        "best-{step:06d}",
        monitor=monitor,
        mode=mode(monitor),
        save_top_k=top,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )

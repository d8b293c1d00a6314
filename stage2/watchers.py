"""What watches over a run of stage 2, from its configuration: validation, the best, and early stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from deedsr.diffusion.sampler import Settings
from deedsr.models import TrainableModel
from deedsr.training.command import plain
from deedsr.training.photographs import Batches, Photographs
from deedsr.training.recipe import recipe
from stage2.best import Best, Origin, mode
from stage2.measuring import Samples, of_folder, of_pairs, of_photos
from stage2.validation import Validation


class Patience(EarlyStopping):
    """Lightning's, but that a run which goes on has the patience that it is given now."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})


def watchers(cfg: DictConfig, data: Batches, trainable: TrainableModel, output: Path) -> list[pl.Callback]:
    """The callbacks of ``cfg.validation``, ``cfg.checkpoint`` and ``cfg.early_stopping``.

    Raises ValueError for what there is nothing to measure for.
    """
    words, monitor, stopping = cfg.validation, cfg.checkpoint.monitor, plain(cfg.early_stopping)
    samples = validated(cfg, data) if words else {}
    if not samples:
        if monitor or stopping:
            word = f"checkpoint.monitor={monitor}" if monitor else "early_stopping"
            raise ValueError(f"{word} needs a validation: give validation.data=PAIRS, or data.held_back=0.1")
        return []
    defaults = (trainable.before or trainable.header["defaults"]) if cfg.init else None
    start = None if defaults is None else Settings.from_dict(defaults)
    validation = Validation(samples, words.every, words.metrics, start)
    callbacks: list[pl.Callback] = [validation]
    if stopping:
        direction = mode(stopping["monitor"] or "")
        callbacks.append(Patience(**stopping, mode=direction, check_on_train_epoch_end=False))
    if monitor:
        origin = origin_of(cfg, data, samples, defaults)
        best = Best(output / "best", monitor, trainable, validation, origin)
        validation.followers = [best]
        callbacks.append(best)
        if cfg.checkpoint.top:
            callbacks.append(best_checkpoints(output, monitor, cfg.checkpoint.top))
    return callbacks


def validated(cfg: DictConfig, data: Batches) -> Samples:
    """The pictures to validate on: given ones, or those that the run's own data hold back; {} for none."""
    words = cfg.validation
    sizes = (words.images, words.side)
    if words.data:
        return of_folder(Path(words.data), *sizes)
    if not isinstance(data, Photographs):
        return {}
    if data.held_pairs:
        return of_pairs(data.held_pairs, *sizes)
    return of_photos(data.held_photos, *sizes, recipe(cfg.recipe), cfg.seed)


def origin_of(cfg: DictConfig, data: Batches, samples: Samples, defaults: dict[str, Any] | None) -> Origin:
    """What the card says that a run is of."""
    places = [str(place) for name in ("roots", "pairs") for place in plain(cfg.data)[name]]
    doubts, held = (data.doubts, data.held_pairs) if isinstance(data, Photographs) else ([], [])
    void = bool(held) and not cfg.validation.data and 2 * len({*held} & {*data.unlike}) > len(held)
    what = f"{len(data)} pictures of {', '.join(places) or cfg.cache}, {len(samples)} others to validate on"
    return Origin(cfg.init, defaults, what, doubts, cfg.optimizer.lr, void)


def best_checkpoints(output: Path, monitor: str, top: int) -> ModelCheckpoint:
    """Keeps the `top` best checkpoints in `output`."""
    return ModelCheckpoint(
        output,
        "best-{step:06d}",
        monitor=monitor,
        mode=mode(monitor),
        save_top_k=top,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )

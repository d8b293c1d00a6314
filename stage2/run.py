"""What the runs of stage 2 share: photographs, randomness, averaged weights, checkpoints, and resuming."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from deedsr import weights
from deedsr.data.flaws import distinct
from deedsr.data.photos import Beside, PhotoCrops, list_photos, seeded
from deedsr.ema import Average

LAST, BAD_BATCH = "last.ckpt", "bad_batch.safetensors"
Batch = Tensor | dict[str, Tensor]
"""uint8 HR crops (B, 3, S, S); or ``hr`` and what belongs to them; or what has been made of them."""

log = logging.getLogger(__name__)


class Crops(pl.LightningDataModule):
    """Batches of uint8 HR crops (B, 3, size, size); the stream starts at the trainer's current step.

    Duplicates are left out, corrupt photographs replaced, small ones enlarged; the log says so once, at the end.
    """

    def __init__(
        self,
        data: DictConfig,
        size: int,
        batch: int,
        seed: int,
        beside: Beside | None = None,
        enlarge: float = 1.0,
    ) -> None:
        super().__init__()
        self.beside, self.enlarge = beside, enlarge
        self.files, self.duplicates = distinct(list_photos(data.roots, data.split))
        self.data, self.size, self.batch, self.seed = data, size, batch, seed
        self.crops: PhotoCrops | None = None

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        crops = self.crops = PhotoCrops(
            self.files,
            self.size,
            self.seed,
            self.batch,
            trainer.global_rank,
            trainer.global_step * trainer.accumulate_grad_batches,
            self.data.cache,
            self.beside,
            self.enlarge,
        )
        return DataLoader(crops, self.batch, num_workers=self.data.workers, persistent_workers=self.data.workers > 0)

    def teardown(self, stage: str) -> None:
        """At the end of a run: what was wrong with the photographs that any rank has met since its start."""
        if self.crops is None:
            return
        flaws, strategy = self.crops.flaws, self.trainer.strategy
        flaws.marks = strategy.reduce(flaws.marks.to(strategy.root_device), reduce_op="max").cpu()
        if self.trainer.is_global_zero and (found := flaws.report(self.duplicates, self.size)):
            log.warning(found)


class Run(pl.LightningModule):
    """A run whose randomness is a pure function of (seed, batch number, rank); frozen parts stay out of checkpoints."""

    average: Average | None = None

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.strict_loading = False  # checkpoints hold the trained part alone; `check` is strict about that

    def generator(self, stream: int, alike: bool = False) -> torch.Generator:
        """For the present batch on this rank; each `stream` is independent of the others.

        alike: the same on all ranks, for what decides how often the network is asked: with sharded parameters all ranks
        ask it together.
        """
        rank = 0 if alike else self.global_rank
        return generator(self.seed, self.trainer.fit_loop.total_batch_idx, rank, stream)

    def saved(self) -> set[str]:
        """Names of the tensors that checkpoints hold; all others are rebuilt from elsewhere."""
        raise NotImplementedError

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.batch = batch

    def on_before_backward(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise self.broken(f"the loss is {loss.item()}")

    def broken(self, what: str) -> ValueError:
        """The error for numbers that are none; keeps the present batch."""
        return ValueError(
            f"{what} at step {self.global_step}: take a lower learning rate, trainer.precision=32-true, or other "
            f"photographs (this batch is in {self._keep_batch()}); the same command goes on from the last checkpoint"
        )

    def _keep_batch(self) -> Path:
        """Write the present batch, and what its randomness is made of, for inspection; returns the file."""
        tensors = self.batch if isinstance(self.batch, dict) else {"hr": self.batch}
        number = self.trainer.fit_loop.total_batch_idx
        origin = {"seed": self.seed, "step": self.global_step, "batch": number, "rank": self.global_rank}
        return weights.save(Path(self.trainer.default_root_dir) / BAD_BATCH, tensors, origin)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update()  # here, because on_train_batch_end comes only after a checkpoint of this step

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        saved = self.saved()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in saved}
        if self.average is not None:
            checkpoint["average"] = self.average.state_dict()
        checkpoint["sharded"] = isinstance(self.trainer.strategy, ModelParallelStrategy)

    def check(self, checkpoint: dict, trainer: pl.Trainer, file: Path) -> None:
        """Raise ValueError where `checkpoint`, read from `file`, is not of such a run."""
        rebuilt = self.state_dict().keys() - self.saved()
        weights.load_strict(self, checkpoint["state_dict"], file, allow_missing=rebuilt)
        sharded = checkpoint.get("sharded", False)
        if sharded != isinstance(trainer.strategy, ModelParallelStrategy):
            raise ValueError(
                f"{file}: its optimizer's state is {'' if sharded else 'not '}that of a model_parallel "
                "strategy: go on with the trainer.strategy of before, or start another run with init=FOLDER"
            )

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])


class WholeCheckpoints(TorchCheckpointIO):
    """Gives a checkpoint its name when it is whole: one that is cut off never takes the place of the last."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        part = f"{path}.part"
        super().save_checkpoint(checkpoint, part, storage_options)
        os.replace(part, path)


def fit(
    cfg: DictConfig,
    module: Run,
    crops: pl.LightningDataModule,
    output: Path,
    steps: int,
    callbacks: Sequence[Callback] = (),
) -> pl.Trainer:
    """Train `module` until `steps`, going on from ``output/last.ckpt`` if there is one; leaves that file at the end.

    The configuration is kept beside it as ``config.yaml``.
    """
    checkpoint = output / LAST
    saver = ModelCheckpoint(
        output,
        "last",
        every_n_train_steps=cfg.checkpoint_every,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
    trainer: pl.Trainer = hydra.utils.instantiate(
        cfg.trainer,
        logger=hydra.utils.instantiate(cfg.logger, save_dir=str(output)) if cfg.logger else False,
        plugins=[WholeCheckpoints()],
        callbacks=[saver, *([LearningRateMonitor("step")] if cfg.logger else []), *callbacks],
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=str(output),
        use_distributed_sampler=False,
    )
    if trainer.is_global_zero:
        output.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    if checkpoint.is_file():
        stored = weights.load_checkpoint(checkpoint)
        module.check(stored, trainer, checkpoint)
        log.info("going on after step %d of %s", stored["global_step"], checkpoint)
        del stored
        trainer.fit(module, crops, ckpt_path=str(checkpoint), weights_only=True)
    else:
        trainer.fit(module, crops)
    if trainer.global_step >= steps:
        trainer.save_checkpoint(checkpoint, weights_only=False)
    return trainer


def finished(output: Path, steps: int, result: Path) -> bool:
    """Whether the run in `output` has taken its `steps` and left `result`, so that there is nothing to do."""
    if not (result.is_file() and (output / LAST).is_file()):
        return False
    done = weights.load_checkpoint(output / LAST)["global_step"]
    if done >= steps:
        log.info("%s: finished, %d steps; give more steps to go on", output, done)
    return done >= steps


def command(train: Callable[[DictConfig], object], cfg: DictConfig) -> None:
    """`train(cfg)` for a command line: what the user can mend is one line, not a traceback.

    Each job of a multirun has an output folder of its own.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        cfg.output = HydraConfig.get().runtime.output_dir
    for name in sorted(missing(OmegaConf.to_container(cfg))):
        sys.exit(f"error: {name} is missing: add {name}=… to the command")
    try:
        train(cfg)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {str(error).strip().splitlines()[-1]}")  # a data worker's error ends with the error proper


def missing(values: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of what must be given and is not; `OmegaConf.missing_keys` fails where other values point there."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from missing(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value == MISSING:
            yield f"{prefix}{name}"


def generator(seed: int, batch: int, rank: int, stream: int) -> torch.Generator:
    """For the batch number `batch` of a run on `rank`."""
    return seeded(seed, batch, rank, 0, stream)  # five numbers; a crop's generator has four


def pixels(batch: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → float32 in [0, 1]."""
    return batch.float() / 255

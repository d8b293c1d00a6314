"""Train the degradation learner: ``python -m stage1.train data.roots=[PHOTOS]``.

``output/encoder.safetensors`` is what stage 2 takes. The same command goes on where a broken-off run stopped.
"""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from deedsr import weights
from deedsr.training.command import main
from deedsr.training.fit import finished, fit
from stage1.from_config import batches, degradation_learner
from stage1.probe.while_training import Probing


class EncoderFile(pl.Callback):
    """Writes ``encoder.safetensors`` beside each checkpoint: what stage 2 takes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Writes the query encoder, without the head."""
        if trainer.is_global_zero:
            encoder = pl_module.contrast.encoder
            weights.save(self.path, encoder.state_dict(), encoder.config())


def train(cfg: DictConfig) -> Path:
    """Runs, or goes on with, the run that `cfg` describes; returns the path of its ``encoder.safetensors``.

    A run goes on from ``last.ckpt`` in its output folder to the bit; one that has taken all its steps is left alone.
    Raises ValueError for photographs or numbers that can't be used, as accumulated gradients: negatives come from the
    queue, which moves with every batch.
    """
    output = Path(cfg.output)
    encoder = output / "encoder.safetensors"
    if finished(output, cfg.steps, encoder):
        return encoder
    if cfg.trainer.accumulate_grad_batches != 1:
        raise ValueError("trainer.accumulate_grad_batches must be 1 in stage 1; take a larger batch or more devices")
    callbacks: list[pl.Callback] = [EncoderFile(encoder)]
    if cfg.probe.every is not None:
        callbacks.append(Probing(cfg.data.roots, cfg.probe, cfg.seed))
    fit(cfg, degradation_learner(cfg), batches(cfg), output, cfg.steps, callbacks)
    return encoder


if __name__ == "__main__":
    main(train, "stage1", trains=True)

"""Validation while stage 2 trains: the restorer and the evaluator that users have, on a few fixed pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl

from deedsr.data.pairs import match, pictures
from deedsr.metrics import sheet, table
from deedsr.metrics.evaluation import RESTORED, Evaluator
from deedsr.metrics.outputs import Sample, load
from deedsr.options import Options
from deedsr.pictures.picture import Picture
from deedsr.restorer import Restorer


class Validation(pl.Callback):
    """Every `every` steps: restores the first `images` pairs of `data` (lr/, hr/) with the averaged weights.

    Logs the mean of each metric as ``val/NAME``, the table as text, and a line of pictures for each pair: up-sampled
    input, output, ground truth. Raises ValueError for pairs that are not four times apart.
    """

    def __init__(
        self, data: str, every: int, images: int = 4, metrics: Sequence[str] = ("psnr", "lpips", "dists")
    ) -> None:
        root = Path(data)
        files = match({"lr": pictures(root / "lr"), "hr": pictures(root / "hr")})
        self.samples = {
            stem: load(stem, {**roles, "restored": roles["hr"]}) for stem, roles in [*files.items()][:images]
        }
        for sample in self.samples.values():
            sample.check(Options())
        self.every, self.metrics = every, list(metrics)
        self.evaluator: Evaluator | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, run: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        with run.averaged(), trainer.precision_plugin.forward_context():
            restorer = Restorer(run.model, Options())  # on every rank: sharded parameters are gathered by all together
            outputs = {stem: restorer(Picture(sample.lr)).rgb for stem, sample in self.samples.items()}
        if not trainer.is_global_zero:
            return
        self.evaluator = self.evaluator or Evaluator(metrics=self.metrics)
        scored = [Sample(stem, outputs[stem], sample.hr, sample.lr) for stem, sample in self.samples.items()]
        report = self.evaluator.run(scored, len(scored))
        for logger in trainer.loggers:
            values = table.means(report, report.rows[RESTORED])
            logger.log_metrics({f"val/{name}": value for name, value in values.items() if value is not None}, step)
            if hasattr(logger.experiment, "add_image"):
                logger.experiment.add_text("val/table", table.to_markdown(report), step)
                for sample in scored:
                    logger.experiment.add_image(f"val/{sample.stem}", sheet.line(sample), step)

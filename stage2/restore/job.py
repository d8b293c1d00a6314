"""Many pictures through a model, over any number of devices and nodes: what each rank does, and what it writes."""

from __future__ import annotations

import datetime
import logging
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed
from torch.utils.data import DataLoader

from deedsr.batch import Writer
from deedsr.devices import check_compiler
from deedsr.jobs import Job, Outcome, Saving, make_plan
from deedsr.ledger import Ledger, content, settings_digest
from deedsr.models import load_model, pick_dtype
from deedsr.options import Options
from deedsr.restorer import Restorer
from deedsr.training.command import listed, plain

log = logging.getLogger(__name__)

STATUSES = ("restored", "kept", "failed")
PATIENCE = datetime.timedelta(days=30)  # of a rank that is done for the others


class Restoration(pl.LightningModule):
    """The jobs of a plan, shared among all ranks; `counts` is what became of them on this one."""

    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self, jobs: list[Job], ledger: Ledger, saving: Saving, make_restorer: Callable[[torch.device], Restorer]
    ) -> None:
        super().__init__()
        self.jobs, self.ledger, self.saving, self.make_restorer = jobs, ledger, saving, make_restorer
        self.counts: Counter[str] = Counter()

    def setup(self, stage: str) -> None:
        """The first rank says what is left to do, so that all share the same list."""
        todo = self.ledger.unfinished(self.jobs) if self.trainer.is_global_zero else []
        self.counts["kept"] = len(self.jobs) - len(todo) if self.trainer.is_global_zero else 0
        self.todo: list[int] = self.trainer.strategy.broadcast(todo)
        self.group = distributed.new_group(timeout=PATIENCE, backend="gloo") if distributed.is_initialized() else None

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(self.todo[self.global_rank :: self.trainer.world_size], batch_size=None)

    @cached_property
    def restorer(self) -> Restorer:
        """Loaded at the first picture that needs it."""
        return self.make_restorer(self.trainer.strategy.root_device)

    @cached_property
    def writer(self) -> Writer:
        return Writer(self.report, self.saving, self.ledger, self.global_rank)

    def report(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        if outcome.error is None:
            log.info("%s -> %s (%.1f s)", outcome.source, outcome.target, outcome.seconds)
            for note in outcome.notes:
                log.warning(note)
        else:
            log.error(outcome.error)

    def predict_step(self, number: int) -> int:
        self.writer.restore(self.jobs[number], self.restorer)
        return number

    def on_predict_end(self) -> None:
        self.writer.close()

    def totals(self) -> dict[str, int]:
        """`counts` of all ranks together, once all are done."""
        numbers = torch.tensor([self.counts[status] for status in STATUSES])
        if self.group is not None:
            distributed.all_reduce(numbers, group=self.group)
        return dict(zip(STATUSES, numbers.tolist(), strict=True))


def load(cfg: DictConfig, options: Options, dtype: torch.dtype, device: torch.device) -> Restorer:
    """The restorer on a device."""
    if cfg.compile:
        check_compiler(device)
    restorer = Restorer(load_model(cfg.ckpt, dtype=dtype), options, cfg.compile, device, cfg.low_memory)
    log.info("restoring in %s on %s", str(dtype).removeprefix("torch."), device)
    return restorer


def restore(cfg: DictConfig) -> dict[str, int]:
    """Do what is left to do; how many were ``restored``, ``kept`` and ``failed``, on all ranks together.

    Raises ValueError for inputs, outputs and options that make no sense.
    """
    output = Path(cfg.output)
    options = Options(**plain(cfg.options))
    plan = make_plan([Path(str(place)) for place in listed(cfg.input)], output, cfg.suffix, cfg.ext, frames=cfg.frames)
    if any(job.target == output for job in plan.jobs):
        raise ValueError(f"output={output} names a picture; give a folder")
    saving = Saving(cfg.quality, cfg.strip, cfg.keep_times)
    trainer: pl.Trainer = hydra.utils.instantiate(
        cfg.trainer, logger=False, enable_checkpointing=False, use_distributed_sampler=False
    )
    dtype = pick_dtype(cfg.dtype, cfg.ckpt, trainer.strategy.root_device)
    settings = {**content(options), **asdict(saving), "dtype": str(dtype).removeprefix("torch.")}
    ledger = Ledger(output, settings_digest(cfg.ckpt, settings))
    run = Restoration(plan.jobs, ledger, saving, partial(load, cfg, options, dtype))
    trainer.predict(run, return_predictions=False)
    totals = run.totals()
    totals["failed"] += len(plan.failed)
    if trainer.is_global_zero:
        for outcome in plan.failed:
            log.error(outcome.error)
        log.info(", ".join(f"{count} {status}" for status, count in totals.items()))
    return totals


def restore_or_exit(cfg: DictConfig) -> None:
    """`restore`; exit status 1 where a picture failed."""
    failed = restore(cfg)["failed"]
    sys.exit(int(failed > 0 and rank_zero_only.rank == 0))  # one rank's exit code ends the others

"""The record of a run: what it was started with, each of its starts, and what was other when it went on."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from deedsr import __version__, files, weights
from deedsr.models.card import KEY, RECORD
from deedsr.options import one_of
from deedsr.training.command import plain
from deedsr.training.photographs import Batches

LAST = "last.ckpt"  # in a run's folder, beside `RECORD`
RESUME = ("auto", "changed", "never")
PLACES = ("name", "output", "resume", "ckpt_path")
DATA = ("data.roots", "data.split", "data.pairs", "cache", "pool")
"""Words that may differ where they lead to the same photographs."""
MAY_DIFFER = (
    *PLACES,
    *("steps", "autoencoder.steps", "denoiser.steps", "checkpoint_every"),
    *("logger", "callbacks", "probe", "early_stopping", "pictures", "progress"),
    *("validation.every", "checkpoint.top"),  # the rest of both says what the rows of one table are of
    *("data.workers", "data.cache", "compile", "channels_last", "recompute"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.plugins"),
    *("trainer.max_time", "trainer.min_steps", "trainer.fast_dev_run", "trainer.callbacks", "trainer.profiler"),
    *("trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
    *("trainer.benchmark", "trainer.deterministic", "trainer.detect_anomaly"),
)
"""Words, with all in them, in which a run that goes on may differ from what it was: they don't say what is learned."""
ADDED = {"adversary": {"of": "latents", "rise": 0}}
"""Words that came when there were runs already, and what those have done; one whose null says that needs no row."""
ALIKE = ("adamw", "fused")
"""Kinds of optimizers whose state is the same."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """How a run starts.

    checkpoint: what it goes on from, if anything, after `step`. record: what is known of the run, this start included.
    changed: the words whose new values say that something else is learned from now on. anew: whether the optimizer is
    of another kind now, so that the old one's state is none of its own.
    """

    checkpoint: Path | None
    step: int
    record: dict[str, Any]
    changed: tuple[str, ...] = ()
    anew: bool = False


def start(cfg: DictConfig, data: Batches, output: Path) -> Start:
    """How the run of a configuration starts: from its last checkpoint, from another one, or from nothing.

    Raises ValueError where it would go on as something else without ``resume=changed``.
    """
    now = {"configuration": plain(cfg), "photographs": {"count": len(data), "fingerprint": data.fingerprint}}
    checkpoint = source(cfg, output)
    if checkpoint is None:
        return Start(None, 0, {**now, "starts": [this_start(None, 0, [])]})
    stored = weights.load_checkpoint(checkpoint)
    old, step = stored.get(KEY), stored["global_step"]
    del stored
    if old is None:
        say(f"{checkpoint}: holds no record of its configuration, so that the present one is not compared")
        return Start(checkpoint, step, {**now, "starts": [this_start(checkpoint, step, [])]})
    found = differences({name: old[name] for name in now} | {"configuration": completed(old["configuration"])}, now)
    may = {f"configuration.{name}" for name in MAY_DIFFER + DATA * (old["photographs"] == now["photographs"])}
    changed = tuple(name for name in found if not any(f"{name}.".startswith(f"{word}.") for word in may))
    if changed and cfg.resume != "changed":
        ways = "take another name=…" + (", with init=… for its weights," if "init" in cfg else "")
        listed = ", ".join(told(name, *found[name]) for name in changed)
        raise ValueError(
            f"{checkpoint} is of another run: {listed}; {ways} or go on with the new values by resume=changed"
        )
    places = {f"configuration.{name}" for name in PLACES}
    notes = [told(name, *values) for name, values in found.items() if name not in places]
    before = old["starts"] if cfg.resume == "never" else earlier(output, old)
    starts = [*before, this_start(checkpoint, step, notes)]
    kinds = found.get("configuration.optimizer.kind", ALIKE)
    return Start(checkpoint, step, {**now, "starts": starts}, changed, anew=not set(kinds) <= {*ALIKE})


def source(cfg: DictConfig, output: Path) -> Path | None:
    """The checkpoint that a configuration's run goes on from. Raises ValueError where two are named."""
    own, given = output / LAST, Path(cfg.ckpt_path) if cfg.ckpt_path else None
    if one_of("resume", cfg.resume, RESUME) == "never" or not own.is_file():
        if given and own.is_file() and output.resolve() in given.resolve().parents:
            raise ValueError(f"ckpt_path={given} is of the run that resume=never moves aside: take another name=…")
        return given
    if given and given.resolve() != own.resolve():
        before = (weights.load_checkpoint(own).get(KEY) or {}).get("configuration", {}).get("ckpt_path")
        if before != cfg.ckpt_path:
            raise ValueError(
                f"{own} is there already, so that ckpt_path={given} would not count: take another name=…, or move the "
                "run aside by resume=never"
            )
    return own


def differences(old: Any, new: Any, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted names with their two values, wherever two nested tables differ; what one lacks counts as null in it."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if old == new else {where: (old, new)}
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**old, **new}:
        found |= differences(old.get(name), new.get(name), f"{where}.{name}" if where else name)
    return found


def completed(configuration: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration with the words that its code had not yet, where it has the group that they are in."""
    groups = {name: words | configuration[name] for name, words in ADDED.items() if configuration.get(name)}
    return configuration | groups


def told(name: str, old: Any, new: Any) -> str:
    """``optimizer.lr: 0.001 → 0.0005``."""
    values = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in (old, new)]
    return f"{name.removeprefix('configuration.')}: {' → '.join(values)}"


def earlier(output: Path, old: dict[str, Any]) -> list[Any]:
    """The starts of a run until now, also those that have not come to save anything."""
    file = output / RECORD
    return plain(cast("DictConfig", OmegaConf.load(file)))["starts"] if file.is_file() else old["starts"]


def this_start(checkpoint: Path | None, step: int, changes: list[str]) -> dict[str, Any]:
    """When, where, and with which code a run starts, and what is changed after `step`."""
    names = ("pytorch-lightning", "diffusers")
    versions = {"deedsr": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": platform.node(),
        "from": None if checkpoint is None else str(checkpoint),
        "step": step,
        "changes": changes,
        **commit(),
        "versions": {**versions, **{name: version(name) for name in names}},
    }


def commit() -> dict[str, Any]:
    """The commit of the code, and whether the tree was clean; null where it is no checkout."""
    root = Path(__file__).parents[2]
    try:
        if not (root / ".git").exists():
            raise OSError
        said = [
            subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}
    return {"commit": said[0], "clean": not said[1]}


def write(record: dict[str, Any], output: Path) -> None:
    """Writes ``run.yaml``."""
    files.write_text(output / RECORD, OmegaConf.to_yaml(OmegaConf.create(record)))


def move_aside(output: Path) -> None:
    """Gives the folder of a run a number, so that another can begin under its name; its log goes with it."""
    if rank_zero_only.rank:
        return
    target = next(name for number in count(1) if not (name := output.with_name(f"{output.name}.{number}")).exists())
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and output.resolve() in Path(handler.baseFilename).parents:
            handler.close()  # opens its file anew at the next line
    os.rename(output, target)
    output.mkdir()
    say(f"the run of before is in {target}")


def say(line: str) -> None:
    """Tell the log, on one rank."""
    if not rank_zero_only.rank:
        log.info(line)

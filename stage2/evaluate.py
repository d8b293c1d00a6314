"""Scores restored pictures: ``python -m stage2.evaluate restored=DIR hr=DIR [lr=DIR] output=FILE.json``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from deedsr.data.pairs import match, pictures
from deedsr.metrics import table
from deedsr.metrics.evaluation import Evaluator, Report, load


def evaluate(cfg: DictConfig) -> Report:
    """Score the pictures that `cfg` names and write ``FILE.json``, ``FILE.csv`` and ``FILE.md``."""
    if cfg.restored is None or cfg.hr is None:
        raise ValueError("give restored=DIR and hr=DIR, or model=NAME and data=DIR")
    folders = {"restored": pictures(cfg.restored, cfg.suffix), "hr": pictures(cfg.hr)}
    if cfg.lr is not None:
        folders["lr"] = pictures(cfg.lr)
    files = match(folders)
    evaluator = Evaluator(cfg.protocol, cfg.metrics, _device(cfg.device), cfg.download)
    samples = (load(stem, roles) for stem, roles in files.items())
    report = evaluator.run(samples, len(files), cfg.rows, cfg.progress)
    output = Path(cfg.output)
    for suffix, text in ((".json", table.to_json), (".csv", table.to_csv), (".md", table.to_markdown)):
        write_text(output.with_suffix(suffix), text(report))
    return report


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@hydra.main(config_path="../conf/evaluate", config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """The command line."""
    try:
        report = evaluate(cfg)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(table.to_markdown(report))


if __name__ == "__main__":
    main()

"""What a run of `stage2.restore` has done, by content: hashes of input, output and settings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deedsr.jobs import Job
from deedsr.models.resolver import model_place

BLOCK = 2**20  # bytes


class Ledger:
    """The outputs of one folder that are done.

    Each is a line of JSON: its name, and the SHA-256 of its input, of itself and of the settings. Every rank appends to
    a file of its own, ``.restored-RANK.jsonl`` in the output folder. A line that was cut off counts for nothing, and so
    do lines that no longer fit their files.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder, self.settings = folder, settings

    def unfinished(self, jobs: list[Job]) -> list[int]:
        """Numbers of the jobs whose output is missing, or not what these settings made of this input."""
        lines = self._lines()
        return [number for number, job in enumerate(jobs) if self._line(job) not in lines]

    def add(self, job: Job, source: str, rank: int) -> None:
        """Note that `job` is done; source: hash of the input that was restored."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = self._entry(job, source, file_digest(job.target))
        with open(self.folder / f".restored-{rank}.jsonl", "a", encoding="utf-8") as stream:
            stream.write(f"\n{line}\n")  # the first: a line that was cut off has no end
            stream.flush()
            os.fsync(stream.fileno())

    def _lines(self) -> set[str]:
        files = self.folder.glob(".restored-*.jsonl")
        return {line for file in files for line in file.read_text(encoding="utf-8", errors="replace").split("\n")}

    def _line(self, job: Job) -> str | None:
        """The line that says that `job` is done, from the files as they are now; None without them."""
        if not (job.target.is_file() and job.source.is_file()):
            return None
        try:
            return self._entry(job, file_digest(job.source), file_digest(job.target))
        except OSError:  # `attempt` will say why
            return None

    def _entry(self, job: Job, source: str, target: str) -> str:
        name = Path(os.path.relpath(job.target, self.folder)).as_posix()
        return json.dumps({"name": name, "input": source, "output": target, "settings": self.settings})


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def settings_digest(model: str, settings: Mapping[str, Any]) -> str:
    """SHA-256 of plain values and of all files of a model: ``built-in``, a folder, a checkpoint or a hub id.

    A base that lies outside the model's folder counts by its name alone, which is in the adapter's header. Raises
    ValueError for a model that does not exist.
    """
    place = model_place(model)
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    total = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    for path in files:
        total.update(f"{path.relative_to(place).as_posix()} {file_digest(path)} ".encode())
    return total.hexdigest()

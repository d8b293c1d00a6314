"""What has been restored already, by content: hashes of input, output and settings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from deedsr.files import sha256, visible
from deedsr.jobs import Job
from deedsr.options import Options
from deedsr.pictures.found import pictures

DONE, OURS, CHANGED, MISSING = "done", "ours", "changed", "missing"


class Ledger:
    """The outputs of one folder that are done.

    Each is a line of JSON: its name, and the SHA-256 of its input, of itself and of the settings. Every rank appends to
    a file of its own, ``.restored-RANK.jsonl`` in `place`, or else in the output folder. A line that was cut off counts
    for nothing, and so do lines that no longer fit their files. settings: their digest, or what gives it when needed.
    """

    def __init__(self, folder: Path, settings: str | Callable[[], str], place: Path | None = None) -> None:
        self.folder, self.place = folder, place or folder
        self._settings = settings

    @cached_property
    def settings(self) -> str:
        return self._settings if isinstance(self._settings, str) else self._settings()

    def states(self, jobs: list[Job]) -> list[str]:
        """Of each job's output: ``done``, what these settings make of this input; ``ours``, as other settings or
        another input made it; ``changed``, as no run left it; or ``missing``.
        """
        lines = self._lines() if any(job.made for job in jobs) else set()
        written = set()
        for line in lines:
            try:
                entry = json.loads(line)
                written.add((entry["name"], entry["output"]))
            except (ValueError, KeyError, TypeError):
                continue
        return [self._state(job, lines, written) for job in jobs]

    def _state(self, job: Job, lines: set[str], written: set[tuple[str, str]]) -> str:
        if not (job.made and job.stored):
            return CHANGED if job.made else MISSING
        try:
            output = sha256(job.target)
            if self._entry(job, sha256(job.source), output) in lines:
                return DONE
        except OSError:  # restoring it will say why
            return MISSING
        return OURS if (self._name(job), output) in written else CHANGED

    def unfinished(self, jobs: list[Job]) -> list[int]:
        """Numbers of the jobs whose output is missing, or not what these settings made of this input."""
        return [number for number, state in enumerate(self.states(jobs)) if state != DONE]

    def add(self, job: Job, source: str, rank: int) -> None:
        """Note that `job` is done; source: hash of the input that was restored."""
        self.place.mkdir(parents=True, exist_ok=True)
        line = self._entry(job, source, sha256(job.target))
        with open(self.place / f".restored-{rank}.jsonl", "a", encoding="utf-8") as stream:
            stream.write(f"\n{line}\n")  # the first: a line that was cut off has no end
            stream.flush()
            os.fsync(stream.fileno())

    def _lines(self) -> set[str]:
        files = self.place.glob(".restored-*.jsonl")
        return {line for file in files for line in file.read_text(encoding="utf-8", errors="replace").split("\n")}

    def _entry(self, job: Job, source: str, target: str) -> str:
        return json.dumps({"name": self._name(job), "input": source, "output": target, "settings": self.settings})

    def _name(self, job: Job) -> str:
        return Path(os.path.relpath(job.target, self.folder)).as_posix()


def remembered(folder: Path) -> Path:
    """Where a ledger of an output folder lies that is not to hold other files than pictures: in the user's cache."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    return Path(caches) / "deedsr" / "restored" / name


def content(options: Options) -> dict[str, Any]:
    """Options as plain values, and in the place of files that they name the hashes of what these hold."""
    named = {"captions": options.captions, "embeddings": options.embeddings}
    files = {name: visible(Path(place)) or [Path(place)] for name, place in named.items() if place is not None}
    files["degradation_of"] = pictures(options.references)
    found = {name: [sha256(file) for file in held if file.is_file()] for name, held in files.items()}
    return {**asdict(options), **found}


def settings_digest(model: str, settings: Mapping[str, Any]) -> str:
    """SHA-256 of plain values and of all files of a model: ``built-in``, a folder, a checkpoint or a hub id.

    A base that lies outside the model's folder counts by its name alone, which is in the adapter's header. Raises
    ValueError for a model that does not exist.
    """
    from deedsr.models.resolver import model_place  # with it comes torch, which takes seconds

    place = model_place(model)
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    total = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    for path in files:
        total.update(f"{path.relative_to(place).as_posix()} {sha256(path)} ".encode())
    return total.hexdigest()

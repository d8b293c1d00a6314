"""Samples that were made once and lie in safetensors files: ``PREFIX-000000.safetensors`` and so on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from deedsr import weights


def numbered(folder: Path, prefix: str, index: int) -> Path:
    """The shard `index` of a folder."""
    return folder / f"{prefix}-{index:06d}.safetensors"


def find(folder: Path, prefix: str, command: str) -> list[Path]:
    """The shards of a folder, in order.

    command: that makes such a folder, for messages. Raises ValueError where there are none or one is missing in the
    middle.
    """
    files = sorted(folder.glob(f"{prefix}-*.safetensors"))
    for index in range(len(files) or 1):
        if not (file := numbered(folder, prefix, index)).is_file():
            raise ValueError(f"{file}: missing; make it with `{command}`")
    return files


def check(file: Path, made_with: Mapping[str, Any], command: str) -> None:
    """Raises ValueError where the header of `file` says otherwise than `made_with`."""
    stored = weights.header(file)
    for name, value in made_with.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{file}: was made with {name}={stored.get(name)}, not {value}: give the run that {name}, or make "
                f"another folder with `{command}`"
            )


def length(file: Path, name: str) -> int:
    """How many rows the tensor `name` of a shard has."""
    with safe_open(file, "pt") as stored:
        return stored.get_slice(name).get_shape()[0]

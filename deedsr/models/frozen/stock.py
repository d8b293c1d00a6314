"""Stock diffusers modules from plain configurations and from folders in diffusers' layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from torch import nn

CLASSES = ("UNet2DConditionModel", "AutoencoderKL", "AutoencoderDC", "AutoencoderTiny", "SD3Transformer2DModel")


def stock(config: Mapping[str, Any], **overrides: Any) -> nn.Module:
    """A module of the diffusers class ``config["_class_name"]``, with random weights. ValueError for another class."""
    name = config.get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"class {name!r} can't be part of a base; it may be one of {', '.join(CLASSES)}")
    kind = getattr(diffusers, name)
    return kind.from_config({**config, **overrides})


def read_config(folder: str | Path, file: str = "config.json") -> dict[str, Any]:
    """The JSON configuration in `folder`. Raises ValueError that names a missing or broken file."""
    path = Path(folder) / file
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: missing; a base is a folder in diffusers' layout (unet/, vae/, scheduler/)"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: holds a {type(config).__name__}, not the names and values of a configuration")
    return config

"""What `python -m stage2.mix` does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from deedsr.models import mix

log = logging.getLogger(__name__)


def mixed(cfg: DictConfig) -> Path:
    """Write the mean of `cfg.models` with `cfg.shares` to the folder `cfg.output`, and give it back."""
    models, shares = listed(cfg.models), listed(cfg.shares)
    mix(models, shares, Path(str(cfg.output)))
    parts = (f"{share:g} of {model}" for model, share in zip(models, shares, strict=True))
    log.info("%s: %s", cfg.output, ", ".join(parts))
    return Path(str(cfg.output))


def listed(value: Any) -> list[Any]:
    """What a configuration gives as a list, or alone."""
    return list(value) if isinstance(value, ListConfig) else [value]

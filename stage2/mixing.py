"""What `python -m stage2.mix` does."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from deedsr.models import mix
from deedsr.training.command import listed

log = logging.getLogger(__name__)


def mixed(cfg: DictConfig) -> Path:
    """Write the mean of `cfg.models` with `cfg.shares` to the folder `cfg.output`, and give it back."""
    models, shares, output = listed(cfg.models), listed(cfg.shares), Path(str(cfg.output))
    mix(models, shares, output)
    parts = (f"{share:g} of {model}" for model, share in zip(models, shares, strict=True))
    log.info("%s: %s", output, ", ".join(parts))
    return output

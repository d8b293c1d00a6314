"""From a configuration to a command: what every ``python -m stageN…`` does around its own work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf


def command(work: Callable[[DictConfig], object], cfg: DictConfig) -> None:
    """Do ``work(cfg)``, and print what it returns if that is a text.

    What the user can mend, a ValueError, an OSError or a value that is missing in `cfg`, ends the process with one line
    instead of a traceback.
    """
    for name in sorted(missing(plain(cfg, resolve=False))):
        sys.exit(f"error: {name} is missing: add {name}=… to the command")
    try:
        result = work(cfg)
    except InstantiationException as error:  # Hydra's, around the error proper
        sys.exit(f"error: {_last_line(error.__cause__ or error)}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {_last_line(error)}")
    if isinstance(result, str):
        sys.stdout.write(result)


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]  # the error of a process that loads data ends with the error proper


def plain(cfg: DictConfig | None, resolve: bool = True) -> dict[str, Any]:
    """A configuration as a dictionary of plain values, {} for none. resolve: whether ``${…}`` become what they name."""
    return {} if cfg is None else cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=resolve))


def own_output(cfg: DictConfig) -> DictConfig:
    """`cfg`; each job of a ``--multirun`` has an output folder of its own."""
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        cfg.output = HydraConfig.get().runtime.output_dir
    return cfg


def missing(values: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of what must be given and is not; `OmegaConf.missing_keys` fails where other values point there."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from missing(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value == MISSING:
            yield f"{prefix}{name}"

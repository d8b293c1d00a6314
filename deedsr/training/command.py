"""From a configuration to a command: what every ``python -m stageN…`` does around its own work."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

try:  # these take half a second
    import hydra
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, InstantiationException
    from hydra.experimental.callback import Callback
    from hydra.types import RunMode
    from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
except KeyboardInterrupt:
    sys.stderr.write("interrupted\n")
    sys.exit(130)

from deedsr.files import check_python, final_status, open_streams

CONF = Path(__file__).parents[2] / "conf"

NOISE = (
    "Checkpoint directory .* exists and is not empty",  # it is the run's own
    "Found .* in eval mode",  # the frozen parts
    ".*does not have many workers",
    ".*LeafSpec",
)
"""Beginnings of Lightning's warnings."""
NULL = re.compile(r"(?<![^=,(\[\s])null(?![^,)\]\s])")
"""The word alone, also as one of several choices."""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def main(work: str, config: str, trains: bool = False) -> None:
    """The command line of a module: `work` with the configuration ``conf/CONFIG.yaml`` and the words given.

    work: ``MODULE:FUNCTION`` of a configuration. It is imported when the configuration is read and whole, so that help,
    a typo and a missing value answer without torch. trains: whether it is a run, so that in a ``--multirun`` each job
    has an `output` folder of its own.
    """
    file = CONF / config

    @hydra.main(version_base="1.3", config_path=str(file.parent), config_name=file.name)
    def run(cfg: DictConfig) -> None:
        if trains and HydraConfig.get().mode is RunMode.MULTIRUN:
            cfg.output = HydraConfig.get().runtime.output_dir
        if any(os.environ.get(name, "0") != "0" for name in RANKS):
            logging.getLogger().setLevel(logging.WARNING)  # the first rank speaks for all
        known(file.name, HydraConfig.get().overrides.task)
        command(work, cfg)

    try:
        check_python()
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.argv[1:] = [_null_as_none(word, file.parent) for word in sys.argv[1:]]
    readable(sys.argv[1:])
    open_streams("error")
    quiet()
    try:
        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except SystemExit as ended:
        if ended.code:  # Hydra's after its help is 0
            raise
    sys.exit(final_status())


class Begin(Callback):
    """Ends the process with one line where Hydra would fail before the command: a value or its folder can't be had."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Checks the values of a single run, and its folder with the log in it."""
        whole({name: value for name, value in plain(config, resolve=False).items() if name != "hydra"})
        log = f"{config.hydra.job.name}.log" if "file" in config.hydra.job_logging.get("handlers", {}) else None
        writable(Path(config.hydra.run.dir), log)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Checks the folder of all jobs; what each lacks is seen when it starts."""
        writable(Path(config.hydra.sweep.dir))


def writable(folder: Path, log: str | None = None) -> None:
    """Make `folder`, and the file `log` in it; end the process where that can't be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if log:
            (folder / log).open("a").close()
    except OSError as error:
        sys.exit(f"error: {folder} can't be written to ({error.strerror}): take another folder")


def whole(values: dict[str, Any]) -> None:
    """End the process where one of the nested `values` must be given and is not."""
    for name in sorted(missing(values)):
        sys.exit(f"error: {name} is missing: add {name}=… to the command")


def known(config: str, words: Iterable[str]) -> None:
    """End the process where an experiment among the `words` typed sets what the configuration `config` has not."""
    given = [word.partition("=")[2].strip("[]") for word in words if word.startswith("experiment=")]
    names = [name.strip() for name in ",".join(given).split(",") if name.strip()]
    own = compose(config, []).keys() if names else ()
    for name in names:
        if strange := [str(word) for word in compose(config, [f"experiment={name}"]) if word not in own]:
            sys.exit(
                f"error: experiment={name} sets {', '.join(strange)}, which this command has no word for: it is for "
                f"another, see conf/experiment/{name}.yaml"
            )


def readable(words: Iterable[str]) -> None:
    """End the process where Hydra can't read one of the `words` typed, as with brackets and letters not of Latin."""
    parser = OverridesParser.create()
    for word in words:
        if word.startswith("-") or "=" not in word:
            continue
        try:
            parser.parse_override(word)
        except HydraException:
            name, _, value = word.partition("=")
            quoted = value.strip("'\"").replace('"', '\\"')
            sys.exit(f"""error: {word} can't be read: put the value between quotes, '{name}="{quoted}"'""")


def quiet() -> None:
    """Keep back what libraries say of no use: tips, and warnings of what is meant so here."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for message in NOISE:
        warnings.filterwarnings("ignore", message)


def _null_as_none(word: str, root: Path) -> str:
    """`word` with ``none`` for ``null``, an error of Hydra's, where it chooses of a group of files in `root`.

    Ends the process where there is no such choice.
    """
    group, _, value = word.partition("=")
    choices = sorted(file.stem for file in (root / group).glob("*.yaml"))
    named = NULL.sub("none", value) if choices else value
    if named != value and "none" not in choices:
        sys.exit(f"error: {word} can't be had: choose of {', '.join(choices)}")
    return word if named == value else f"{group}={named}"


def job_folder(words: Sequence[str], above: Sequence[str]) -> str:
    """A folder's name for a job of a ``--multirun``, of the words that were given to it.

    above: words that are left out as the folder above says them already, or because a path is no name. All words but
    how to resume are in the digest at its end, so that two jobs never share a folder.
    """
    named = {word: word.lstrip("+~").partition("=")[0] for word in sorted(words)}
    digest = hashlib.sha256("\n".join(word for word, name in named.items() if name != "resume").encode()).hexdigest()[
        :6
    ]
    told = [word.replace("=", "-") for word, name in named.items() if name not in (*above, "resume")]
    name = re.sub(r"[^\w.,+-]+", "_", "__".join(told))
    return f"{name[:150]}__{digest}".lstrip("_")


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


def command(work: str, cfg: DictConfig) -> None:
    """Do what `work` names, see `main`, and print what it returns if that is a text, or as JSON a dictionary.

    What the user can mend, a ValueError, an OSError or a value that is missing in `cfg`, ends the process with one line
    instead of a traceback.
    """
    whole(plain(cfg, resolve=False))
    module, _, name = work.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(cfg)
        if isinstance(result, dict):
            result = json.dumps(rounded(result), indent=2) + "\n"
        if isinstance(result, str):
            sys.stdout.write(result)
    except InstantiationException as error:  # Hydra's, around the error proper
        sys.exit(f"error: {_last_line(error.__cause__ or error)}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {_last_line(error)}")


def rounded(value: Any) -> Any:
    """Nested plain values, numbers with four digits that say something."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _last_line(error: BaseException) -> str:
    # that of a process that loads data ends with the error proper
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def plain(cfg: DictConfig | None, resolve: bool = True) -> dict[str, Any]:
    """A configuration as a dictionary of plain values, {} for none. resolve: whether ``${…}`` become what they name."""
    return {} if cfg is None else cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=resolve))


def listed(value: Any) -> list[Any]:
    """What a configuration gives as a list, or as one value alone."""
    return list(value) if isinstance(value, ListConfig) else [value]


def missing(values: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of what must be given and is not; `OmegaConf.missing_keys` fails where other values point there."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from missing(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value == MISSING:
            yield f"{prefix}{name}"

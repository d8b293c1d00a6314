"""``deedsr diagnose``: what is wrong with a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deedsr.files import explain, one_line
from deedsr.options import DEVICES, one_of
from deedsr.pictures.found import find

if TYPE_CHECKING:
    from deedsr.diagnosis import Diagnoser, Diagnosis


def diagnose_command(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures, and folders of them.")],
    model: Annotated[str, typer.Option(help="built-in, a model folder, a checkpoint or an id.")] = "built-in",
    device: Annotated[str, typer.Option(help=", ".join(DEVICES))] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: an object, or a list of them.")] = False,
) -> int:
    """Say how blurred, noisy and compressed pictures are, with an uncertainty (±, one standard deviation).

    Blur is the sigma of a Gaussian in pixels of the picture, noise a standard deviation on the scale 0-255, jpeg the
    quality of the last compression (100: none), level the strength of degradation that the picture looks like. The
    dials of `deedsr restore` leave as much of blur, noise and JPEG in as is said where they are at 0.
    """
    one_of("device", device.partition(":")[0], DEVICES)
    there = find(inputs)
    files = [(file, fault) for file, fault in there.faults] + [(one.path, "") for one in there.pictures]
    single = len(inputs) == 1 and [file for file, _ in files] == inputs
    diagnoser = _load(model, device) if there.pictures else None
    found: list[dict[str, Any]] = []
    for file, fault in files:
        outcome = fault if diagnoser is None or fault else _attempt(diagnoser, file)
        if isinstance(outcome, str):
            if single:
                raise ValueError(outcome)
            typer.echo(f"deedsr: {outcome}", err=True)
            found.append({"file": str(file), "error": outcome})
            continue
        found.append({"file": str(file), **outcome.to_json()})
        if not as_json:
            typer.echo("\n  ".join([f"{file}:", *outcome.lines()]))
    if as_json:
        typer.echo(json.dumps(found[0] if single else found, indent=2))
    return int(any("error" in entry for entry in found))


def _load(model: str, device: str) -> Diagnoser:
    """Imported when it is needed: it takes seconds."""
    from deedsr.diagnosis import Diagnoser

    return Diagnoser.from_pretrained(model, device)


def _attempt(diagnoser: Diagnoser, file: Path) -> Diagnosis | str:
    """The diagnosis, or one line that names the file, what is wrong with it and the way out."""
    try:
        return diagnoser(file)
    except OSError as error:
        return explain(error, file, reading=True)
    except ValueError as error:
        message = one_line(str(error))
        return message if message.startswith(str(file)) else f"{file}: {message}"

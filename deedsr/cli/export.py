"""``deedsr export``: a model folder that can be handed on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deedsr.cli.flags import in_flags


def export_command(
    source: Annotated[str, typer.Argument(help="Model folder or checkpoint, as stage 2 writes them, or built-in.")],
    target: Annotated[
        Path | None, typer.Argument(help="New folder; where it stands alone, SOURCE is built-in.")
    ] = None,
    with_base: Annotated[bool, typer.Option("--with-base", help="Put the base into it, not a pointer to it.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Store float16.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Make LoRA and a trained decoder part of the base.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Put graphs for `restore --runtime onnx` into it.")] = False,
    licence: Annotated[
        str | None,
        typer.Option("--licence", "--license", metavar="ID", help="As the hub names it [default: its base's]."),
    ] = None,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Send the folder to the hub as well.")] = None,
    replace_card: Annotated[bool, typer.Option("--replace-card", help="The hub's card, whoever wrote it.")] = False,
) -> int:
    """Write a model folder that can be handed on, with a card, README.md.

    A card that is in SOURCE, or in OWNER/NAME on the hub, keeps the text that someone has written.
    """
    import torch

    from deedsr.models import export, hub

    if target is None:
        source, target = "built-in", Path(source)
    if push is not None:
        hub.check_name(push)
    dtype, anywhere = torch.float16 if half else None, push is not None
    export(source, target, with_base, dtype, merge, licence, anywhere, onnx)
    typer.echo(str(target))
    if push is not None:
        typer.echo(in_flags(hub.push(target, push, replace_card)))
    return 0

"""`deedsr convert`: checkpoints of the authors' own repositories as model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

convert_app = typer.Typer(help="Turn a checkpoint of a system's own authors into a model folder.")

Source = Annotated[Path, typer.Argument(help="Checkpoint: .safetensors, .ckpt or .pth.")]
Target = Annotated[Path, typer.Argument(help="New folder.")]


@convert_app.command("deedsr")
def deedsr_command(source: Source, target: Target) -> int:
    """Convert a DeeDSR on Stable Diffusion 2.1, with the frozen base that such a checkpoint holds as well.

    The folder's defaults sample as the authors' test script does. What does not fit is refused, by name.
    """
    from deedsr.convert.deedsr import convert

    convert(source, target)
    typer.echo(str(target))
    return 0


@convert_app.command("dit4sr")
def dit4sr_command(
    source: Annotated[Path, typer.Argument(help="Checkpoint: .safetensors, or a folder of such files.")],
    target: Target,
    version: Annotated[
        str | None, typer.Option(help="dit4sr_q, dit4sr_f or dit4sr_r1 [default: what SOURCE's name says].")
    ] = None,
) -> int:
    """Convert the LR stream of a DiT4SR on Stable Diffusion 3.5 Medium; the folder points to that base on the hub.

    What does not fit is refused, by name.
    """
    from deedsr.convert.dit4sr import convert

    convert(source, target, version)
    typer.echo(str(target))
    return 0

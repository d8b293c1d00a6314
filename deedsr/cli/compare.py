"""``deedsr compare``: which of two folders of outputs is better, by how much, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deedsr.cli.flags import in_flags
from deedsr.files import write_text


def compare_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of outputs.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of others of the same inputs, matched by file stem.")],
    hr: Annotated[Path | None, typer.Option(help="Folder of ground truth; else only metrics that need none.")] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="FILE.json; FILE.md and FILE.png lie next to it.")
    ] = Path("comparison.json"),
    protocol: Annotated[str, typer.Option(help="osediff, dit4sr, dreamclear or rgb.")] = "osediff",
    metrics: Annotated[
        str | None, typer.Option(help="Comma-separated, as psnr,lpips [default: the protocol's].")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Let weights of metrics be fetched.")] = False,
) -> int:
    """Compare two folders of outputs: paired differences with intervals, who wins how often, a contact sheet."""
    from rich.console import Console

    from deedsr.devices import pick_device
    from deedsr.metrics.compare import compare
    from deedsr.pictures.picture import from_pil, write

    if output.suffix.lower() != ".json":
        raise ValueError(f"output {str(output)!r} must be a file name that ends in .json")
    names = None if metrics is None else [name for name in metrics.replace(" ", "").split(",") if name]
    show = Console(stderr=True).is_terminal
    found = compare(a, b, hr, protocol, names, pick_device(device), download, progress=show)
    write_text(output, found.to_json())
    table = in_flags(found.to_markdown())
    write_text(output.with_suffix(".md"), table)
    if found.sheet is not None:
        write(output.with_suffix(".png"), from_pil(found.sheet))
    typer.echo(table, nl=False)
    return 0

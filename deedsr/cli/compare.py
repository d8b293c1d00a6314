"""``deedsr compare``: which folder of outputs is better, by how much, and where; by metrics, or by people's eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deedsr.cli.flags import in_flags
from deedsr.files import write_text

_OPTIONS = {
    "without --blind": {"hr", "output", "protocol", "metrics", "device", "download"},
    "with --blind": {"blind", "output", "input", "hr", "count", "seed", "zoom"},
    "with --votes": {"votes", "key", "output"},
}
"""What each use takes beside folders."""

Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="FILE.json; FILE.md and FILE.png lie next to it [default: comparison.json, none with --votes]. "
        "With --blind a new folder, and FOLDER.key.json next to it [default: blind].",
    ),
]
Truth = Annotated[
    Path | None, typer.Option(help="Folder of ground truth; else only metrics that need none. --blind shows it.")
]
Votes = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A judge's filled-in votes.csv; once for each judge. No folders."),
]


def compare_command(
    context: typer.Context,
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="A B",
            help="Folders of outputs of the same inputs, matched by stem. --blind takes 2 to 8, also as NAME=FOLDER.",
        ),
    ] = None,
    hr: Truth = None,
    output: Output = None,
    protocol: Annotated[str, typer.Option(help="osediff, dit4sr, dreamclear or rgb.")] = "osediff",
    metrics: Annotated[
        str | None, typer.Option(help="Comma-separated, as psnr,lpips [default: the protocol's].")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Let weights of metrics be fetched.")] = False,
    blind: Annotated[bool, typer.Option("--blind", help="Write sheets for people, names hidden, and a key.")] = False,
    input: Annotated[Path | None, typer.Option(help="Folder of inputs, which --blind shows enlarged.")] = None,
    count: Annotated[int | None, typer.Option(help="Sheets of --blind, of drawn pictures [default: all].")] = None,
    seed: Annotated[int, typer.Option(help="Of --blind: which pictures, and who stands where.")] = 0,
    zoom: Annotated[int, typer.Option(help="How many times --blind enlarges crops.")] = 4,
    votes: Votes = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of the sheets that --votes is of.")] = None,
) -> int:
    """Compare folders of outputs: paired differences with intervals, who wins how often, a contact sheet.

    With --blind by people: sheets of pictures side by side under letters, a table for votes, and a key that judges
    don't see. With --votes, count what they chose: wins, ties, shares with intervals, and how far judges agree.
    """
    use = "with --votes" if votes or key else "with --blind" if blind else "without --blind"
    _check_options(context, use)
    if votes or key:
        return _count(votes, key, output, folders)
    if blind:
        return _draw(folders or [], output or Path("blind"), input, hr, count, seed, zoom)
    if folders is None or len(folders) != 2:
        raise ValueError(f"compare needs two folders of outputs, not {len(folders or [])}; only --blind takes more")
    names = None if metrics is None else [name for name in metrics.replace(" ", "").split(",") if name]
    return _score(Path(folders[0]), Path(folders[1]), hr, output, protocol, names, device, download)


def _check_options(context: typer.Context, use: str) -> None:
    """Raises ValueError for an option that would be passed over."""
    for name in sorted(set().union(*_OPTIONS.values()) - _OPTIONS[use]):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--{name} has no meaning {use}; leave it out")


def _score(
    a: Path,
    b: Path,
    hr: Path | None,
    output: Path | None,
    protocol: str,
    names: list[str] | None,
    device: str,
    download: bool,
) -> int:
    """Compare two folders by metrics."""
    from rich.console import Console

    from deedsr.devices import pick_device
    from deedsr.metrics.compare import compare
    from deedsr.pictures.picture import from_pil, write

    output = _json(output or Path("comparison.json"))
    show = Console(stderr=True).is_terminal
    found = compare(a, b, hr, protocol, names, pick_device(device), download, progress=show)
    _write(output, found.to_json(), found.to_markdown())
    if found.sheet is not None:
        write(output.with_suffix(".png"), from_pil(found.sheet))
    return 0


def _draw(
    folders: list[str],
    output: Path,
    input: Path | None,
    hr: Path | None,
    count: int | None,
    seed: int,
    zoom: int,
) -> int:
    """Write blind sheets and their key."""
    from rich.console import Console

    from deedsr.metrics.blind import VOTES, make

    methods: dict[str, Path] = {}
    for text in folders:
        name, given, folder = text.partition("=")
        if not given or Path(text).is_dir():
            name, folder = Path(text).resolve().name, text
        if name in methods:
            raise ValueError(f"{text}: another folder is called {name!r}, too; name them apart, NAME=FOLDER")
        methods[name] = Path(folder)
    key = make(methods, output, input, hr, count, seed, zoom, Console(stderr=True).is_terminal)
    typer.echo(f"{output}: for the judges, who fill in {VOTES}")
    typer.echo(f"{key}: whose pictures they are; keep it from them")
    return 0


def _count(votes: list[Path] | None, key: Path | None, output: Path | None, folders: list[str] | None) -> int:
    """Count votes on blind sheets."""
    from deedsr.metrics.votes import count_votes

    if not votes or key is None:
        raise ValueError("votes are counted with their key: give both --votes and --key")
    if folders:
        raise ValueError(f"{folders[0]}: no folder is needed to count votes; put --votes before each judge's file")
    found = count_votes(votes, key)
    _write(None if output is None else _json(output), found.to_json(), found.to_markdown())
    return 0


def _json(output: Path) -> Path:
    if output.suffix.lower() != ".json":
        raise ValueError(f"output {str(output)!r} must be a file name that ends in .json")
    return output


def _write(output: Path | None, document: str, table: str) -> None:
    """Print a table, and write it and the document if there is a place for them."""
    table = in_flags(table)
    if output is not None:
        write_text(output, document)
        write_text(output.with_suffix(".md"), table)
    typer.echo(table, nl=False)

"""The command line. Nothing heavy is imported before the arguments are known to be right."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deedsr import jobs
from deedsr.cli.app import app_command
from deedsr.cli.compare import compare_command
from deedsr.cli.convert import convert_app
from deedsr.cli.diagnose import diagnose_command
from deedsr.cli.export import export_command
from deedsr.cli.flags import in_flags
from deedsr.cli.reporting import print_summary, run
from deedsr.files import check_python, explain, final_status, hushed, one_line, open_streams
from deedsr.ledger import Ledger, content, remembered, settings_digest
from deedsr.options import (
    AUTO_OR_DTYPES,
    COLOURS,
    DEVICES,
    SAMPLERS,
    SPACINGS,
    Options,
    one_of,
    parse_guidance,
    parse_size,
)

if TYPE_CHECKING:
    from deedsr.restorer import Restorer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

# typer raises click's errors, its own copy of them from version 0.26 on
ClickException: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

INTERRUPTED = 130

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder; for one input also a file name.")]
Pull = Annotated[
    str | None,
    typer.Option(metavar="W:K", help="Pull the first K steps to the input by weight W [default: the model's]."),
]
TextScale = Annotated[float | None, typer.Option(help="Scale of the guidance by text, 1: off [default: the model's].")]
Denoise = Annotated[
    float, typer.Option(help="Noise to take out: 1 what is there, 2 more; 0 puts as much back as was measured.")
]
Deblur = Annotated[float, typer.Option(help="The same for blur: 2 sharpens more, 0 is as soft as the input.")]
Dejpeg = Annotated[float, typer.Option(help="The same for JPEG damage.")]
Like = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE|FOLDER", help="Measure the damage on these, of the same scanner, phone or tape."),
]
DamageScale = Annotated[
    float | None, typer.Option(help="Scale of the guidance by what is measured, 1: off [default: the model's].")
]
Tile = Annotated[
    int | None, typer.Option("-t", "--tile", help="Tile side in pixels at x4; 0: never [default: as needed].")
]
Overlap = Annotated[int | None, typer.Option(help="The least that neighbouring tiles share [default: as needed].")]
Spacing = Annotated[
    str | None, typer.Option(help=f"Of the steps' times: {', '.join(SPACINGS)} [default: the model's].")
]
Caption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What the picture shows; of DiT4SR, as the next three.")
]
Captions = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The same for each: name and caption in .csv, .tsv or .jsonl.")
]
Negative = Annotated[str | None, typer.Option(metavar="TEXT", help="What guidance by text leads away from.")]
Embeddings = Annotated[
    Path | None, typer.Option(metavar="FILE|FOLDER", help="Texts that stage2.texts.embed has embedded.")
]
Views = Annotated[int | None, typer.Option(help="Mean of so many flips and turns, 1 to 8 [default: the model's].")]
Firm = Annotated[
    float | None, typer.Option(help="Edges smooth along themselves, steep across, 0 to 1 [default: the model's].")
]


def _version(wanted: bool) -> None:
    """Print the version and end, if it is wanted."""
    if wanted:
        from deedsr import __version__

        typer.echo(f"deedsr {__version__}")
        raise typer.Exit


@app.callback()
def deedsr(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Restore real-world photographs with degradation-aware diffusion."""


@app.command()
def restore(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures, and folders of them.")],
    output: Output = Path("restored"),
    outscale: Annotated[float, typer.Option("-s", "--outscale", help="Output size over input size, 1 to 8.")] = 4.0,
    model: Annotated[str, typer.Option(help="built-in, a model folder, a checkpoint or an id.")] = "built-in",
    preset: Annotated[str | None, typer.Option(help="Sampling preset: authors; of DiT4SR fast, too.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the diffusion [default: the model's].")] = None,
    sampler: Annotated[str | None, typer.Option(help=f"{', '.join(SAMPLERS)} [default: the model's].")] = None,
    spacing: Spacing = None,
    noise_guidance: Pull = None,
    caption: Caption = None,
    captions: Captions = None,
    negative: Negative = None,
    embeddings: Embeddings = None,
    text_guidance: TextScale = None,
    denoise: Denoise = 1.0,
    deblur: Deblur = 1.0,
    dejpeg: Dejpeg = 1.0,
    degradation_of: Like = None,
    degradation_guidance: DamageScale = None,
    tile: Tile = None,
    overlap: Overlap = None,
    ensemble: Views = None,
    colour: Annotated[
        str | None,
        typer.Option("--colour", "--color", help=f"The input's: {', '.join(COLOURS)} [default: the model's]."),
    ] = None,
    coherence: Firm = None,
    seed: Annotated[int, typer.Option(help="Of the noise; each picture's own content counts as well.")] = 0,
    device: Annotated[str, typer.Option(help=", ".join(DEVICES))] = "auto",
    dtype: Annotated[
        str, typer.Option(help=f"{', '.join(AUTO_OR_DTYPES)}; auto: bfloat16 for large models on a GPU, else float32.")
    ] = "auto",
    runtime: Annotated[str, typer.Option(help="torch, or onnx for a model that was exported so.")] = "torch",
    suffix: Annotated[str, typer.Option(help="Put between an output's stem and extension.")] = "",
    ext: Annotated[str | None, typer.Option(help="Extension of outputs [default: the input's].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Restore again what is there already.")] = False,
    size: Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Fit the output into this; no -s.")] = None,
    width: Annotated[int | None, typer.Option(help="Of the output in pixels, in place of -s.")] = None,
    height: Annotated[int | None, typer.Option(help="The same.")] = None,
    megapixels: Annotated[float | None, typer.Option(help="The same, of the whole output.")] = None,
    quality: Annotated[int | None, typer.Option(help="1 to 100, of lossy formats [default: 95].")] = None,
    strip: Annotated[bool, typer.Option("--strip", help="Leave metadata out, but for the colour profile.")] = False,
    keep_times: Annotated[bool, typer.Option("--keep-times", help="Give outputs their inputs' file times.")] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="All pictures of a file with several, not the first.")
    ] = False,
    recursive: Annotated[bool, typer.Option(help="Folders in folders, too.")] = True,
    compile: Annotated[bool, typer.Option("--compile", help="Takes minutes once, for many pictures on a GPU.")] = False,
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Keep on the GPU only the part that works: slower, for small GPUs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> int:
    """Restore pictures to OUTPUT/STEM+SUFFIX.EXT. Outputs that exist are kept: a broken-off run goes on.

    Those that were made with other options, by another model or of another input are made anew.

    Each side becomes the input's times OUTSCALE, rounded to the nearest pixel. Depth, transparency, colour profile
    and metadata are kept where the format can hold them. - is standard input, and as OUTPUT standard output.
    """
    if size is not None:
        if (width, height) != (None, None):
            raise ValueError("--size and --width or --height contradict each other; leave one out")
        width, height = parse_size(size)
    guidance = None if noise_guidance is None else parse_guidance(noise_guidance)
    options = Options(
        outscale, steps, sampler, guidance, tile, colour, seed, None, preset, text_guidance, ensemble,
        denoise, deblur, dejpeg, degradation_guidance, degradation_of, spacing, overlap,
        width, height, megapixels, caption, captions, negative, embeddings, coherence=coherence,
    )  # fmt: skip
    one_of("device", device.partition(":")[0], DEVICES)
    one_of("dtype", dtype, AUTO_OR_DTYPES)
    saving = jobs.Saving(quality, strip, keep_times)
    plan = jobs.make_plan(inputs, output, suffix, ext, recursive, frames)
    quiet = as_json or output == jobs.STDIO
    folder = output.parent if any(job.target == output for job in plan.jobs) else output
    taken = cache(partial(_taken, model, device, dtype, runtime))
    ledger = Ledger(folder, lambda: _digest(model, options, taken()["dtype"], runtime, saving), remembered(folder))
    load = partial(_load, model, options, device, dtype, compile, runtime, low_memory)
    outcomes = run(plan, load, overwrite, quiet, saving, ledger)
    if as_json or not quiet:
        how = {"model": model, "device": device, "runtime": runtime, **asdict(options)}
        how |= taken() if as_json else {}
        print_summary(plan, outcomes, how, as_json)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _load(
    model: str, options: Options, device: str, dtype: str, compile: bool, runtime: str, low_memory: bool
) -> Restorer:
    """Imported when it is needed: it takes seconds."""
    from deedsr.restorer import Restorer

    if runtime == "onnx" and compile:
        raise ValueError("ONNX graphs are compiled as they are: leave --compile out")
    restorer = Restorer.from_pretrained(model, options, device, dtype, compile, runtime, low_memory)
    for note in restorer.notes:
        typer.echo(f"deedsr: {in_flags(note)}", err=True)
    return restorer


def _taken(model: str, device: str, dtype: str, runtime: str) -> dict[str, str]:
    """What the words for device and dtype mean; imported when it is needed."""
    from deedsr.devices import pick_device
    from deedsr.models import pick_dtype

    picked = pick_device(device, runtime)
    return {"device": str(picked), "dtype": str(pick_dtype(dtype, model, picked)).removeprefix("torch.")}


def _digest(model: str, options: Options, dtype: str, runtime: str, saving: jobs.Saving) -> str:
    """Of all that makes an output what it is, but for the input."""
    return settings_digest(model, {**content(options), **asdict(saving), "dtype": dtype, "runtime": runtime})


@app.command()
def info(
    model: Annotated[str, typer.Option(help="built-in, sd21, dit4sr, a model folder …")] = "built-in",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Print the parts of a model with their parameters, and where its defaults differ from --preset authors."""
    from deedsr.models import skeleton
    from deedsr.models.authors import differences

    found = skeleton(model)
    apart = differences(found.defaults, found.presets)
    if as_json:
        typer.echo(json.dumps({**found.counts(), "sampling": [asdict(one) for one in apart]}, indent=2))
        return 0
    for key, value in found.counts().items():
        typer.echo(f"{key:<20} {value:>15,}")
    typer.echo(f"\n{'sampling':<13}{'default':<17}{'authors':<17}why")
    for one in apart:
        typer.echo(f"{one.name:<13}{_word(one.default):<17}{_word(one.authors):<17}{one.why}")
    return 0


def _word(value: object) -> str:
    """A setting as people read it; None leaves it to the restorer."""
    if isinstance(value, list):
        return ":".join(map(_word, value))
    text = "as needed" if value is None else f"{value:g}" if isinstance(value, float) else str(value) or "none"
    return text if len(text) < 16 else f"{text[:14]}…"


app.command("app")(app_command)
app.command("compare")(compare_command)
app.command("diagnose")(diagnose_command)
app.command("export")(export_command)
app.add_typer(convert_app, name="convert")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the user's are one line and an exit code, never a traceback."""
    open_streams("deedsr")
    with hushed(logging.WARNING, warn=bool(sys.warnoptions)):  # the libraries beneath
        code = _call(arguments)
    sys.exit(final_status(code))


def _call(arguments: Sequence[str] | None) -> int:
    """The exit code; errors of the user's are printed."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        check_python()
        code = app(args=arguments, prog_name="deedsr", standalone_mode=False) or 0
        if code != INTERRUPTED:  # typer turns the interrupt into this code
            return code
        raise KeyboardInterrupt
    except ClickException as error:
        message, code = error.format_message(), error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        further = "; the same command goes on where it stopped" if arguments[0] == "restore" else ""
        message, code = f"interrupted{further}", INTERRUPTED
    except ValueError as error:
        message, code = str(error), 2
    except OSError as error:
        message, code = explain(error, Path(error.filename)) if error.filename else str(error), 2
    typer.echo(f"deedsr: {one_line(in_flags(message))}", err=True)
    return code


if __name__ == "__main__":
    main()

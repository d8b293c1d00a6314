"""What ``deedsr restore`` says while it works, and at the end."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from deedsr import batch, jobs
from deedsr.cli.flags import in_flags

if TYPE_CHECKING:
    from deedsr.ledger import Ledger
    from deedsr.restorer import Restorer


def print_summary(plan: jobs.Plan, outcomes: list[jobs.Outcome], options: dict[str, object], as_json: bool) -> None:
    """How many pictures were restored, kept and failed, and how many files are none; as JSON each of them, too."""
    counts = Counter(outcome.status for outcome in outcomes)
    summary = {status: counts[status] for status in ("restored", "kept", "failed")}
    if as_json:
        images = [
            asdict(one)
            | {"seconds": round(one.seconds, 3), "error": one.error and in_flags(one.error)}
            | {"notes": [in_flags(note) for note in one.notes]}
            for one in outcomes
        ]
        whole = {**summary, "no_pictures": plan.others, "options": options, "images": images}
        typer.echo(json.dumps(whole, indent=2, default=str))
        return
    parts = [f"{count} {status}" for status, count in summary.items() if count or status == "restored"]
    if plan.others:
        parts.append(f"{plan.others} other file{'s' * (plan.others > 1)} passed over: no pictures")
    typer.echo(", ".join(parts))


def run(
    plan: jobs.Plan,
    make_restorer: Callable[[], Restorer],
    overwrite: bool,
    quiet: bool,
    saving: jobs.Saving,
    ledger: Ledger,
) -> list[jobs.Outcome]:
    """Run a plan with a progress bar on standard error; a line for every output on standard output unless quiet."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    errors = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    above = not quiet and sys.stdout is not None and sys.stdout.isatty()  # the bar; a file gets its lines
    with Progress(*columns, console=errors, disable=not errors.is_terminal, redirect_stdout=above) as bar:
        task = bar.add_task("restoring", total=None)

        def report(outcome: jobs.Outcome) -> None:
            for line in (*outcome.notes, *([outcome.error] if outcome.error else [])):
                typer.echo(f"deedsr: {in_flags(line)}", err=True)
            if not quiet and outcome.status == "restored":
                typer.echo(f"{outcome.source} -> {outcome.target} ({outcome.seconds:.1f} s)")

        def progress(done: float, total: int) -> None:
            bar.update(task, completed=done, total=total, description=f"restoring {min(int(done) + 1, total)}/{total}")

        return batch.restore_all(plan, make_restorer, overwrite, report, progress, saving, ledger)

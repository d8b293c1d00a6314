"""``deedsr app``: restoring in a browser."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from deedsr.options import AUTO_OR_DTYPES, DEVICES, RUNTIMES, one_of

QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def app_command(
    model: Annotated[
        list[str] | None, typer.Option(help="As of `restore`; several times for a choice [default: built-in].")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0: for the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    share: Annotated[bool, typer.Option("--share", help="Let Gradio's servers show it to the world.")] = False,
    upload_limit: Annotated[int, typer.Option(min=1, metavar="MB", help="Of one file.")] = 100,
    device: Annotated[str, typer.Option(help=", ".join(DEVICES))] = "auto",
    dtype: Annotated[str, typer.Option(help=f"{', '.join(AUTO_OR_DTYPES)}: as of `restore`.")] = "auto",
    runtime: Annotated[str, typer.Option(help=", ".join(RUNTIMES))] = "torch",
    low_memory: Annotated[bool, typer.Option("--low-memory", help="As of `restore`.")] = False,
) -> int:
    """Serve a page that restores the pictures dropped on it, until Ctrl-C. Pictures are removed at the end.

    Whoever can reach the page can use it. Nothing is sent or fetched elsewhere, unless --share.
    """
    one_of("device", device.partition(":")[0], DEVICES)
    one_of("dtype", dtype, AUTO_OR_DTYPES)
    one_of("runtime", runtime, RUNTIMES)
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the app needs Gradio: pip install 'deedsr[app]'")
    _check_free(host, port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is removed then, too
    with TemporaryDirectory(prefix="deedsr-app-", ignore_cleanup_errors=True) as folder:
        os.environ.update(QUIET, GRADIO_TEMP_DIR=str(Path(folder) / "uploads"))  # read when Gradio is imported
        from deedsr.app.desk import Desk
        from deedsr.app.page import serve
        from deedsr.models.resolver import model_place

        models = model or ["built-in"]
        for name in models:
            model_place(name)
        results = Path(folder) / "results"
        results.mkdir()
        desk = Desk(results, device, dtype, runtime, low_memory)
        where, close = serve(desk, models, host, port, share, upload_limit)
        typer.echo(f"restoring at {where}; Ctrl-C ends it")
        try:
            while True:
                time.sleep(3600)  # unlike a lock, Ctrl-C ends it on Windows, too
        finally:
            close()
    return 0


def _check_free(host: str, port: int) -> None:
    """Raise ValueError where nothing can listen there."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ValueError(f"{host}:{port}: {error.strerror or error}; choose another --port or --host") from None

"""Processes that tests start: each is waited for with a limit, and at the end killed with all that it has started."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
LIMIT = 400.0  # seconds on the wall, below pytest's own limit of a test; alone none takes a minute
LEAVE = 40.0  # seconds until what is told to end is killed: torchrun, which waits for its own, takes 30


@contextmanager
def started(command: Sequence[Any], **options: Any) -> Iterator[subprocess.Popen]:
    """A process in the checkout, of a session of its own, for as long as the `with` lasts."""
    options = {"cwd": ROOT, "stdin": subprocess.DEVNULL, **options}
    process = subprocess.Popen([str(word) for word in command], start_new_session=True, **options)
    try:
        yield process
    finally:
        end(process, signal.SIGTERM)  # what it has started in other sessions is its own to end
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def end(process: subprocess.Popen, number: int) -> None:
    """Send a process the signal `number`, and in a while kill what is left of its session."""
    process.send_signal(number)
    with suppress(subprocess.TimeoutExpired):
        process.wait(LEAVE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ended(process: subprocess.Popen, limit: float = LIMIT) -> tuple[Any, Any]:
    """What a process puts out until it ends. After `limit` seconds it fails, with where the process hangs."""
    try:
        return process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end(process, signal.SIGABRT)  # at which Python writes what it is at
        said = process.communicate()
        raise AssertionError(f"{process.args} did not end in {limit} s: {said}") from None


def finished(command: Sequence[Any], limit: float = LIMIT, **options: Any) -> subprocess.CompletedProcess[str]:
    """How a process ended, and what it said."""
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        said = ended(process, limit)
    return subprocess.CompletedProcess(command, process.returncode, *said)


class Code(int):
    """An exit code; a test that fails shows what the process ended with beside it, even in pytest's summary."""

    error = ""

    def __repr__(self) -> str:
        return f"{int(self)} {self.error}".rstrip()


def forked(*works: Callable[[], object], limit: float = LIMIT) -> list[Code | None]:
    """The exit codes of copies of this process, which do `works` at the same time; None: it did not end in time.

    They need not import what is slow to import. Each is of a session of its own, and killed at the end with it.
    """
    fork, deadline = multiprocessing.get_context("fork"), time.monotonic() + limit
    with tempfile.TemporaryDirectory() as folder:
        errors = [Path(folder) / str(number) for number in range(len(works))]
        processes = [fork.Process(target=_alone, args=pair) for pair in zip(works, errors, strict=True)]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(deadline - time.monotonic())
            return [_code(process.exitcode, error) for process, error in zip(processes, errors, strict=True)]
        finally:
            for process in processes:
                process.kill()  # it may be deaf to all else, and at its own end Python would wait for it without end
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.join()


def as_two_ranks(work: Callable[[], object]) -> list[Code | None]:
    """`forked` of two copies that do the same `work` as ranks of one run, which meet as Lightning's launcher has it."""
    port = free_port()

    def as_rank(rank: int) -> None:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": 0, "LOCAL_RANK": rank}
        os.environ.update({name: str(value) for name, value in place.items()})
        work()

    return forked(*(partial(as_rank, rank) for rank in range(2)))


def _alone(work: Callable[[], object], error: Path) -> None:
    os.setsid()
    torch.set_num_threads(1)  # it can't use the threads of the process that it is a copy of
    try:
        work()
    except BaseException as raised:
        while raised.__context__ is not None:
            raised = raised.__context__  # what a command makes an exit of
        file, line, name, _ = traceback.extract_tb(raised.__traceback__)[-1]
        error.write_text(f"{type(raised).__name__}: {raised} ({file}, line {line}, in {name})")
        raise


def _code(number: int | None, error: Path) -> Code | None:
    if number is None:
        return None
    code = Code(number)
    code.error = error.read_text() if error.exists() else ""
    return code


def type_in(module: str, words: Sequence[Any], **environment: Any) -> None:
    """What ``python -m MODULE WORDS`` does, in this process, which ends then; see `forked`."""
    os.environ |= {name: str(value) for name, value in environment.items()}
    sys.argv = [module, *map(str, words)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]

"""A process that hangs fails its test, with what it hangs at, and leaves nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.processes import finished, forked, started

HANGS = """
import pathlib, subprocess, sys, time
def wait_for_ever():
    time.sleep(1000)
sleeper = subprocess.Popen(["sleep", "1000"])
pathlib.Path(sys.argv[1]).write_text(str(sleeper.pid))
wait_for_ever()
"""


def test_what_hangs_says_where_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"did not end in 5 s.*in wait_for_ever"):
        finished([sys.executable, "-c", HANGS, tmp_path / "pid"], limit=5)
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    limit = time.monotonic() + 60  # what is killed takes a moment, and on a busy machine longer
    while alive(state):
        assert time.monotonic() < limit, "it was not killed"
        time.sleep(0.01)


def alive(state: Path) -> bool:
    """Whether a process is more than an entry in a table."""
    try:
        return state.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_heeds_an_interrupt_wherever_the_tests_run() -> None:
    code = "import time; print(1, flush=True); time.sleep(1000)"
    with started([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.read(1) == b"1"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT


def test_copies_say_how_they_ended_and_none_stays() -> None:
    pids = multiprocessing.get_context("fork").SimpleQueue()

    def hang() -> None:
        pids.put(os.getpid())
        time.sleep(1000)

    assert forked(partial(sys.exit, 3), lambda: os.kill(os.getpid(), signal.SIGTERM), int) == [3, -signal.SIGTERM, 0]
    assert forked(hang, limit=5) == [None]
    assert not alive(Path(f"/proc/{pids.get()}/stat"))


def test_a_copy_that_fails_says_with_what() -> None:
    def fail() -> None:
        try:
            raise OSError("no space is left")
        except OSError as error:
            sys.exit(f"error: {error}")

    assert forked(fail) == [1]
    with pytest.raises(AssertionError, match=r"1 OSError: no space is left \(.*test_processes.py, line \d+, in fail\)"):
        assert forked(fail) == [0]

"""A process that hangs fails its test, with what it hangs at, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import finished, started

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
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_it_heeds_an_interrupt_wherever_the_tests_run() -> None:
    code = "import time; print(1, flush=True); time.sleep(1000)"
    with started([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.read(1) == b"1"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT

"""What a long job says of how far it is: on a terminal, and without one."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from deedsr.training import pace
from deedsr.training.command import rounded
from deedsr.training.pace import Pace, duration, paced


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_begins_where_the_work_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    shown = Pace(20, "steps", done=12)
    shown.at(13, lambda: {"mse": "0.5"})
    shown.at(20)
    shown.close()
    text = terminal.getvalue()
    assert "12/20" in text and "20/20" in text and "/8" not in text
    assert text.startswith("\r 60%")


def test_without_a_terminal_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr("deedsr.training.pace.time.monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, pace.__name__):
        said = Pace(100, "steps", done=40)
        for step in range(41, 47):
            clock[0] += 25
            said.at(step, lambda: {"mse": "0.5"})
    assert caplog.messages[0] == "43 of 100 steps (43 %), 24 min left, mse 0.5"
    assert [message[:2] for message in caplog.messages] == ["43", "46"]
    assert sys.stderr.getvalue() == ""


def test_items_come_as_they_are(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(pace, "LINE", 0)
    with caplog.at_level(logging.INFO, pace.__name__):
        assert list(paced({"a": 1, "b": 2}.items(), "texts")) == [("a", 1), ("b", 2)]
    assert caplog.messages[-1].startswith("2 of 2 texts (100 %), 0 s left")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (99, "99 s"), (150, "2 min"), (3 * 3600 + 1200, "3 h 20 min"), (4 * 86400 + 6 * 3600, "4 d 6 h")],
)
def test_durations_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_numbers_of_a_report_have_four_digits() -> None:
    assert rounded({"a": [0.12345678, 1234.5678, 3, "x", None]}) == {"a": [0.1235, 1235.0, 3, "x", None]}

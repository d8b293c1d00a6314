"""Duplicates, and the sentence at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from deedsr.data.flaws import PIECE, distinct, report


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """`a` and `copy` are the same; the others differ in length, in the middle, or at the end alone."""
    content = bytes(range(256)) * (PIECE // 16)
    middle = len(content) // 2
    other = content[:middle] + b"x" + content[middle + 1 :]
    contents = {"a": content, "longer": content + b"0", "other": other, "end": content[:-1] + b"x", "copy": content}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return {name: tmp_path / name for name in contents}


def test_the_first_of_a_content_stays(files: dict[str, Path]) -> None:
    kept, duplicates = distinct(list(files.values()))
    assert kept == [files[name] for name in ("a", "longer", "other", "end")]
    assert duplicates == [files["copy"]]
    assert distinct([files["copy"], files["a"]]) == ([files["copy"]], [files["a"]])


def test_a_photograph_listed_twice_is_a_weight(files: dict[str, Path]) -> None:
    twice = [files["a"], files["end"], files["a"]]
    assert distinct(twice) == (twice, [])
    assert distinct([*twice, files["copy"]]) == (twice, [files["copy"]])


def test_empty_files_are_duplicates(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"")
    assert distinct([tmp_path / "a", tmp_path / "b"]) == ([tmp_path / "a"], [tmp_path / "b"])


def test_the_report_counts_and_names_the_first() -> None:
    many = [Path(f"{number}.png") for number in range(7)]
    assert report([], [], [], "enlarged") == ""
    assert report(many[:1], many, many[:2], "smaller than 64 pixels, enlarged") == (
        "photographs: duplicates, left out: 1 (0.png); "
        "corrupt, left out: 7 (0.png, 1.png, 2.png, 3.png, 4.png and 2 more); "
        "smaller than 64 pixels, enlarged: 2 (0.png, 1.png)"
    )

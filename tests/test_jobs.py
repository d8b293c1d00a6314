"""Which input becomes which output. Nothing here opens a picture."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deedsr import jobs
from deedsr.options import Options, parse_guidance


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes empty files by name below an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return make


def pairs(*inputs: str, output: str = "out", **options: str) -> list[tuple[str, str]]:
    plan = jobs.make_plan([Path(name) for name in inputs], Path(output), **options)
    assert plan.failed == []
    return [(str(job.source), str(job.target)) for job in plan.jobs]


def test_names_are_stem_suffix_and_the_inputs_extension(make):
    make("a/one.JPG", "two.tif")
    assert pairs("a/one.JPG", "two.tif") == [("a/one.JPG", "out/one.JPG"), ("two.tif", "out/two.tif")]
    assert pairs("two.tif", suffix="_x4", ext="png") == [("two.tif", "out/two_x4.png")]
    assert pairs("two.tif", ext=".webp") == [("two.tif", "out/two.webp")]


def test_folders_recurse_and_are_mirrored(make):
    make("in/b.png", "in/a.jpg", "in/sub/deep/a.jpg", "in/notes.txt", "in/.hidden.png", "in/.git/c.png")
    assert pairs("in") == [
        ("in/a.jpg", "out/a.jpg"),
        ("in/b.png", "out/b.png"),
        ("in/sub/deep/a.jpg", "out/sub/deep/a.jpg"),
    ]


def test_the_output_folder_is_no_input(make):
    make("a.png", "out/a.png")
    assert pairs(".") == [("a.png", "out/a.png")]


def test_outputs_beside_their_inputs_are_not_restored_again(make):
    make("a.png", "a_x4.png", "b.png")
    assert pairs(".", output=".", suffix="_x4") == [("a.png", "a_x4.png"), ("b.png", "b_x4.png")]


def test_an_input_given_twice_is_one(make):
    make("in/a.png")
    assert pairs("in", "in/a.png", "./in/a.png") == [("in/a.png", "out/a.png")]


def test_a_file_name_as_output(make):
    make("a.png", "dir.png/x")
    assert pairs("a.png", output="b.jpg") == [("a.png", "b.jpg")]
    assert pairs("a.png", output="new/b.jpg", suffix="_x4") == [("a.png", "new/b.jpg")]
    assert pairs("a.png", output="v1.5") == [("a.png", "v1.5/a.png")]
    assert pairs("a.png", output="dir.png") == [("a.png", "dir.png/a.png")]


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (["a.png", "b/a.png"], {}, "a.png and b/a.png would both become out/a.png"),
        (["a.png", "a.jpg"], {"ext": "png"}, "both become out/a.png"),
        (["a.png"], {"output": "."}, "over the input a.png; give `suffix` or another `output`"),
        (["a.png", "a.jpg"], {"output": ".", "ext": "jpg"}, "over the input|both become"),
        (["a.png", "a_x4.png"], {"output": ".", "suffix": "_x4"}, "over the input a_x4.png"),
        (["."], {"output": "."}, "over the input"),
        (["a.png", "b/a.png"], {"output": "x.png"}, "names one picture"),
        (["b"], {"output": "x.png"}, "names one picture"),
        (["a.png"], {"output": "x.gif"}, r"can't write \.gif files"),
        (["a.png"], {"ext": "gif"}, "can't write 'gif' files"),
        (["a.png"], {"output": "x.png", "ext": "jpg"}, "contradict"),
        (["a.png"], {"suffix": "../x"}, "slash"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(make, inputs, options, message):
    make("a.png", "a.jpg", "a_x4.png", "b/a.png")
    with pytest.raises(ValueError, match=message):
        pairs(*inputs, **options)


def test_inputs_that_cannot_be_planned_are_reported_and_the_rest_goes_on(make):
    make("a.png", "empty/notes.txt", "b.gif", "c")
    plan = jobs.make_plan([Path(name) for name in ("none.png", "a.png", "empty", "b.gif", "c")], Path("out"))
    assert [str(job.target) for job in plan.jobs] == ["out/a.png"]
    messages = [outcome.error for outcome in plan.failed]
    assert messages == [
        "none.png: no such file or folder; check the name",
        "empty: no pictures in this folder (.png, .jpg, .jpeg, .webp, .tif, .tiff, .bmp)",
        "b.gif: can't write .gif; use `ext='png'`",
        "c: can't write files without extension; use `ext='png'`",
    ]
    assert pairs("b.gif", "c", ext="png") == [("b.gif", "out/b.png"), ("c", "out/c.png")]


def test_an_output_folder_that_is_a_file(make):
    make("out")
    with pytest.raises(ValueError, match="out: is a file, not a folder"):
        jobs.prepare(Path("out"))
    with pytest.raises(ValueError, match="part of this path is a file"):
        jobs.prepare(Path("out/deeper"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes the user, as root only may")
def test_no_permission_to_make_or_write_the_output_folder(make):
    make("closed/file")
    os.chmod("closed", 0o555)
    os.chmod(".", 0o755)
    os.seteuid(65534)
    try:
        for folder in ("closed", "closed/new"):
            with pytest.raises(ValueError, match="no permission"):
                jobs.prepare(Path(folder))
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_system_errors_are_one_line_with_path_and_way_out(number):
    line = jobs.explain(OSError(number, os.strerror(number)), Path("x/a.png"))
    assert line.startswith("x/a.png: ")
    assert "; " in line
    assert "Errno" not in line


@pytest.mark.parametrize(
    ("outscale", "size", "expected"),
    [(4, (13, 17), (52, 68)), (1.5, (13, 17), (20, 26)), (2.5, (13, 17), (33, 43)), (1, (8, 9), (8, 9))],
)
def test_output_size_is_rounded_to_nearest_half_up(outscale, size, expected):
    assert Options(outscale=outscale).output_size(*size) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outscale": 0.5}, "from 1 to 8"),
        ({"outscale": float("nan")}, "from 1 to 8"),
        ({"steps": 0}, "steps is 0"),
        ({"sampler": "heun"}, "unknown sampler 'heun'; choose one of ddim"),
        ({"noise_guidance": (1.5, 1)}, "noise guidance is 1.5:1"),
        ({"noise_guidance": (1.0, -1)}, "noise guidance is 1:-1"),
        ({"tile": -1}, "tile is -1"),
        ({"colour": "x"}, "unknown colour 'x'"),
        ({"seed": -1}, "seed is -1"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_guidance_is_parsed():
    assert parse_guidance("0.5:3") == (0.5, 3)
    for text in ("", "1", "1:x", ":", "1:2:3", "nan"):
        with pytest.raises(ValueError, match="is not W:K"):
            parse_guidance(text)

"""Which input becomes which output, and which can't become one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deedsr import batch, jobs
from deedsr.files import explain
from deedsr.options import Options, parse_guidance, parse_size


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
        (["a.png", "b/a.png"], {"output": "x.png"}, "takes one picture"),
        (["b"], {"output": "x.png"}, "takes one picture"),
        (["a.png", "a.jpg"], {"output": "-"}, "takes one picture"),
        (["-", "a.jpg"], {}, "takes one picture"),
        (["-"], {}, "has no name; give `output` a picture's name, or -"),
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


@pytest.mark.parametrize(
    ("inputs", "options", "done", "message"),
    [
        (["a.png", "b/a.png"], {}, ["out/a.png"], "b/a.png: would become out/a.png, as a.png does; rename one"),
        (["a.png", "a.jpg"], {"ext": "png"}, ["out/a.png"], "a.jpg: would become out/a.png, as a.png does; rename one"),
        (["a.png"], {"output": "."}, [], "a.png: would be written over the input a.png; give `suffix` or another"),
        (
            ["a.png", "a.jpg", "c.png"],
            {"output": ".", "ext": "jpg"},
            ["c.jpg"],
            "a.png: would be written over the input a.jpg; give `suffix`",
        ),
        (
            ["a.png", "a_x4.png"],
            {"output": ".", "suffix": "_x4"},
            ["a_x4_x4.png"],
            "a.png: would be written over the input a_x4.png",
        ),
        (["b"], {"output": "b"}, [], "b: no pictures in this folder"),
        (["b", "c.png"], {"output": "b/../b"}, ["b/../b/c.png"], "b: no pictures in this folder"),
    ],
)
def test_names_that_collide_fail_alone(make, inputs, options, done, message):
    make("a.png", "a.jpg", "a_x4.png", "b/a.png", "c.png")
    if inputs[0] == "b":
        Path("b/a.png").unlink()
    output = Path(options.pop("output", "out"))
    plan = jobs.make_plan([Path(name) for name in inputs], output, **options)
    assert [os.path.normpath(job.target) for job in plan.jobs] == [os.path.normpath(name) for name in done]
    assert any(outcome.error.startswith(message) for outcome in plan.failed)


def test_inputs_that_cannot_be_planned_are_reported_and_the_rest_goes_on(make):
    make("a.png", "empty/notes.txt", "b.gif", "c")
    plan = jobs.make_plan([Path(name) for name in ("none.png", "a.png", "empty", "b.gif", "c")], Path("out"))
    assert [str(job.target) for job in plan.jobs] == ["out/a.png"]
    assert plan.others == 1
    messages = [outcome.error for outcome in plan.failed]
    assert messages == [
        "none.png: no such file or folder; check the name",
        "empty: no pictures in this folder",
        "b.gif: can't write .gif; use `ext='png'`",
        "c: can't write files without extension; use `ext='png'`",
    ]
    assert pairs("b.gif", "c", ext="png") == [("b.gif", "out/b.png"), ("c", "out/c.png")]


def failed(*inputs: str, **options: object) -> tuple[list[str], list[str]]:
    """The outputs of a plan, and why others are none."""
    plan = jobs.make_plan([Path(name) for name in inputs], Path("out"), **options)
    return [str(job.target) for job in plan.jobs], [outcome.error for outcome in plan.failed]


def test_nothing_in_a_folder_is_passed_over_in_silence(make):
    make("in/a.png", "in/b.svg", "in/c.gif", "in/d.txt", "in/e", "in/sub/f.jfif", "in/sub/g.exr")
    done, faults = failed("in")
    assert done == ["out/a.png", "out/sub/f.jfif"]
    assert faults == [
        "in/b.svg: can't read .svg files; convert it to PNG first",
        "in/c.gif: can't write .gif; use `ext='png'`",
        "in/sub/g.exr: can't read .exr files; convert it to PNG first",
    ]
    assert jobs.make_plan([Path("in")], Path("out")).others == 2
    assert failed("in", recursive=False)[0] == ["out/a.png"]


def test_what_needs_more_than_is_installed_says_so(make, monkeypatch):
    monkeypatch.setattr("deedsr.pictures.formats.find_spec", lambda name: None)
    make("in/a.heic", "in/b.jxl", "in/c.avif")
    assert failed("in") == (
        ["out/c.avif"],
        [
            "in/a.heic: .heic files need more: pip install 'deedsr[formats]'; or use `ext='png'`",
            "in/b.jxl: .jxl files need more: pip install 'deedsr[formats]'; or use `ext='png'`",
        ],
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and pipes")
def test_links_and_pipes(make):
    make("in/a.png", "in/d.png", "store", "else/b.png")
    os.symlink("loop.png", "in/loop.png")
    os.symlink("nowhere", "in/gone.png")
    os.symlink("../store", "in/one.png")
    os.symlink("../store", "in/two.png")
    os.symlink("../else", "in/linked")
    os.symlink("..", "in/up")
    os.mkfifo("in/pipe.png")
    os.symlink("a.png", "in/a2.png")
    done, faults = failed("in")
    assert done == [f"out/{name}.png" for name in ("a", "a2", "d", "one", "two", "linked/b")]
    assert faults == [
        "in/gone.png: a link to what is not there; remove it",
        "in/loop.png: a link that leads back to itself; remove it",
        "in/pipe.png: is a pipe, a socket or a device; leave it out",
    ]
    assert failed("in/loop.png", "in/a.png")[0] == ["out/a.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes the user, as root only may")
def test_what_is_locked_is_named_and_the_rest_goes_on(make):
    make("in/a.png", "in/locked/b.png")
    os.chmod("in/locked", 0)
    os.chmod(".", 0o755)
    os.seteuid(65534)
    try:
        assert failed("in") == (["out/a.png"], ["in/locked: no permission; let it be read, or leave it out"])
        done, faults = failed("in/locked/b.png", "in/a.png")
        assert done == ["out/a.png"]
        assert faults == ["in/locked/b.png: no permission; let it be read, or leave it out"]
    finally:
        os.seteuid(0)
        os.chmod("in/locked", 0o755)


def test_names_are_told_as_they_are(make):
    make("in/two  spaces:smile:.svg", "in/" + "写" * 82 + ".png")
    done, faults = failed("in")
    assert faults == ["in/two  spaces:smile:.svg: can't read .svg files; convert it to PNG first"]
    assert done == ["out/" + "写" * 82 + ".png"]
    assert "longer than 255 bytes" in failed("in", suffix="_larger")[1][-1]


def test_standard_input_and_output(make):
    make("a.png")
    assert pairs("-", output="b.png") == [("-", "b.png")]
    assert pairs("a.png", output="-", ext="webp") == [("a.png", "-")]
    assert pairs("-", output="-") == [("-", "-")]


def test_an_output_folder_that_is_a_file(make):
    make("out")
    with pytest.raises(ValueError, match="out: is a file, not a folder"):
        batch.prepare(Path("out"))
    with pytest.raises(ValueError, match="part of this path is a file"):
        batch.prepare(Path("out/deeper"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes the user, as root only may")
def test_no_permission_to_make_or_write_the_output_folder(make):
    make("closed/file")
    os.chmod("closed", 0o555)
    os.chmod(".", 0o755)
    os.seteuid(65534)
    try:
        for folder in ("closed", "closed/new"):
            with pytest.raises(ValueError, match="no permission"):
                batch.prepare(Path(folder))
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_system_errors_are_one_line_with_path_and_way_out(number):
    line = explain(OSError(number, os.strerror(number)), Path("x/a.png"))
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
    ("options", "size", "expected"),
    [
        ({"width": 200}, (13, 50), (52, 200)),
        ({"height": 26}, (13, 50), (26, 100)),
        ({"width": 200, "height": 26}, (13, 50), (26, 100)),
        ({"width": 25, "height": 26}, (14, 50), (7, 25)),
        ({"megapixels": 0.04}, (100, 100), (200, 200)),
        ({"megapixels": 2}, (1000, 500), (2000, 1000)),
    ],
)
def test_output_size_by_what_it_is_to_be(options, size, expected):
    assert Options(**options).output_size(*size) == expected
    with pytest.raises(ValueError, match="times larger; at most 8 can be"):
        Options(**{name: value * 50 for name, value in options.items()}).output_size(*size)


def test_a_size_is_parsed():
    assert parse_size("3840x2160") == parse_size("3840X2160") == (3840, 2160)
    for text in ("", "1", "1x", "axb", "1x2x3"):
        with pytest.raises(ValueError, match="is not WIDTHxHEIGHT"):
            parse_size(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"megapixels": -1.0}, "megapixels is -1"),
        ({"megapixels": 2, "width": 10}, "contradict each other"),
        ({"outscale": 2.0, "width": 300}, "outscale and a width, height or megapixels contradict each other"),
        ({"outscale": 2.0, "megapixels": 1.0}, "contradict each other"),
        ({"tile": 0, "overlap": 5}, "overlap is 5, but tile is 0"),
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

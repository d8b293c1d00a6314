"""The command line as a user meets it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deedsr.cli import main as cli
from deedsr.cli.flags import in_flags
from deedsr.files import Output, final_status
from deedsr.pictures import picture as images
from tests.processes import ended, finished, forked, started

LIGHT = """
import sys
from deedsr.cli.main import _call
code = _call(sys.argv[1:])
heavy = sorted({"torch", "diffusers", "numpy", "PIL", "transformers"} & set(sys.modules))
raise SystemExit(f"{code} {heavy}")
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """What has been restored is remembered for this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    code = cli._call([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def photo(path: Path, size: tuple[int, int] = (24, 20), value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["restore", "--help"], 0),
        (["--version"], 0),
        ([], 0),
        (["restore", "none.png", "--sampler", "x"], 2),
        (["restore", "none.png"], 1),
    ],
)
def test_nothing_heavy_is_imported_for_help_and_wrong_arguments(arguments, code, tmp_path):
    command = [sys.executable, "-c", LIGHT, *arguments]
    done = finished(command, cwd=tmp_path, env=environment())
    assert done.stderr.splitlines()[-1] == f"{code} []"


@pytest.mark.parametrize("module", ["deedsr.cli", "stage2.train"])
def test_a_python_without_docstrings_is_said_in_one_line(module, tmp_path):
    command = [sys.executable, "-B", "-OO", "-m", module, "--help"]
    done = finished(command, cwd=tmp_path, env=environment())
    assert done.returncode in (1, 2)
    assert done.stderr.endswith("takes out the docstrings that transformers needs; use python -O, or neither\n")
    assert done.stderr.count("\n") == 1


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "COLUMNS": "100"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blub"], "No such command"),
        (["restore"], "Missing argument"),
        (["restore", "a.png", "--blub"], "No such option"),
        (["restore", "a.png", "--steps", "many"], "--steps"),
        (["restore", "a.png", "-s", "9"], "outscale is 9"),
        (["restore", "a.png", "--sampler", "heun"], "unknown sampler 'heun'; choose one of ddim, dpm++, unipc, euler"),
        (["restore", "a.png", "--colour", "hsv"], "unknown colour 'hsv'"),
        (["restore", "a.png", "--dtype", "int8"], "unknown dtype 'int8'"),
        (["restore", "a.png", "--device", "tpu"], "unknown device 'tpu'"),
        (["restore", "a.png", "--noise-guidance", "1"], "not W:K"),
        (["restore", "a.png", "--ext", "gif"], "can't write 'gif'"),
        (["restore", "a.png", "-t", "-5"], "tile is -5"),
        (["restore", "a.png", "--ensemble", "9"], "ensemble is 9; choose a number of views from 1 to 8"),
        (["restore", "a.png", "--denoise", "3"], "denoise is 3; choose 0 to 2"),
        (["restore", "a.png", "--degradation-guidance", "0"], "degradation guidance is 0; choose a scale from 1 on"),
        (["info", "--model", "no-such-model"], "no-such-model"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(capsys, arguments, message):
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("a.jpg: JPEG holds no transparency; use `.png`", "a.jpg: JPEG holds no transparency; use --ext png"),
        ("b.gif: can't write .gif; use `ext='png'`", "b.gif: can't write .gif; use --ext png"),
        ("give `suffix` or another `output`", "give --suffix or another -o"),
        ("use smaller tiles, `tile=256`", "use smaller tiles, -t 256"),
        ("choose `dtype='float32'`", "choose --dtype float32"),
        ("make it with `python -m stage1.head output=x`", "make it with `python -m stage1.head output=x`"),
    ],
)
def test_messages_of_the_library_name_flags(message, expected):
    assert in_flags(message) == expected


def test_info_of_dit4sr_has_the_exact_counts(capsys):
    code, out, _ = call(capsys, "info", "--model", "dit4sr", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["base"], found["trained"], found["total"]) == (2_243_171_520, 350_877_696, 2_594_049_216)
    assert call(capsys, "info", "--model", "sd3_controlnet")[0] == 0
    code, _, err = call(capsys, "info", "--model", "large")
    assert code == 2
    assert "unknown model size 'large'; there are: sd21, small, dit4sr, dit4sr_small, sd3_controlnet" in err


@pytest.mark.parametrize("model", ["sd21", "small"])
def test_info_counts(capsys, model):
    code, out, _ = call(capsys, "info", "--model", model, "--json")
    assert code == 0
    found = json.loads(out)
    keys = {"degradation_encoder", "adapter", "sft", "cross_attention", "trained", "unet_frozen", "unet_total"}
    assert keys <= set(found)
    assert found["trained"] == found["adapter"] + found["sft"] + found["cross_attention"]
    colour = next(one for one in found["sampling"] if one["name"] == "colour")
    assert (colour["default"], colour["authors"]) == ("wavelet", "none")
    assert all(one["why"] for one in found["sampling"])
    code, out, _ = call(capsys, "info", "--model", model)
    assert f"{found['adapter']:,}" in out
    rows = [line.split(maxsplit=3) for line in out.partition("sampling")[2].splitlines()[1:]]
    assert [row[0] for row in rows] == [one["name"] for one in found["sampling"]]
    assert ["rounding", "nearest", "down", "rounding down darkens by half a level"] in rows


# -- restoring


def restore(capsys, model: Path, *arguments: object) -> tuple[int, dict, str]:
    code, out, err = call(capsys, "restore", *arguments, "--model", model, "--steps", 1, "--device", "cpu", "--json")
    return code, json.loads(out) if out else {}, err


def test_auto_is_reported_as_what_it_meant():
    assert cli._taken("built-in", "auto", "auto", "onnx") == {"device": "cpu", "dtype": "float32"}


def test_the_degradation_of_other_pictures(capsys, tmp_path, tiny_model_folder):
    source, other = photo(tmp_path / "in.png"), photo(tmp_path / "like/a.png", value=7)
    outputs = []
    for place in (None, source, other, other.parent):
        extra = [] if place is None else ["--degradation-of", place]
        code, summary, err = restore(capsys, tiny_model_folder, source, "-o", tmp_path / "out", "--overwrite", *extra)
        assert (code, err) == (0, "")
        assert summary["options"]["dtype"] == "float32"  # what auto is on a CPU
        assert summary["options"]["degradation_of"] == (None if place is None else [str(place)])
        outputs.append((tmp_path / "out/in.png").read_bytes())
    plain, own, others, folder = outputs
    assert own == plain != others == folder
    code, _, err = restore(capsys, tiny_model_folder, source, "-o", tmp_path / "new", "--degradation-of", "none.png")
    assert code == 2
    assert err == "deedsr: none.png: no such file or folder; check the name\n"


def test_a_run_goes_on_where_it_stopped(capsys, tmp_path, tiny_model_folder):
    for index in range(3):
        photo(tmp_path / f"in/sub{index}/{index}.png", value=index)
    out = tmp_path / "out"
    code, summary, _ = restore(capsys, tiny_model_folder, tmp_path / "in", "-o", out)
    assert (code, summary["restored"], summary["kept"], summary["failed"]) == (0, 3, 0, 0)
    first = (out / "sub1/1.png").read_bytes()
    (out / "sub1/1.png").unlink()
    (out / "sub2/2.png").write_bytes(b"mine")
    code, summary, err = restore(capsys, tiny_model_folder, tmp_path / "in", "-o", out)
    assert (code, summary["restored"], summary["kept"]) == (0, 1, 2)
    assert err.startswith(f"deedsr: {out / 'sub2/2.png'}: is there, but not as these options made it of this input")
    assert err.endswith("--overwrite makes it anew\n")
    assert (out / "sub1/1.png").read_bytes() == first
    assert (out / "sub2/2.png").read_bytes() == b"mine"
    code, summary, _ = restore(capsys, tiny_model_folder, tmp_path / "in", "-o", out, "--overwrite")
    assert summary["restored"] == 3
    with Image.open(out / "sub2/2.png") as image:
        assert image.size == (96, 80)


def test_other_options_and_another_input_make_outputs_anew(capsys, tmp_path, tiny_model_folder):
    for index in range(2):
        photo(tmp_path / f"in/{index}.png", value=index)
    place = (tmp_path / "in", "-o", tmp_path / "out")
    assert restore(capsys, tiny_model_folder, *place)[1]["restored"] == 2
    assert restore(capsys, tiny_model_folder, *place)[1]["kept"] == 2
    assert restore(capsys, tiny_model_folder, *place, "-s", "2")[1]["restored"] == 2
    with Image.open(tmp_path / "out/0.png") as image:
        assert image.size == (48, 40)
    photo(tmp_path / "in/1.png", value=7)
    code, summary, err = restore(capsys, tiny_model_folder, *place, "-s", "2")
    assert (code, summary["restored"], summary["kept"], err) == (0, 1, 1, "")


def test_sizes_quality_times_and_metadata(capsys, tmp_path, tiny_model_folder):
    data = Image.Exif()
    data[271] = "Maker"
    source = tmp_path / "a.jpg"
    Image.fromarray(np.full((20, 24, 3), 90, np.uint8)).save(source, exif=data, dpi=(300, 300))
    os.utime(source, (1_000_000_000, 1_000_000_000))
    out, options = tmp_path / "out.jpg", ["--size", "60x60", "--keep-times", "--quality", "20"]
    code, _, err = restore(capsys, tiny_model_folder, source, "-o", out, *options)
    assert (code, err) == (0, "")
    assert out.stat().st_mtime == 1_000_000_000
    with Image.open(out) as image:
        assert image.size == (60, 50)
        assert image.getexif()[271] == "Maker"
        assert image.info["dpi"] == (750, 750)
        assert max(image.quantization[0]) > 100
    assert restore(capsys, tiny_model_folder, source, "-o", out, "--strip", "--width", "24")[0] == 0
    with Image.open(out) as image:
        assert image.size == (24, 20)
        assert len(image.getexif()) == 0
        assert "dpi" not in image.info
    code, _, err = call(capsys, "restore", source, "-o", out, "--size", "60x60", "--width", "5")
    assert (code, err) == (2, "deedsr: --size and --width or --height contradict each other; leave one out\n")


def test_all_pictures_of_a_file(capsys, tmp_path, tiny_model_folder):
    frames = [Image.new("RGB", (16, 16), (value, 0, 0)) for value in (0, 100)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    code, _, err = restore(capsys, tiny_model_folder, tmp_path / "a.tif", "-o", tmp_path / "out")
    assert (code, err) == (
        0,
        f"deedsr: {tmp_path / 'a.tif'}: holds 2 pictures, the first was taken; --frames takes all\n",
    )
    code, _, err = restore(capsys, tiny_model_folder, tmp_path / "a.tif", "-o", tmp_path / "all", "--frames")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["a-1.tif", "a-2.tif"]


def test_a_seed_that_changes_nothing_says_so(capsys, tmp_path, tiny_model_folder):
    source = photo(tmp_path / "a.png")
    said = "deedsr: --seed changes nothing: this model restores without noise\n"
    assert restore(capsys, tiny_model_folder, source, "-o", tmp_path / "out", "--seed", "1")[2] == ""
    arguments = ["restore", source, "-o", tmp_path / "other", "--seed", "1", "--json"]
    assert call(capsys, *arguments, "--ensemble", "1")[2] == said


def test_low_memory_on_a_cpu_says_that_it_changes_nothing(capsys, tmp_path, tiny_model_folder):
    source, out = photo(tmp_path / "a.png"), tmp_path / "out"
    assert restore(capsys, tiny_model_folder, source, "-o", out)[2] == ""
    plain = (out / "a.png").read_bytes()
    _, summary, err = restore(capsys, tiny_model_folder, source, "-o", out, "--low-memory")
    assert (summary["kept"], err) == (1, ""), "it makes no other picture"
    err = restore(capsys, tiny_model_folder, source, "-o", out, "--low-memory", "--overwrite")[2]
    assert err == "deedsr: --low-memory changes nothing: the model runs on the CPU\n"
    assert (out / "a.png").read_bytes() == plain


def test_names_that_cannot_be_shown(tmp_path, tiny_model_folder, capfd):
    names = [b"a.png", b"m\xe9.png", "写真  :smile:.png".encode()]
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        with open(os.path.join(os.fsencode(tmp_path / "in"), name), "wb") as file:
            file.write(photo(tmp_path / "one.png").read_bytes())
    place = ["restore", "--model", tiny_model_folder, "--steps", 1, tmp_path / "in", "-o", tmp_path / "out"]

    def called():
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w"), encoding="cp1252") for number in (1, 2))
        cli.main([str(word) for word in place])

    assert forked(called) == [0]
    told = capfd.readouterr()
    assert told.err == ""
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == sorted(names)
    assert "\\u5199\\u771f  :smile:.png" in told.out


def test_standard_streams(tmp_path, tiny_model_folder):
    """In a process of its own: those of a user, with nothing but the picture."""
    command = [sys.executable, "-m", "deedsr.cli", "restore", "--model", tiny_model_folder, "--steps", 1]
    streams = {"env": environment(), "cwd": tmp_path, "stderr": subprocess.PIPE, "text": True}
    with (
        open(photo(tmp_path / "one.png"), "rb") as source,
        open(tmp_path / "piped.webp", "wb") as target,
        started([*command, "-", "-o", "-", "--ext", "webp"], **streams, stdin=source, stdout=target) as process,
    ):
        assert ended(process)[1] == ""
    assert process.returncode == 0
    with Image.open(tmp_path / "piped.webp") as image:
        assert (image.format, image.size) == ("WEBP", (96, 80))


def test_a_file_called_minus_is_neither_stream(capsysbinary, tmp_path, tiny_model_folder, monkeypatch):
    source = photo(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    command = ["restore", "--model", str(tiny_model_folder), "--steps", "1"]
    Path("-").write_bytes(b"mine")
    assert cli._call([*command, "a.png", "-o", "-"]) == 0
    with Image.open(io.BytesIO(capsysbinary.readouterr().out)) as image:
        assert image.size == (96, 80)
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
        assert cli._call([*command, "-", "-o", "b.png"]) == 0
    assert b"is there, but not as these options made it" in capsysbinary.readouterr().err
    assert Path("-").read_bytes() == b"mine"


@pytest.mark.parametrize(("name", "arguments"), [("input", ["-", "-o", "b.png"]), ("output", ["a.png", "-o", "-"])])
def test_a_closed_stream_is_said_in_one_line(capsys, tmp_path, tiny_model_folder, monkeypatch, name, arguments):
    photo(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, f"std{name.removesuffix('put')}", None)
    assert cli._call(["restore", "--model", str(tiny_model_folder), "--steps", "1", *arguments]) == 1
    assert capsys.readouterr().err == f"deedsr: -: standard {name} is closed; leave it open, or name a file\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("module", ["deedsr.cli", "stage2.train"])
def test_a_full_standard_output_is_said_in_one_line(tmp_path, module, unbuffered):
    if not Path("/dev/full").exists():
        pytest.skip("no stream here that is always full")
    command = [sys.executable, "-m", module, "--help"]
    env = {**environment(), "PYTHONUNBUFFERED": unbuffered}
    with (
        open("/dev/full", "w") as full,
        started(command, cwd=tmp_path, env=env, stdout=full, stderr=subprocess.PIPE, text=True) as process,
    ):
        _, told = ended(process)
    name = "deedsr" if module == "deedsr.cli" else "error"
    assert told == f"{name}: standard output can't be written to: the disk is full; send it elsewhere\n"
    assert process.returncode == 1


def test_work_goes_on_where_standard_output_is_full(tmp_path, tiny_model_folder, monkeypatch, capsys):
    for name in ("a", "b"):
        photo(tmp_path / f"{name}.png")
    command = ["restore", "--model", tiny_model_folder, "--steps", 1, tmp_path / "a.png", tmp_path / "b.png"]
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", Output(full, "deedsr"))
        assert final_status(cli._call([str(word) for word in [*command, "-o", tmp_path / "out"]])) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert (
        capsys.readouterr().err == "deedsr: standard output can't be written to: the disk is full; send it elsewhere\n"
    )
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", Output(full, "deedsr"))
        assert final_status(cli._call([str(word) for word in [*command[:-1], "-o", "-"]])) == 1
    assert capsys.readouterr().err == "deedsr: -: the disk is full; free some space or choose another folder with -o\n"


def test_who_reads_no_further_ends_the_command_without_a_word(tmp_path):
    command = [sys.executable, "-m", "deedsr.cli", "info"]
    reading, writing = os.pipe()
    os.close(reading)
    with started(command, env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True) as process:
        os.close(writing)
        assert ended(process)[1] == ""
    assert process.returncode == 1


def test_one_bad_file_is_reported_and_the_rest_goes_on(capsys, tmp_path, tiny_model_folder):
    good = photo(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-900])
    photo(tmp_path / "dot.png", size=(1, 1))
    names = ["none.png", "empty.png", "text.png", "cut.png", "dot.png", "good.png"]
    code, summary, err = restore(
        capsys, tiny_model_folder, *(tmp_path / name for name in names), "-o", tmp_path / "out"
    )
    assert (code, summary["restored"], summary["failed"]) == (1, 1, 5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.png"]
    lines = err.splitlines()
    assert len(lines) == 5
    for name, line in zip(names, lines, strict=False):
        assert f"{name}: " in line
        assert "; " in line
    errors = {Path(entry["source"]).name: entry["error"] for entry in summary["images"]}
    assert "at least 8" in errors["dot.png"]
    assert errors["good.png"] is None


def test_transparency_that_the_output_cannot_hold_is_refused_before_any_work(capsys, tmp_path, tiny_model_folder):
    Image.new("RGBA", (16, 16), (1, 2, 3, 100)).save(tmp_path / "a.png")
    code, _, err = restore(capsys, tiny_model_folder, tmp_path / "a.png", "-o", tmp_path / "a.jpg")
    assert code == 1
    assert "holds no transparency; use --ext png" in err
    assert not (tmp_path / "a.jpg").exists()


def test_a_model_that_is_not_there(capsys, tmp_path):
    code, _, err = call(capsys, "restore", photo(tmp_path / "a.png"), "-o", tmp_path / "out", "--model", "./nowhere")
    assert code == 2
    assert err.count("\n") == 1
    assert "nowhere" in err


def test_plain_output_names_every_picture(capsys, tmp_path, tiny_model_folder):
    source = photo(tmp_path / "a.png")
    arguments = ["restore", source, "-o", tmp_path / "b.jpg", "--model", tiny_model_folder, "--steps", 1]
    code, out, err = call(capsys, *arguments)
    assert (code, err) == (0, "")
    assert f"{source} -> {tmp_path / 'b.jpg'}" in out
    assert out.splitlines()[-1] == "1 restored"
    assert call(capsys, *arguments)[1] == "0 restored, 1 kept\n"


def test_a_bar_takes_no_line_away_from_a_file(capsys, tmp_path, tiny_model_folder, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if standard error were a terminal
    source = photo(tmp_path / "a.png")
    arguments = ["restore", source, "-o", tmp_path / "b.png", "--model", tiny_model_folder, "--steps", 1]
    code, out, err = call(capsys, *arguments)
    assert code == 0
    assert out.startswith(f"{source} -> {tmp_path / 'b.png'} (")
    assert out.endswith("\n1 restored\n")
    assert "restoring" in err and "->" not in err


def test_a_full_disk(capsys, tmp_path, tiny_model_folder, monkeypatch):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    original = images.write

    def write_on_a_full_disk(*arguments: object) -> list[str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            return original(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(images, "write", write_on_a_full_disk)
    code, _, err = restore(capsys, tiny_model_folder, photo(tmp_path / "a.png"), "-o", tmp_path / "out")
    assert code == 1
    assert err.endswith("out/a.png: the file may not become so large here; choose another folder with -o\n")
    assert err.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupt_is_one_line_and_leaves_no_file(capsys, tmp_path, tiny_model_folder, monkeypatch):
    from deedsr.restorer import Restorer

    def interrupt(*arguments: object, name: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Restorer, "restore", interrupt)
    source = photo(tmp_path / "a.png")
    code, _, err = call(capsys, "restore", source, "-o", tmp_path / "out", "--model", tiny_model_folder)
    assert code == 130
    assert err == "deedsr: interrupted; the same command goes on where it stopped\n"
    assert list((tmp_path / "out").iterdir()) == []


def test_an_exported_model_restores_alike_in_half_the_size(capsys, tmp_path, tiny_model_folder):
    slim = tmp_path / "slim"
    assert call(capsys, "export", tiny_model_folder, slim, "--with-base", "--half") == (0, f"{slim}\n", "")
    source = photo(tmp_path / "a.png")
    pictures = []
    for model, output in ((tiny_model_folder, tmp_path / "one.png"), (slim, tmp_path / "two.png")):
        assert restore(capsys, model, source, "-o", output)[0] == 0
        pictures.append(images.read(output).rgb)
    assert (pictures[0] - pictures[1]).abs().mean() < 2 / 255
    sizes = [sum(file.stat().st_size for file in folder.rglob("*.safetensors")) for folder in (tiny_model_folder, slim)]
    assert sizes[1] < 0.6 * sizes[0]
    code, _, err = call(capsys, "export", tiny_model_folder, slim)
    assert code == 2
    assert "exists already; remove it or name another folder" in err

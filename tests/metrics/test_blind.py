"""Blind sheets: what is on them, where it is, and that nothing says whose picture is whose."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageCms

from deedsr.cli import main as cli
from deedsr.metrics import blind

LEFT, TOP, COLUMN = 12, 88, 384 + 12


@pytest.fixture
def study(tmp_path, make_pairs):
    """Folders `lr` and `hr` of parts of a photograph, 84×72 and 336×288, and two of `hr` made worse."""
    folder = make_pairs(tmp_path / "study", 5)
    for path in sorted((folder / "hr").iterdir()):
        hr = Image.open(path)
        grain = np.asarray(hr) + np.random.default_rng(1).normal(0, 9, (*hr.size[::-1], 3))
        made = {"soft": hr.reduce(3).resize(hr.size), "grainy": Image.fromarray(grain.clip(0, 255).astype(np.uint8))}
        for name, image in made.items():
            (folder / name).mkdir(exist_ok=True)
            image.save(folder / name / path.name)
    return folder


def call(capsys, *arguments):
    code = cli._call(["compare", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def read(path):
    return np.asarray(Image.open(path))


def chunks(data):
    """The names of a PNG file's chunks."""
    place, found = 8, []
    while place < len(data):
        found.append(data[place + 4 : place + 8])
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return found


def test_the_key_says_which_pictures_are_on_a_sheet(study):
    methods = {"ours": study / "soft", "theirs": study / "grainy"}
    key = blind.Key.read(blind.make(methods, study / "out", study / "lr", study / "hr", seed=3))
    assert key.methods == {name: str(folder) for name, folder in methods.items()}
    assert sorted(sheet.picture for sheet in key.sheets.values()) == ["0", "1", "2", "3", "4"]
    assert {sheet.letters["A"] for sheet in key.sheets.values()} == set(methods)
    for name, sheet in key.sheets.items():
        drawn = read(study / "out" / f"{name}.png")
        columns = [drawn[TOP : TOP + 288, LEFT + i * COLUMN :][:, :336] for i in range(4)]
        file = f"{sheet.picture}.png"
        for letter, column in zip("AB", columns[1:3], strict=True):
            assert (column == read(methods[sheet.letters[letter]] / file)).all()
        large = np.asarray(Image.open(study / "lr" / file).resize((336, 288), Image.Resampling.BICUBIC))
        for column, whole in ((columns[0], large), (columns[3], read(study / "hr" / file))):
            assert 0.9 < (column == whole).all(-1).mean() < 1  # the frames of the crops lie upon it


def test_crops_are_the_same_places_enlarged(study):
    methods = {name: study / name for name in ("soft", "grainy")}
    for zoom in (3, 4):
        key = blind.Key.read(blind.make(methods, study / f"out{zoom}", study / "lr", count=1, seed=1, zoom=zoom))
        ((name, sheet),) = key.sheets.items()
        drawn, side = read(study / f"out{zoom}" / f"{name}.png"), 384 // zoom
        assert drawn.shape == (TOP + 288 + 12 + 2 * COLUMN, LEFT + 3 * COLUMN, 3)
        whole = {letter: read(methods[sheet.letters[letter]] / f"{sheet.picture}.png") for letter in "AB"}
        frames = set()
        for row in range(2):
            top = TOP + 288 + 12 + row * COLUMN
            places = []
            for i, letter in enumerate("AB", 1):
                crop = drawn[top : top + 384, LEFT + i * COLUMN :][:, :384]
                small = crop[::zoom, ::zoom]
                assert (crop == small.repeat(zoom, 0).repeat(zoom, 1)).all()
                places.append(found_in(whole[letter], small, side))
            assert places[0] == places[1]
            y, x = places[0]
            assert (drawn[TOP + y, LEFT + x : LEFT + x + side] == blind._FRAME).all()
            frames.add((y, x))
        assert len(frames) == 2


def found_in(picture, crop, side):
    """Where a crop lies in a picture."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side), axis=(0, 1))
    rows, columns = (windows[..., 0, 0] == crop[0, 0]).all(-1).nonzero()
    places = [(y, x) for y, x in zip(rows, columns, strict=True) if (picture[y : y + side, x : x + side] == crop).all()]
    assert len(places) == 1
    return places[0]


def test_nothing_in_the_judges_folder_says_whose_pictures_they_are(study):
    for path in (*(study / "soft").iterdir(), *(study / "grainy").iterdir()):
        Image.open(path).save(path, dpi=(300, 300), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    key = blind.make({"soft": study / "soft", "grainy": study / "grainy"}, study / "out")
    assert key == study / "out.key.json"
    files = sorted(path.name for path in (study / "out").iterdir())
    names = list(blind.Key.read(key).sheets)
    assert files == [*(f"{name}.png" for name in names), "votes.csv"]
    assert (study / "out/votes.csv").read_text() == "sheet,choice\n" + "".join(f"{name},\n" for name in names)
    for path in (study / "out").glob("*.png"):
        data = path.read_bytes()
        assert set(chunks(data)) == {b"IHDR", b"IDAT", b"IEND"}
        assert b"soft" not in data and b"grainy" not in data


def test_letters_are_drawn_and_fair():
    stems = [str(number) for number in range(31)]
    sheets = blind.arrange(stems, ["a", "b", "c"], seed=5)
    assert sorted(sheet.picture for sheet in sheets) == sorted(stems)
    for letter in "ABC":
        counts = Counter(sheet.letters[letter] for sheet in sheets)
        assert sorted(counts.values()) in ([10, 10, 11], [9, 11, 11])
    assert len({tuple(sheet.letters.values()) for sheet in sheets}) == 6
    assert [sheet.picture for sheet in sheets] != stems
    assert sheets == blind.arrange(stems, ["a", "b", "c"], seed=5)
    assert sheets != blind.arrange(stems, ["a", "b", "c"], seed=6)
    few = blind.arrange(stems, ["a", "b"], 10)
    assert len({sheet.picture for sheet in few}) == 10
    assert Counter(sheet.letters["A"] for sheet in few) == {"a": 5, "b": 5}


def test_sheets_of_two_studies_have_different_names(study):
    methods = {name: study / name for name in ("soft", "grainy")}
    turned = {"soft": study / "grainy", "grainy": study / "soft"}
    studies = [
        blind.make(chosen, study / f"out{number}", count=1, seed=seed)
        for number, (chosen, seed) in enumerate([(methods, 0), (methods, 1), (turned, 0)])
    ]
    assert len({name for key in studies for name in blind.Key.read(key).sheets}) == 3


def test_no_sheet_is_longer_than_2000_pixels(tmp_path):
    """Large pictures and many methods: whole pictures are made smaller, crops keep their pixels."""
    photo = Image.open("tests/data/rooftops.png").convert("RGB").resize((1800, 1200))
    methods = {}
    for number in range(8):
        methods[f"m{number}"] = tmp_path / str(number)
        methods[f"m{number}"].mkdir()
        photo.save(tmp_path / str(number) / "x.png")
    for count in (2, 8):
        key = blind.make(dict(list(methods.items())[:count]), tmp_path / f"out{count}")
        (name,) = blind.Key.read(key).sheets
        width, height = Image.open(tmp_path / f"out{count}" / f"{name}.png").size
        assert max(width, height) <= 2000
        assert max(width, height) > 1500


def test_grey_pictures_and_rounded_sides_can_be_shown(study):
    for path in (study / "soft").iterdir():
        Image.open(path).convert("L").save(path)
    for path in (*(study / "soft").iterdir(), *(study / "hr").iterdir()):
        Image.open(path).resize((206, 176)).save(path)  # 2.45 times 84×72 is 205.8×176.4
    blind.make({"soft": study / "soft", "hr": study / "hr"}, study / "out", study / "lr")


def test_a_colour_profile_is_heeded(study):
    """One whose red and blue are exchanged: what its numbers call red is shown as blue."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = data.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")
    for name, profile in (("soft", data), ("grainy", None)):
        for path in (study / name).iterdir():
            Image.new("RGB", (64, 64), (250, 20, 20)).save(path, icc_profile=profile)
    key = blind.Key.read(blind.make({name: study / name for name in ("soft", "grainy")}, study / "out", count=1))
    ((name, sheet),) = key.sheets.items()
    drawn = read(study / "out" / f"{name}.png").astype(int)
    for i, method in enumerate(sheet.letters.values()):
        shown = (20, 20, 250) if method == "soft" else (250, 20, 20)
        assert abs(drawn[TOP + 9, LEFT + i * COLUMN + 9] - shown).max() < 4


def test_the_command_writes_sheets_and_counts_their_votes(study, capsys):
    out, methods = study / "out", (f"ours={study / 'soft'}", study / "grainy")
    code, said, err = call(capsys, "--blind", *methods, "--input", study / "lr", "--count", 4, "--seed", 2, "-o", out)
    key = study / "out.key.json"
    assert (code, err) == (0, "")
    assert str(out) in said and str(key) in said
    sheets = json.loads(key.read_text())["sheets"]
    assert list(json.loads(key.read_text())["methods"]) == ["ours", "grainy"]
    for judge, chosen in (("one", ["ours", "ours", "grainy", None]), ("two", ["ours", "ours", "ours", "tie"])):
        lines = ["sheet,choice"]
        for (name, sheet), method in zip(sheets.items(), chosen, strict=True):
            letters = {shown: letter for letter, shown in sheet["letters"].items()} | {"tie": "tie", None: ""}
            lines.append(f"{name},{letters[method]}")
        (study / f"{judge}.csv").write_text("\n".join(lines))
    votes = ["--votes", study / "one.csv", "--votes", study / "two.csv"]
    code, said, err = call(capsys, *votes, "--key", key, "-o", study / "votes.json")
    assert (code, err) == (0, "")
    lines = said.splitlines()
    assert lines[2] == f"| {study / 'one.csv'} | ours : grainy | 2 : 1 | 0 | 0.67 [0.21, 0.94] |"
    assert lines[3] == f"| {study / 'two.csv'} | ours : grainy | 3 : 0 | 1 | 1.00 [0.44, 1.00] |"
    assert lines[4] == "| all, by sheet | ours : grainy | 2 : 0 | 2 | 1.00 [0.34, 1.00] |"
    assert "- Two judges agree in 67 % of cases on 3 sheets that several have judged; kappa -0.20." in lines
    assert lines[-1] == f"- {study / 'one.csv'}: 1 of 4 sheets without a choice."
    assert (study / "votes.md").read_text() == said
    document = json.loads((study / "votes.json").read_text())
    assert document["preferences"]["all, by sheet"][0]["wins"] == 2
    first = {str(study / "one.csv"): "ours", str(study / "two.csv"): "ours"}
    assert document["sheets"][next(iter(sheets))] == {"picture": next(iter(sheets.values()))["picture"], "votes": first}


def remove(study):
    (study / "grainy/1.png").unlink()


def shrink(study):
    Image.open(study / "grainy/2.png").resize((334, 288)).save(study / "grainy/2.png")


def stretch(study):
    Image.open(study / "lr/2.png").resize((84, 60)).save(study / "lr/2.png")


def enlarge(study):
    Image.open(study / "lr/2.png").resize((672, 576)).save(study / "lr/2.png")


def see_through(study):
    image = Image.open(study / "soft/0.png").convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.save(study / "soft/0.png")


def several(study):
    image = Image.open(study / "soft/0.png")
    image.save(study / "soft/0.tif", save_all=True, append_images=[Image.new("RGB", image.size)])
    (study / "soft/0.png").unlink()


def keep(study):
    (study / "out.key.json").write_text("{}")


def fill(study):
    (study / "out").mkdir()
    (study / "out/votes.csv").write_text("sheet,choice\n")


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (remove, [], "grainy has no picture for 1"),
        (shrink, [], "grainy/2.png: is 334×288, and"),
        (stretch, [], "lr/2.png: is 84×60, and"),
        (enlarge, [], "lr/2.png: is 672×576, and"),
        (see_through, [], "soft/0.png: is transparent"),
        (several, [], "soft/0.tif: "),
        (keep, [], "out.key.json: exists already"),
        (fill, [], "out: exists already"),
        (None, ["--count", "6"], "count is 6; choose 1 to 5"),
        (None, ["--count", "0"], "count is 0; choose 1 to 5"),
        (None, ["--zoom", "0"], "zoom is 0; choose 1 to 16"),
        (None, ["--seed", "-1"], "seed is -1; choose a whole number from 0 on"),
        (None, ["a/soft"], "a/soft: another folder is called 'soft', too; name them apart, NAME=FOLDER"),
        (None, ["third=none"], "none: no such folder"),
        (None, ["tie=x"], "can't be called 'tie'"),
        (None, [f"{number}=x" for number in range(7)], "2 to 8 folders of outputs, not 9"),
        (None, ["--metrics", "psnr"], "--metrics has no meaning with --blind; leave it out"),
        (None, ["--key", "x"], "--blind has no meaning with --votes; leave it out"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(study, capsys, spoil, options, message):
    if spoil:
        spoil(study)
    before = sorted(study.rglob("*"))
    folders = (study / "soft", study / "grainy", "--input", study / "lr", "-o", study / "out")
    code, out, err = call(capsys, "--blind", *folders, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(study.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--blind", "one"], "2 to 8 folders of outputs, not 1"),
        (["one", "two", "three"], "needs two folders of outputs, not 3"),
        ([], "needs two folders of outputs, not 0"),
        (["one", "two", "--zoom", "2"], "--zoom has no meaning without --blind"),
        (["--votes", "x.csv"], "give both --votes and --key"),
        (["--votes", "x.csv", "y.csv", "--key", "k.json"], "y.csv: no folder is needed to count votes"),
        (["--votes", "x.csv", "--key", "k.json"], "k.json: no such file"),
    ],
)
def test_uses_that_contradict_themselves(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert message in err

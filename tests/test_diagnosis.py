"""``deedsr diagnose`` and the head behind it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deedsr import degradation, weights
from deedsr.cli import main as cli
from deedsr.diagnosis import LEVELS, Diagnoser, Diagnosis, Estimate
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.head import DIAGNOSIS, ENCODER, DiagnosisHead, from_scale, load_head, median_level, to_scale
from deedsr.pictures.picture import Picture


@pytest.fixture
def folder(tmp_path: Path, tiny_encoder: Path) -> Path:
    """A model folder as far as a diagnosis needs it."""
    stored = weights.load(tiny_encoder)
    weights.save(tmp_path / "model" / ENCODER, stored.tensors, stored.config)
    torch.manual_seed(0)
    head = DiagnosisHead(16, 32, 8)
    weights.save(tmp_path / "model" / DIAGNOSIS, head.state_dict(), head.config())
    return tmp_path / "model"


def call(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    code = cli._call(["diagnose", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def photo(path: Path, size: tuple[int, int] = (40, 32), mode: str = "RGB") -> Path:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_one_picture_is_one_object(capsys, folder, tmp_path):
    file = photo(tmp_path / "a.png")
    code, out, err = call(capsys, file, "--json", "--model", folder)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["file"] == str(file)
    assert found["level"] in LEVELS
    assert sum(found["levels"].values()) == pytest.approx(1, abs=0.01)
    for name in ("blur", "noise", "jpeg"):
        assert found[name].keys() == {"value", "std"}
        assert found[name]["std"] > 0
    assert 1 <= found["jpeg"]["value"] <= 100
    assert min(found["blur"]["value"], found["noise"]["value"]) >= 0


def test_several_pictures_and_folders_are_a_list(capsys, folder, tmp_path):
    first, second = photo(tmp_path / "in" / "a.png"), photo(tmp_path / "in" / "b.jpg")
    for inputs in ([first, second], [tmp_path / "in"]):
        code, out, _ = call(capsys, *inputs, "--json", "--model", folder)
        assert code == 0
        assert [entry["file"] for entry in json.loads(out)] == [str(first), str(second)]


def test_words_and_numbers(capsys, folder, tmp_path):
    file = photo(tmp_path / "a.png")
    code, out, _ = call(capsys, file, "--model", folder)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"{file}:"
    assert [line.split()[0] for line in lines[1:]] == ["blur", "noise", "jpeg", "level"]


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P"])
def test_grey_and_transparent_pictures(capsys, folder, tmp_path, mode):
    assert call(capsys, photo(tmp_path / "a.png", mode=mode), "--model", folder)[0] == 0


def test_sixteen_bits_say_what_eight_do(capsys, folder, tmp_path):
    import cv2

    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "8.png"), pixels)
    cv2.imwrite(str(tmp_path / "16.png"), pixels.astype(np.uint16) * 257)
    eight, sixteen = json.loads(call(capsys, tmp_path / "8.png", tmp_path / "16.png", "--json", "--model", folder)[1])
    assert {**eight, "file": ""} == {**sixteen, "file": ""}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.png", "no such file or folder; check the name"),
        ("empty.png", "the file is empty"),
        ("text.png", "convert it to PNG or JPEG"),
        ("dot.png", "at least 8"),
    ],
)
def test_a_bad_picture_is_one_line_and_the_rest_go_on(capsys, folder, tmp_path, name, message):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    photo(tmp_path / "dot.png", (1, 1))
    good, bad = photo(tmp_path / "good.png"), tmp_path / name
    code, out, err = call(capsys, bad, "--json", "--model", folder)
    assert (code, out) == (2, "")
    assert err.startswith(f"deedsr: {bad}: ")
    assert message in err
    assert err.count("\n") == 1
    code, out, err = call(capsys, bad, good, "--json", "--model", folder)
    assert code == 1
    assert err.count("\n") == 1
    first, second = json.loads(out)
    assert message in first["error"]
    assert "blur" in second


def test_a_folder_without_pictures_and_a_model_without_head(capsys, folder, tmp_path):
    (tmp_path / "none").mkdir()
    code, _, err = call(capsys, tmp_path / "none", "--model", folder)
    assert code == 2
    assert "no pictures in this folder" in err
    (folder / DIAGNOSIS).unlink()
    code, _, err = call(capsys, photo(tmp_path / "a.png"), "--model", folder)
    assert code == 2
    assert "python -m stage1.head" in err


def test_a_head_of_another_encoder_is_named(folder):
    with pytest.raises(ValueError, match=r"diagnosis\.safetensors: reads 16 numbers, but the encoder gives 8"):
        load_head(folder / DIAGNOSIS, DegradationEncoder((1, 1, 1, 1), (4, 4, 8, 8), 4))


def test_a_picture_of_equal_tiles_is_diagnosed_as_one_of_them(folder):
    diagnoser = Diagnoser.from_pretrained(str(folder))
    tile = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, many = (diagnoser(Picture(rgb)).to_json() for rgb in (tile, tile.repeat(1, 1, 2, 3)))
    assert one == many


def test_the_surest_tiles_count_most(folder):
    diagnoser = Diagnoser.from_pretrained(str(folder))
    tiles = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tiles[1] **= 3
    means = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 4.0]])
    stds = torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.2, 0.3]])
    diagnoser.head.forward = lambda vector: (means, stds, torch.full((2, 3), 1 / 3))
    found = diagnoser(Picture(torch.cat([tiles[:1], tiles[1:]], 3)))
    mean, std = (4 * 1 + 1 * 2) / 5, (2 / (0.1**-2 + 0.2**-2)) ** 0.5
    assert found.blur.value == pytest.approx(math.exp(mean) - 0.3)
    assert found.blur.std == pytest.approx(math.exp(mean) * std)
    assert (found.noise.value, found.noise.std) == pytest.approx((math.exp(2) - 1, math.exp(2) * 0.2))
    assert (found.jpeg.value, found.jpeg.std) == pytest.approx((110 - math.exp(3.5), math.exp(3.5) * 0.3))


def test_the_scale_is_inverted_with_its_errors():
    values = torch.tensor([[0.4, 0.0, 100.0], [2.0, 30.0, 20.0]])
    back, std = from_scale(to_scale(values), torch.full((2, 3), 0.01))
    assert torch.allclose(back, values, atol=1e-4)
    moved, _ = from_scale(to_scale(values[1:]) + 0.01, std[1:])
    assert torch.allclose(std[1:], (moved - values[1:]).abs(), rtol=0.02)


@pytest.fixture
def judging(folder) -> Path:
    """The folder, its head one that knows what is strange."""
    torch.manual_seed(0)
    head = DiagnosisHead(16, 32, 8)
    head.whiten.copy_(torch.eye(16))
    head.reach.fill_(1e3)
    weights.save(folder / DIAGNOSIS, head.state_dict(), head.config())
    return folder


def test_strangeness_is_told_by_a_head_that_knows_it(capsys, judging, tmp_path):
    file = photo(tmp_path / "a.png")
    code, out, _ = call(capsys, file, "--model", judging)
    assert code == 0 and "warning" not in out
    found = json.loads(call(capsys, file, "--json", "--model", judging)[1])
    assert 0 <= found["strangeness"] < 1
    stored = weights.load(judging / DIAGNOSIS)
    weights.save(judging / DIAGNOSIS, {**stored.tensors, "reach": torch.tensor(1e-9)}, stored.config)
    assert "warning: unlike what the model was trained on" in call(capsys, file, "--model", judging)[1]
    found = json.loads(call(capsys, file, "--json", "--model", judging)[1])
    assert found["strangeness"] > 1


def test_a_checkpoint_is_diagnosed_with_the_encoder_beside_it(capsys, folder, tmp_path):
    file = photo(tmp_path / "a.png")
    expected = call(capsys, file, "--model", folder)
    for place, header in ((folder, {}), (tmp_path / "other", {"encoder": str(folder / ENCODER)})):
        place.mkdir(exist_ok=True)
        torch.save({"model": {"system": "deedsr", **header}}, place.parent / "run.ckpt")
        assert call(capsys, file, "--model", place.parent / "run.ckpt") == expected
    torch.save({"model": {"system": "dit4sr"}}, tmp_path / "run.ckpt")
    code, _, err = call(capsys, file, "--model", tmp_path / "run.ckpt")
    assert code == 2
    assert "run.ckpt: has no encoder.safetensors: it is no DeeDSR" in err


def test_a_huge_picture_takes_no_more_than_its_share_of_tiles(folder):
    tiles = Diagnoser.from_pretrained(str(folder)).tiles(torch.rand(1, 3, 40, 32 * 900))
    assert 128 < len(tiles) <= 256
    assert tiles.shape[1:] == (3, 32, 32)


def test_tiles_begin_where_blocks_do(folder):
    rgb = (torch.arange(70)[:, None] * 100 + torch.arange(90)).float().expand(1, 3, 70, 90)
    corners = Diagnoser.from_pretrained(str(folder)).tiles(rgb)[:, 0, 0, 0].long().tolist()
    assert len(corners) == 9
    assert all(corner // 100 % 16 == 0 and corner % 100 % 16 == 0 for corner in corners)


def test_words_follow_the_numbers():
    def words(blur: float, noise: float, jpeg: float) -> list[str]:
        diagnosis = Diagnosis(Estimate(blur, 0.1), Estimate(noise, 1), Estimate(jpeg, 2), "light", {"light": 0.8})
        return [line.split(maxsplit=1)[1].split(":")[0] for line in diagnosis.lines()[:3]]

    assert words(0.3, 0, 100) == ["sharp", "hardly any", "hardly compressed"]
    assert words(2.5, 30, 10) == ["strongly blurred", "strong", "strongly compressed"]


def test_the_level_is_where_half_of_the_probability_lies():
    rows = torch.tensor([[0.6, 0.2, 0.2], [0.45, 0.1, 0.45], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
    assert median_level(rows).tolist() == [0, 1, 2, 1]


def test_levels_are_the_degradations():
    assert LEVELS == degradation.LEVELS

"""A model that is sent to a hub and read back, as a user does both, with a hub on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deedsr.cli import main as cli
from deedsr.models import export
from deedsr.models.card import CARD, is_ours
from deedsr.models.hub import push
from tests.models.local_hub import TOKEN, Hub, local_hub
from tests.processes import finished

ROOT, NAME = Path(__file__).parents[2], "owner/name"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """One that the hub's client takes for the hub, and a token for it."""
    with local_hub() as running:
        template = f"{running.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli._call([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def restored(model: object, picture: Path, output: Path) -> bytes:
    arguments = ["restore", picture, "-o", output, "--model", model, "--device", "cpu"]
    assert cli._call([str(argument) for argument in arguments]) == 0
    return output.read_bytes()


def test_a_model_that_was_sent_restores_the_same_pixels(
    hub: Hub,
    tmp_path: Path,
    tiny_model_folder: Path,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "mine"
    sent = call(capsys, "export", tiny_model_folder, folder, "--with-base", "--push", NAME)
    assert sent[:2] == (0, f"{folder}\n{hub.endpoint}/{NAME}\n"), sent[2]
    here = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert hub.files[NAME] == here
    expected = restored(tiny_model_folder, picture, tmp_path / "one.png")
    assert restored(NAME, picture, tmp_path / "two.png") == expected
    assert [*(tmp_path / "cache").rglob("adapter.safetensors")], "it was not downloaded"
    hub.files.clear()
    assert restored(NAME, picture, tmp_path / "three.png") == expected, "the cache is not used"
    (tmp_path / "owner").mkdir()
    (tmp_path / NAME).write_text("no model")
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "restore", picture, "-o", "four.png", "--model", NAME)[0] == 2, "what lies here comes first"


PIPELINE = """
import sys
from diffusers import DiffusionPipeline
from PIL import Image
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipeline(Image.open(sys.argv[2])).images[0].save(sys.argv[3])
"""


def test_a_pipeline_comes_from_there_as_well(hub: Hub, tmp_path: Path, tiny_model_folder: Path, picture: Path) -> None:
    """In a process of its own: diffusers' client reads the hub's address when it is imported."""
    export(tiny_model_folder, tmp_path / "mine", with_base=True)
    push(tmp_path / "mine", NAME)
    words = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PIPELINE, NAME, str(picture), str(tmp_path / "two.png")]
    done = finished(command, env={**os.environ, **words})
    assert done.returncode == 0, done.stderr
    restored(tiny_model_folder, picture, tmp_path / "one.png")
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("one.png", "two.png"))
    assert np.array_equal(first, second)


def test_a_card_that_someone_wrote_stays_on_the_hub(
    hub: Hub, tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files[NAME] = {CARD: b"mine"}
    words = ["--with-base", "--push", NAME]
    code, out, err = call(capsys, "export", tiny_model_folder, tmp_path / "one", *words)
    assert code == 0, err
    assert "its README.md has text of its own and stays: --replace-card puts this folder's there" in out
    assert hub.files[NAME][CARD] == b"mine"
    assert "adapter.safetensors" in hub.files[NAME]
    assert call(capsys, "export", tiny_model_folder, tmp_path / "two", *words, "--replace-card")[0] == 0
    ours = hub.files[NAME][CARD].decode()
    assert is_ours(ours)
    assert call(capsys, "export", tiny_model_folder, tmp_path / "three", *words)[0] == 0
    assert hub.files[NAME][CARD].decode() == ours.replace("# two", "# three"), "ours isn't written anew"
    hub.files[NAME][CARD] += b"\nAnd more.\n"
    assert "stays" in call(capsys, "export", tiny_model_folder, tmp_path / "four", *words)[1]


def test_who_may_not_write_is_told_how_and_keeps_the_folder(
    hub: Hub,
    tmp_path: Path,
    tiny_model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "other")
    folder = tmp_path / "mine"
    code, _, err = call(capsys, "export", tiny_model_folder, folder, "--with-base", "--push", NAME)
    assert (code, err.count("\n")) == (2, 1)
    assert f"deedsr: {folder} is written, but can't be sent to owner/name: Client error '401" in err
    assert f"after `hf auth login`, and where there is a network, `hf upload owner/name {folder}` sends it" in err
    assert (folder / CARD).is_file()


def test_a_repository_that_is_no_model_is_named(
    hub: Hub, tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files[NAME] = {CARD: b"a text"}
    code, _, err = call(capsys, "restore", picture, "-o", tmp_path / "one.png", "--model", NAME)
    assert code == 2
    assert err.splitlines()[-1].partition("; give")[0].endswith("adapter.safetensors: no such weight file")


@pytest.mark.parametrize("name", ["name", "a/b/c", "o wner/name", "/name", "owner/"])
def test_wrong_names_are_refused_before_any_work(
    name: str, tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "export", tiny_model_folder, tmp_path / "mine", "--with-base", "--push", name)
    assert code == 2
    assert err.startswith(f"deedsr: {name}: no name on the hub; give OWNER/NAME, of letters")
    assert not (tmp_path / "mine").exists()


def test_without_a_network_the_folder_stays(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    target = tmp_path / "mine"
    code, out, err = call(capsys, "export", tiny_model_folder, target, "--with-base", "--push", NAME)
    assert (code, out, err.count("\n")) == (2, f"{target}\n", 1)
    assert f"`hf upload {NAME} {target}` sends it" in err
    assert (target / CARD).is_file()

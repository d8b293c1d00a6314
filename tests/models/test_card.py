"""The card of a model that is handed on: what it says, what it keeps, and that the hub can read it."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from deedsr import weights
from deedsr.models import export
from deedsr.models.card import BEGIN, CARD, END, RECORD, is_ours, own_text
from deedsr.models.deedsr.folder import DEEDSR
from deedsr.models.frozen.base import PART
from deedsr.models.system import ADAPTER


@pytest.fixture
def source(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A model folder to write into."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "source"))


def exported(source: Path, name: str = "mine", **words: object) -> str:
    export(source, source.parent / name, **{"with_base": True, **words})
    return (source.parent / name / CARD).read_text(encoding="utf-8")


def test_it_says_what_there_is_to_say_and_no_more(source: Path) -> None:
    text = exported(source)
    card = ModelCard(text)  # as the hub reads it
    assert card.data.to_dict() == {
        "pipeline_tag": "image-to-image",
        "library_name": "deedsr",
        "tags": ["deedsr", "diffusers", "super-resolution", "image-restoration"],
    }
    count = sum(tensor.numel() for tensor in weights.load(source / ADAPTER).tensors.values())
    assert f"# mine\n\nA DeeDSR (arXiv 2404.00661): it restores photographs, four times larger. {count:,} " in text
    assert "trained on a base of its own, which is in `base/`. It samples in 2 steps (ddim)." in text
    assert "Nothing is known of it" in text
    assert "None is stated; ask whoever made it" in text
    assert str(source.parent) not in text, "names a folder of this machine"


def test_every_file_is_there_with_its_hash(source: Path) -> None:
    listed = dict(re.findall(r"^\| (\S+) \| `(\w{64})` \|$", exported(source), re.MULTILINE))
    folder = source.parent / "mine"
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert listed.keys() == files - {CARD}
    assert f"base/unet/{PART}" in listed
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_text_and_front_matter_that_came_with_the_model_are_kept(source: Path) -> None:
    own = "# Scans\n\nOf my grandfather's slides.\n\n| step | LPIPS |\n|---|---|\n| 5 | 0.3 |"
    front = {"language": "de", "license": "mit", "base_model": "owner/base"}
    (source / CARD).write_text(f"---\n{yaml.safe_dump(front)}---\n\n{own}\n", encoding="utf-8")
    text = exported(source)
    assert own_text(text) == own
    assert text.endswith(f"{END}\n\n{own}\n")
    data = ModelCard(text).data.to_dict()
    assert front.items() <= data.items()
    assert data["pipeline_tag"] == "image-to-image"
    assert "trained on owner/base, which" in text
    assert "## Licence\n\nmit." in text
    again = source.parent / "mine"
    assert exported(again, "again") == text.replace("# mine", "# again"), "a second export changes it"
    assert "license: apache-2.0" in exported(again, "licensed", licence="apache-2.0")


def test_what_the_run_says_of_itself_goes_along(source: Path) -> None:
    config = {"model": {}, "recipe": "varied", "crop": 64, "batch": 2, "init": "/home/me/start"}
    config["data"] = {"roots": ["/home/me/photos"], "pairs": "/home/me/slides"}
    record = {"configuration": config, "photographs": {"count": 1234, "fingerprint": "abc"}}
    record["starts"] = [{"commit": "0ld"}, {"commit": "deadbeef"}]
    (source.parent / RECORD).write_text(yaml.safe_dump(record), encoding="utf-8")
    text = exported(source)
    for line in (
        "- Crops: 2 on each device at a time, of 64 pixels a side.",
        "- Data: photographs of `photos` and pairs of `slides`, 1,234 pictures; recipe of the degradations: `varied`.",
        "- Code: commit deadbeef of deedsr.",
        "- It began with the weights of `start`.",
    ):
        assert line in text
    assert "/home" not in text
    (source.parent / RECORD).unlink()
    assert exported(source.parent / "mine", "again") == text.replace("# mine", "# again"), "a second export forgets it"
    for name in ("other: 1", "- 1", "a: ["):
        (source.parent / RECORD).write_text(name)
        assert "Nothing is known" in exported(source, f"other{len(name)}")


def test_data_are_called_by_the_last_part_of_their_paths() -> None:
    from deedsr.models.card import trained_on

    listed = {"root": "/home/me/photos", "list": "/home/me/lists/good.txt"}
    assert trained_on({"roots": listed, "pairs": []}) == "photographs of `photos (good.txt)`"
    said = "photographs of `photos (good.txt)`, `more` and pairs of `slides`"
    assert trained_on({"roots": [listed, "/home/me/more"], "pairs": ["/home/me/slides"]}) == said


def test_the_licence_of_a_known_base_is_named() -> None:
    from deedsr.models.card import Made, _our_front_matter

    made = {name: Made("deedsr", name, True, 1, {}) for name in ("built-in", "stabilityai/stable-diffusion-3.5-medium")}
    found = {name: _our_front_matter(one) for name, one in made.items()}
    assert found["built-in"]["license"] == "cc-by-sa-4.0"
    assert "base_model" not in found["built-in"]
    other = found["stabilityai/stable-diffusion-3.5-medium"]
    assert (other["license"], other["license_name"]) == ("other", "stabilityai-ai-community")
    assert other["base_model"] == "stabilityai/stable-diffusion-3.5-medium"


def test_the_built_in_model_keeps_its_card_and_licence(tmp_path: Path) -> None:
    export("built-in", tmp_path / "new", with_base=False)
    text = (tmp_path / "new" / CARD).read_text(encoding="utf-8")
    assert is_ours(text)
    assert ModelCard(text).data.license == "cc-by-sa-4.0"
    assert "cc-by-sa-4.0, that of its base." in text
    assert own_text(text).startswith("# The built-in model")


@pytest.mark.parametrize(
    ("front", "message"), [("a: [", "its front matter is no YAML"), ("- a", "its front matter is a list, not names")]
)
def test_a_card_that_cannot_be_read_is_named(source: Path, front: str, message: str) -> None:
    (source / CARD).write_text(f"---\n{front}\n---\n")
    with pytest.raises(ValueError, match=rf"{CARD}: {message}") as caught:
        exported(source)
    assert "\n" not in str(caught.value)
    assert not (source.parent / "mine").exists()


def test_a_base_that_others_do_not_have_is_refused_where_it_matters(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source/base: the base is on this machine alone: add `with_base`"):
        export(source, tmp_path / "new", with_base=False, anywhere=True)
    assert not (tmp_path / "new").exists()
    DEEDSR.export(source, tmp_path / "new", with_base=False)
    assert BEGIN in (tmp_path / "new" / CARD).read_text(encoding="utf-8")

"""``stage1.probe`` on the encoder of a tiny run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from stage1.from_config import train
from stage1.probe.report import examine

Compose = Callable[..., DictConfig]


def test_probes_trained_encoders_beside_what_they_are_compared_with(tiny: Compose, tmp_path: Path) -> None:
    one = train(tiny(tmp_path / "one", "steps=3"))
    two = train(tiny(tmp_path / "two", "steps=3", "positives=same_image"))
    overrides = [f"weights={{one:{one},two:{two}}}", "crop=128", "fit.crops=5", "test.crops=4"]
    report = examine(tiny(tmp_path / "out", *overrides, f"output={tmp_path / 'out'}", config="probe"))
    assert (report["fit"], report["test"]) == (20, 8)
    rows = report["probes"]
    assert list(rows) == ["one", "two", "untrained", "hand-made", "true parameters"]
    assert rows["one"].keys() == rows["untrained"].keys() == rows["hand-made"].keys()
    assert rows["one"]["photos"] == 2
    assert rows["one"] != rows["untrained"] != rows["two"] != rows["one"]
    assert 1 / 3 < rows["true parameters"]["level"] <= 1
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"probes.json", "probes.md", "probes.png"}
    assert json.loads((tmp_path / "out" / "probes.json").read_text()) == report
    lines = (tmp_path / "out" / "probes.md").read_text().splitlines()
    assert len(lines) == 2 + len(rows) + 1
    assert len({line.count("|") for line in lines}) == 1


def test_encoders_of_other_shapes_have_their_own_untrained_one(tiny: Compose, tmp_path: Path) -> None:
    one = train(tiny(tmp_path / "one", "steps=1"))
    two = train(tiny(tmp_path / "two", "steps=1", "encoder.overrides.stem=16"))
    cfg = tiny(tmp_path, f"weights={{one:{one},two:{two}}}", "crop=128", "fit.crops=3", "test.crops=2", config="probe")
    assert list(examine(cfg)["probes"])[2:4] == ["untrained", "untrained, as two"]


def test_missing_weights_are_named(tiny: Compose, tmp_path: Path) -> None:
    cfg = tiny(tmp_path, f"weights={tmp_path / 'none.safetensors'}", config="probe")
    with pytest.raises(ValueError, match=r"none\.safetensors"):
        examine(cfg)


def test_photographs_in_both_splits_are_named(tiny: Compose, tmp_path: Path) -> None:
    file = train(tiny(tmp_path, "steps=1"))
    for words in (["test.split=train"], ["fit.split=null"]):
        with pytest.raises(ValueError, match=r"\d\.png is in both splits, (train|None) and (train|val), so nothing"):
            examine(tiny(tmp_path, f"weights={file}", *words, config="probe"))
    with pytest.raises(ValueError, match="is in both splits"):
        train(tiny(tmp_path / "run", "steps=1", "probe.every=1", "probe.fit.split=val"))


@pytest.mark.parametrize("name", ["camera", "real"])
def test_pictures_of_no_level_are_refused(tiny: Compose, tmp_path: Path, name: str) -> None:
    file = train(tiny(tmp_path, "steps=1"))
    with pytest.raises(ValueError, match=f"recipe={name} has pictures of no level"):
        examine(tiny(tmp_path, f"weights={file}", f"recipe={name}", config="probe"))

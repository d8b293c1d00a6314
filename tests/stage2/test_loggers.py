"""What a run keeps, read back by each logger's own reader: numbers, pictures and the configuration."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import DictConfig
from PIL import Image

from stage2.from_config import train

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]
NUMBERS = ("train/mse", "train/gradient_norm", "train/samples_per_second", "train/peak_gigabytes", "lr-AdamW")
SIDE = 64  # of the crops
"""What every logger has of a run of stage 2."""


@pytest.fixture
def logged(tmp_path: Path, composed: Composed, stage2_options: Options) -> Callable[..., Path]:
    """Two steps with a logger; their folder."""

    def run(logger: str, *more: str) -> Path:
        words = [f"logger={logger}", "steps=2", "trainer.log_every_n_steps=1", "pictures={every: 2, count: 2}", *more]
        train(composed("stage2", stage2_options(tmp_path / "run", "seed=7", *words)))
        return tmp_path / "run"

    return run


def test_tensorboard(logged: Callable[..., Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = logged("tensorboard")
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()
    for name in NUMBERS:
        assert [event.step for event in events.Scalars(name)][-1] == 1, name
    assert not {"hp_metric"} & set(events.Tags()["scalars"])
    (shown,) = events.Images("pictures/restored")
    assert (shown.step, shown.width, shown.height) == (0, 3 * (SIDE + 2) + 2, 2 * (SIDE + 2) + 2)
    (degraded,) = events.Images("pictures/degraded")
    assert (degraded.width, degraded.height) == (2 * (SIDE // 4 + 2) + 2, SIDE // 4 + 4)
    pixels = np.asarray(Image.open(io.BytesIO(shown.encoded_image_string)))
    assert pixels.std() > 10
    (text,) = events.Tensors("configuration/text_summary")
    words = yaml.safe_load(text.tensor_proto.string_val[0].decode().removeprefix("```yaml\n").removesuffix("```"))
    assert words == yaml.safe_load((folder / "run.yaml").read_text())["configuration"]
    assert words["seed"] == 7
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["seed"] == 7, "an empty file"


def test_csv(logged: Callable[..., Path]) -> None:
    folder = logged("csv")
    with open(folder / "csv" / "version_0" / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in NUMBERS:
        assert len([row for row in rows if row[name]]) == 2, name
    assert yaml.safe_load((folder / "csv" / "version_0" / "hparams.yaml").read_text())["seed"] == 7
    shown = Image.open(folder / "csv" / "version_0" / "pictures" / "restored-0000000.png")
    assert shown.size == (3 * (SIDE + 2) + 2, 2 * (SIDE + 2) + 2)
    logged("csv", "steps=3")
    assert (folder / "csv" / "version_0" / "metrics.csv").is_file(), "the numbers before the break are gone"
    assert (folder / "csv" / "version_1" / "metrics.csv").is_file()


def test_mlflow(logged: Callable[..., Path]) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'deedsr[loggers]'")
    folder = logged("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("deedsr").experiment_id])
    for name in NUMBERS:
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)][-1] == 1, name
    assert run.data.params["seed"] == "7"
    assert run.info.status == "FINISHED"
    files = {file.path for file in client.list_artifacts(run.info.run_id, "pictures")}
    assert files == {"pictures/restored-0000000.png", "pictures/degraded-0000000.png"}


def records(file: Path) -> Iterator[bytes]:
    """Of a .wandb file, LevelDB's log behind seven bytes: blocks of 32 KiB; parts behind checksum, length and kind."""
    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # the rest of a block
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        if place + 7 + length > len(data):  # it is still being written
            return
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


def test_wandb(logged: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'deedsr[loggers]'")
    from wandb.proto.wandb_internal_pb2 import Record

    folder = logged("wandb")
    wandb.finish()
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    deadline, found = time.monotonic() + 60, []
    while not any(record.HasField("exit") for record in found):  # written by a process of its own
        assert time.monotonic() < deadline
        time.sleep(0.1)
        found = [Record.FromString(data) for data in records(file)]
    kept = {item.key or "/".join(item.nested_key) for record in found for item in record.history.item}
    assert {*NUMBERS, "pictures/restored/count", "pictures/degraded/count"} <= kept
    words = {
        item.key or "/".join(item.nested_key): item.value_json
        for record in found
        for item in (*record.run.config.update, *record.config.update)
    }
    assert json.loads(words["seed"]) == 7
    assert len(list(file.parent.glob("files/media/images/pictures/restored_*.png"))) == 1


def test_trackio(logged: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("trackio") is None:  # imported, it would have chosen its folder
        pytest.skip("trackio is not installed: pip install 'deedsr[loggers]'")
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    folder = logged("trackio")
    (file,) = (folder / "trackio").glob("*.db")
    with sqlite3.connect(file) as stored:
        text = json.dumps([[str(cell) for cell in row] for row in stored.execute("select * from metrics")])
        assert all(name in text for name in NUMBERS)
        assert "pictures/restored" in text


def test_none_keeps_nothing_and_a_missing_package_is_named(
    logged: Callable[..., Path], composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    folder = logged("none")
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "model", "run.yaml"]
    words = "+logger._target_=no_such_package.Logger"
    with pytest.raises(ValueError, match=r"no_such_package\.Logger can't be had .*deedsr\[loggers\]"):
        train(composed("stage2", stage2_options(tmp_path / "other", "steps=1", "logger=none", words)))

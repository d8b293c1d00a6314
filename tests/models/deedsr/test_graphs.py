"""ONNX graphs beside the networks that they were made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deedsr import models
from deedsr.files import write_json
from deedsr.models.deedsr import graphs
from deedsr.models.deedsr.graphs import FOLDER, SOURCES, OnnxDeeDSR
from deedsr.options import Options
from deedsr.restorer import Restorer

pytest.importorskip("onnxruntime", reason="graphs run in onnxruntime, of the extra onnx")
pytest.importorskip("onnxscript", reason="graphs are written with onnxscript, of the extra onnx")


@pytest.fixture(scope="module")
def small_model_folder(model_folder: Callable[[int], Path]) -> Path:
    """Of two levels, one of each kind: a graph is made operation by operation."""
    return model_folder(2)


@pytest.fixture(scope="module")
def exported(small_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    models.export(small_model_folder, folder, with_base=True, onnx=True)
    return folder


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (20, 24, Options()),
        (8, 8, Options(steps=3, ensemble=2)),  # the smallest, by several steps and views
        (70, 33, Options(tile=64, batch=3)),  # more tiles at a time than a graph takes
    ],
)
def test_a_picture_is_restored_as_in_torch(exported: Path, height: int, width: int, options: Options) -> None:
    lr = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height))
    expected, found = (
        Restorer.from_pretrained(str(exported), options, "cpu", runtime=runtime).restore(lr)
        for runtime in ("torch", "onnx")
    )
    assert (found - expected).abs().max() < 1e-3
    assert expected.std() > 0.01


def test_each_network_runs_outside_torch(exported: Path) -> None:
    model = models.load_model(exported, runtime="onnx")
    assert isinstance(model, OnnxDeeDSR)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert {file.name for file in (exported / FOLDER).iterdir()} == {f"{name}.onnx" for name in model.graphs} | {
        SOURCES
    }
    assert "onnx/denoise.onnx" in (exported / "README.md").read_text(encoding="utf-8")  # with its hash


@pytest.mark.parametrize("other", [{"adapter.safetensors": "0"}, {"inputs": 1}])
def test_graphs_of_other_weights_or_inputs_are_refused(exported: Path, other: dict[str, str | int]) -> None:
    file = exported / FOLDER / SOURCES
    before = json.loads(file.read_text())
    write_json(file, {**before, **other})
    try:
        with pytest.raises(ValueError, match="made of other weights, or with other inputs; export it anew"):
            models.load_model(exported, runtime="onnx")
    finally:
        write_json(file, before)


def test_what_cannot_be_had_is_refused_with_the_way_out(small_model_folder: Path, exported: Path) -> None:
    with pytest.raises(ValueError, match=r"has no ONNX graphs; `deedsr export MODEL FOLDER --onnx` writes them"):
        models.load_model(small_model_folder, runtime="onnx")
    with pytest.raises(ValueError, match="unknown runtime 'trt'; choose one of torch, onnx"):
        models.load_model(exported, runtime="trt")
    with pytest.raises(ValueError, match="on the CPU and in float32"):
        models.load_model(exported, dtype=torch.bfloat16, runtime="onnx")
    with pytest.raises(ValueError, match="can't run as ONNX, only those of DeeDSR"):
        models.load_model("built-in-dit", runtime="onnx")


def test_a_graph_that_is_off_is_no_export(
    small_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "TOLERANCE", 1e-12)
    with pytest.raises(ValueError, match="off what torch computes"):
        models.export(small_model_folder, tmp_path / "new", with_base=True, onnx=True)
    assert not (tmp_path / "new").exists()

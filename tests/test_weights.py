"""Weight files: what is written comes back, and nothing broken, foreign or hostile gets through."""

from __future__ import annotations

import json
import os
import pickle
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deedsr import weights

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(7), "half": torch.ones(4).half()}


class Evil:
    """Unpickling it makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return weights.save(tmp_path / "made" / "w.safetensors", TENSORS, {"widths": [1, 2], "name": "ü"})


def test_tensors_and_configuration_come_back(file: Path) -> None:
    stored = weights.load(file)
    assert stored.config == weights.header(file) == {"widths": [1, 2], "name": "ü"}
    assert stored.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert stored.tensors[name].dtype == tensor.dtype
        assert torch.equal(stored.tensors[name], tensor)


def test_views_and_shared_tensors_are_written_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    file = weights.save(tmp_path / "w.safetensors", {"a": base, "b": base, "transposed": base.t(), "row": base[1]})
    stored = weights.load(file).tensors
    assert torch.equal(stored["a"], base)
    assert torch.equal(stored["b"], base)
    assert torch.equal(stored["transposed"], base.t())
    assert torch.equal(stored["row"], base[1])


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664)])
def test_files_have_the_permissions_of_ordinary_files(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        file = weights.save(tmp_path / "w.safetensors", TENSORS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == mode


def test_a_write_that_fails_leaves_the_old_file(file: Path) -> None:
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # acts like a full disk
    try:
        with pytest.raises(OSError, match=r"w\.safetensors"):
            weights.save(file, {"big": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file], "the temporary file is still there"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.safetensors: no such weight file"):
        weights.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 60, 0.5, 0.99])
def test_a_truncated_file_is_refused(file: Path, kept: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"w\.safetensors: not a whole safetensors file .*get it again"):
        weights.load(file)


@pytest.mark.parametrize("config", ["[1]", "{", "7"])
def test_a_header_that_is_no_table_is_refused(tmp_path: Path, config: str) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", metadata={"config": config})
    with pytest.raises(ValueError, match=r"w\.safetensors"):
        weights.header(tmp_path / "w.safetensors")


def test_files_of_others_have_no_configuration(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    assert weights.load(tmp_path / "w.safetensors").config == {}


@pytest.mark.parametrize("name", ["w.safetensors", "w.ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_and_never_run(tmp_path: Path, name: str, zipped: bool) -> None:
    path, trace = tmp_path / name, tmp_path / "trace"
    content = {"state_dict": {"a": torch.ones(1)}, "evil": Evil(trace)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content["evil"]))
    with pytest.raises(ValueError, match=rf"{name}: a pickle, which is not read; convert it"):
        weights.load(path)
    with pytest.raises(ValueError, match=rf"{name}: damaged, or a pickle of other things, which is not run; what"):
        weights.load_checkpoint(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(content["evil"]))
    assert trace.is_dir(), "the pickle of this test does no harm at all"


def test_reads_checkpoints_of_plain_tensors(tmp_path: Path) -> None:
    content = {"state_dict": {"a": torch.ones(2)}, "global_step": 3, "loops": [{"x": None}]}
    torch.save(content, tmp_path / "last.ckpt")
    assert str(weights.load_checkpoint(tmp_path / "last.ckpt")) == str(content)


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
YAML = b"configuration:\n  name: run\n"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"PK\x03\x04 cut off", "a file that is cut off"),
        (b"\x80\x02.", "damaged, or a pickle of other things, which is not run"),
        *((content, "no checkpoint") for content in (b"text", YAML, PNG, b"\0" * 100)),
    ],
)
def test_a_file_that_is_no_checkpoint_is_told_without_torchs_hint(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "last.ckpt").write_bytes(content)
    wanted = rf"last\.ckpt: {found}; what is wanted is a whole checkpoint of plain tensors, such as last.ckpt of a run$"
    with pytest.raises(ValueError, match=wanted):
        weights.load_checkpoint(tmp_path / "last.ckpt")


def test_a_bare_tensor_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(torch.ones(1), tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="holds a Tensor, so it is no checkpoint"):
        weights.load_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="no such checkpoint"):
        weights.load_checkpoint(tmp_path / "none.ckpt")


def test_strict_loading_names_all_that_does_not_fit() -> None:
    module = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"^f: does not fit Linear: 1 missing \(bias\); 1 unexpected \(other\); 1 of"):
        weights.load_strict(module, {"weight": torch.ones(2, 4), "other": torch.ones(1)}, "f")
    with pytest.raises(ValueError, match=r"weight is \(2, 4\), not \(2, 3\)"):
        weights.load_strict(module, {"weight": torch.ones(2, 4), "bias": torch.ones(2)}, "f")
    with pytest.raises(ValueError, match=r"4 unexpected \(w0, w1, w2, …\)"):
        weights.load_strict(module, {**module.state_dict(), **{f"w{i}": torch.ones(1) for i in range(4)}}, "f")


def test_strict_loading_copies_and_keeps_what_may_be_missing() -> None:
    module = nn.Linear(3, 2)
    bias = module.bias.detach().clone()
    weights.load_strict(module, {"weight": torch.ones(2, 3)}, "f", allow_missing={"bias"})
    assert torch.equal(module.weight, torch.ones(2, 3))
    assert torch.equal(module.bias, bias)


def test_the_header_is_plain_json(file: Path) -> None:
    length = int.from_bytes(file.read_bytes()[:8], "little")
    metadata = json.loads(file.read_bytes()[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["config"])["widths"] == [1, 2]

"""Third parties' networks: silence, no network, no code from files, and reasons."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest
import torch

from deedsr.devices import pick_device
from deedsr.metrics.evaluation import Evaluator
from deedsr.metrics.loading import Unavailable, load, missing_weights


class Payload:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (os.system, ("true",))


def test_missing_package():
    with pytest.raises(Unavailable, match=r"Foo needs the package no_such_package: pip install 'deedsr\[metrics\]'"):
        load("Foo", "no_such_package", ("checkpoints/nowhere.pth",), object, download=True)


def test_without_the_extra(monkeypatch):
    """Where pyiqa isn't installed, its columns have a reason and ours have numbers."""
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    evaluator = Evaluator(metrics=["psnr", "lpips", "fid"])
    reason = "needs the package pyiqa: pip install 'deedsr[metrics]'"
    assert evaluator.unavailable == {"lpips": f"LPIPS {reason}", "fid": f"FID {reason}"}


def test_missing_file_names_its_place():
    expected = Path(torch.hub.get_dir()) / "checkpoints" / "nowhere.pth"
    assert missing_weights(("checkpoints/nowhere.pth",)) == [str(expected)]
    with pytest.raises(Unavailable, match=r"Foo needs weights that are not on this machine: .*nowhere.pth"):
        load("Foo", "torch", ("checkpoints/nowhere.pth",), object, download=False)


def test_hub_cache_is_asked_without_a_network():
    assert missing_weights(("hub:nobody/nothing/model.safetensors",)) == ["nobody/nothing (Hugging Face cache)"]


def test_any_failure_is_a_reason_on_one_line():
    def build():
        raise RuntimeError("first line\nsecond line " + "x" * 500)

    with pytest.raises(Unavailable) as caught:
        load("Foo", "torch", (), build, download=False)
    message = str(caught.value)
    assert message.startswith("Foo could not be loaded: RuntimeError: first line second line x")
    assert len(message) < 250


def test_noise_is_dropped(capfd):
    def build():
        sys.stdout.write("Loading pretrained model\n")
        warnings.warn("an old argument", stacklevel=1)
        return 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load("Foo", "torch", (), build, download=False) == 1
    assert capfd.readouterr() == ("", "")


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state": Payload()}, path)
    before = dict(os.environ)
    with pytest.raises(Unavailable, match="Foo could not be loaded: UnpicklingError"):
        load("Foo", "torch", (), lambda: torch.load(path, weights_only=False), download=False)
    assert dict(os.environ) == before


def test_hub_client_is_offline_unless_allowed():
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    assert load("Foo", "torch", (), lambda: constants.HF_HUB_OFFLINE, download=False) is True
    assert load("Foo", "torch", (), lambda: constants.HF_HUB_OFFLINE, download=True) == before
    assert before == constants.HF_HUB_OFFLINE


def test_clip_networks_import_with_any_setuptools():
    """OpenAI's clip imports pkg_resources, which setuptools 82 dropped."""
    pytest.importorskip("pyiqa")

    def build():
        from pyiqa.archs import clipiqa_arch, liqe_arch

        return clipiqa_arch.CLIPIQA, liqe_arch.LIQE

    assert len(load("Foo", "pyiqa", (), build, download=False)) == 2


def test_device():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="device 'abacus' is not available here"):
        pick_device("abacus")

"""A model folder as a pipeline of diffusers, offline."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from deedsr.models import export
from deedsr.models.card import PIPELINE
from deedsr.options import Options
from deedsr.pipeline import RestorationPipeline
from deedsr.restorer import Restorer
from tests.processes import finished


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exported one; diffusers copies its code into a cache."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    export(tiny_model_folder, tmp_path / "model", with_base=True)
    return tmp_path / "model"


def opened(folder: Path, **words: object) -> DiffusionPipeline:
    return DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True, **words)


def picture(width: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (16, width, 3), dtype=np.uint8))


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_it_restores_as_ours_does(folder: Path, tiny_model_folder: Path) -> None:
    expected = Restorer.from_pretrained(str(tiny_model_folder))(picture()).to_pil()
    for custom in (folder, folder / PIPELINE, None):
        pipeline = opened(folder, **({} if custom is None else {"custom_pipeline": str(custom)}))
        assert isinstance(pipeline, RestorationPipeline)
        assert same(pipeline(picture()).images[0], expected)


def test_pictures_options_and_dtypes_are_heeded(folder: Path, tiny_model_folder: Path) -> None:
    pipeline = opened(folder)
    one, two = pipeline([picture(), picture(24)], outscale=2, seed=3).images
    restorer = Restorer.from_pretrained(str(tiny_model_folder), Options(outscale=2, seed=3))
    assert same(one, restorer(picture()).to_pil())
    assert same(two, restorer(picture(24)).to_pil())
    assert two.size == (48, 32)
    assert (pipeline.device.type, pipeline.dtype) == ("cpu", torch.float32)
    halved = pipeline.to(torch.bfloat16)
    assert halved.dtype == halved.model.dtype == torch.bfloat16
    assert np.asarray(halved(picture()).images[0]).shape == (64, 80, 3)


def test_what_it_cannot_take_is_one_line(folder: Path) -> None:
    pipeline = opened(folder)
    for words, message in (({"size": 2}, "^size: .*see deedsr.options.Options"), ({"steps": 0}, "steps")):
        with pytest.raises(ValueError, match=message) as caught:
            pipeline(picture(), **words)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the picture is 4x16 pixels"):
        pipeline(picture(4))


def test_a_folder_that_lost_its_model_is_refused_when_it_is_opened(folder: Path) -> None:
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(ValueError, match=r"adapter\.safetensors: no such weight file"):
        opened(folder)


def test_without_the_package_its_name_is_said(folder: Path) -> None:
    code = f"import sys; sys.modules['deedsr'] = None; exec(open({str(folder / PIPELINE)!r}).read())"
    done = finished([sys.executable, "-c", code])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: this pipeline needs the package deedsr: install it")

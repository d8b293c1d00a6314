"""Semantic fidelity through a tiny CLIP model of open_clip's own class."""

from __future__ import annotations

import json

import pytest
import torch

from deedsr.metrics.loading import Unavailable
from deedsr.metrics.semantic import ClipModel, load_semantic

open_clip = pytest.importorskip("open_clip")

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def tiny_clip(tmp_path):
    """A folder with a model's configuration and random weights."""
    torch.manual_seed(0)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": preprocess}))
    torch.save(open_clip.CLIP(**TINY).state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    return tmp_path


def test_similarity(draw, tiny_clip):
    score = load_semantic(ClipModel(f"local-dir:{tiny_clip}"))
    image, other = draw(40, 56, 1), draw(40, 56, 9)
    assert score(image, image) == pytest.approx(1, abs=1e-6)
    assert score(image, other) == pytest.approx(score(other, image))
    assert -1 <= score(image, other) < 0.9999


def test_equals_open_clip_itself(draw, tiny_clip):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}")
    image, other = draw(40, 40, 1), draw(40, 40, 9)
    from deedsr.pictures.picture import Picture

    with torch.no_grad():
        a, b = (model.eval().encode_image(preprocess(Picture(x).to_pil())[None]) for x in (image, other))
    expected = float(torch.nn.functional.cosine_similarity(a, b))
    assert load_semantic(ClipModel(f"local-dir:{tiny_clip}"))(image, other) == pytest.approx(expected, abs=1e-6)


def test_unavailable(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match=r"CLIP similarity \(ViT-B-32 laion2b_s34b_b79k\) needs weights"):
        load_semantic(ClipModel())
    with pytest.raises(Unavailable, match="not a known tag or valid file path"):
        load_semantic(ClipModel("ViT-B-32", "/nowhere/weights.bin"))
    with pytest.raises(Unavailable, match="'Eyes-9000' not found"):
        load_semantic(ClipModel("Eyes-9000", "openai"))
    with pytest.raises(Unavailable, match="could not be loaded"):
        load_semantic(ClipModel(f"local-dir:{tmp_path}"))


def test_weights_are_never_left_random(tiny_clip):
    (tiny_clip / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(Unavailable, match="Required pretrained weights"):
        load_semantic(ClipModel(f"local-dir:{tiny_clip}"))

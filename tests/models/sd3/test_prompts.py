"""Texts for pictures that are restored: from files, through tiny encoders, one picture as another."""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from PIL import Image

from deedsr import files
from deedsr.cli import main as cli
from deedsr.models import load_model, random_model
from deedsr.models.authors import DIT4SR
from deedsr.models.sd3 import encoders
from deedsr.models.sd3 import model as sd3
from deedsr.models.sd3.dit4sr import DiT4SR, DiT4SRConfig
from deedsr.models.sd3.encoders import KINDS, Encoder, embed
from deedsr.models.sd3.prompts import NEGATIVE, read_captions
from deedsr.options import Options
from deedsr.restorer import Restorer
from deedsr.training.fake_cuda.device import fake_cuda

CPU = torch.device("cpu")


@pytest.fixture
def folder(
    tmp_path: Path,
    tiny_sd3: DiT4SRConfig,
    tiny_dit4sr: DiT4SR,
    write_model: Callable[..., Path],
    write_text_encoders: Callable[..., Path],
) -> Path:
    """A model without texts, whose base has text encoders; beside it two pictures, and captions of them."""
    model = write_model(tmp_path / "model", tiny_sd3, tiny_dit4sr)
    write_text_encoders(model / "base", 48, 40)
    for number, name in enumerate(("a.png", "b.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "captions.csv").write_text('name,caption\na.png,"a car, red"\nb,a tree\n')
    return tmp_path


def restored(folder: Path, name: str, **options: object) -> torch.Tensor:
    restorer = Restorer.from_pretrained(str(folder / "model"), Options(steps=2, **options), "cpu")
    return restorer(folder / name).rgb


@pytest.mark.parametrize("length", [9, 256])
def test_a_text_is_embedded_as_the_stock_pipeline_does(folder: Path, length: int) -> None:
    base = folder / "model" / "base"
    parts = {"scheduler": FlowMatchEulerDiscreteScheduler(), "transformer": None, "vae": None}
    for number in KINDS:
        one = encoders.load(base, number, length, CPU, torch.float32)
        parts |= {f"text_encoder{number}": one.network, f"tokenizer{number}": one.tokenizer}
    pipe = StableDiffusion3Pipeline(**parts)
    words = {"prompt": "a car", "prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False}
    with torch.inference_mode():
        tokens, _, pooled, _ = pipe.encode_prompt(**words, max_sequence_length=length)
    ours = embed((str(base), None), ["a car"], length, CPU, torch.float32)["a car"]
    assert torch.equal(ours.tokens, tokens) and torch.equal(ours.pooled, pooled)
    assert ours.tokens.shape == (1, 77 + length, 48)


def test_two_captions_of_a_file_give_what_two_runs_give(folder: Path) -> None:
    both = Restorer.from_pretrained(
        str(folder / "model"), Options(steps=2, captions=folder / "captions.csv", negative="fog"), "cpu"
    )
    for name, caption in (("a.png", "a car, red"), ("b.png", "a tree")):
        alone = restored(folder, name, caption=caption, negative="fog")
        assert torch.equal(both(folder / name).rgb, alone)
        assert torch.equal(both(Image.open(folder / name), name=folder / "sub" / name).rgb, alone)
    assert not torch.equal(restored(folder, "a.png", caption="a tree"), restored(folder, "a.png", caption="a car"))


@pytest.mark.parametrize("low_memory", [False, True])
def test_where_memory_is_low_texts_are_embedded_on_the_cpu(folder: Path, low_memory: bool) -> None:
    """In half precision T5-XXL is 9.5 GB."""
    with fake_cuda() as gpu:
        options = Options(steps=1, caption="a car", tile=0)
        restorer = Restorer.from_pretrained(str(folder / "model"), options, "cuda", low_memory=low_memory)
        assert (gpu.launches["embedding"] == 0) is low_memory
        assert restorer(folder / "a.png").size == (36, 48)


def test_guidance_of_1_is_no_negative_text(folder: Path) -> None:
    plain = restored(folder, "a.png", caption="a car", text_guidance=1)
    assert torch.equal(restored(folder, "a.png", caption="a car", negative="fog", text_guidance=1), plain)
    assert not torch.equal(restored(folder, "a.png", caption="a car", negative="fog", text_guidance=3), plain)
    default = restored(folder, "a.png", caption="a car")
    assert torch.equal(restored(folder, "a.png", caption="a car", negative=NEGATIVE, text_guidance=8), default)
    assert not torch.equal(restored(folder, "a.png", caption="a car", text_length=20), default)


def test_the_authors_put_words_behind_captions(folder: Path) -> None:
    model = load_model(folder / "model")
    for preset, text in ((None, "a car"), ("authors", f"a car {DIT4SR['words']}")):
        options = Options(preset=preset, caption="a car")
        found = model.texts(options, model.settings(options), CPU)
        assert found is not None
        told, negative = found("any.png")
        expected = embed(model.base, [text, NEGATIVE], 256, CPU, torch.float32)
        assert torch.equal(told.tokens, expected[text].tokens)
        assert torch.equal(negative.pooled, expected[NEGATIVE].pooled)


def test_who_is_told_nothing_says_so_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    files._warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            restorer = Restorer.from_pretrained(str(folder / "model"), Options(steps=2), "cpu")
            assert restorer.notes == [sd3.UNTOLD]
    assert [record.message for record in caplog.records if record.name == files.__name__] == [sd3.UNTOLD]
    quiet = Restorer.from_pretrained(str(folder / "model"), Options(steps=2, text_guidance=1), "cpu")
    assert quiet.notes == []
    assert torch.equal(restorer(folder / "a.png").rgb, quiet(folder / "a.png").rgb)
    spread = Restorer.from_pretrained(str(folder / "model"), Options(text_guidance=1, spacing="leading"), "cpu")
    assert spread.notes == ["`spacing` changes nothing: this model's times are spread in one way alone"]
    with pytest.raises(ValueError, match="guidance by text needs one: give `caption`"):
        Restorer.from_pretrained(str(folder / "model"), Options(text_guidance=8), "cpu")
    with pytest.raises(ValueError, match="takes no text: leave caption"):
        Restorer.from_pretrained("built-in", Options(caption="a car"), "cpu")
    with pytest.raises(ValueError, match=r"base: its text encoders can't be had .* give `embeddings`"):
        Restorer.from_pretrained("built-in-dit", Options(caption="a car"), "cpu")


def test_a_picture_without_a_caption_is_named_or_gets_that_of_all(folder: Path) -> None:
    (folder / "captions.csv").write_text("name,caption\nb,a tree\n")
    with pytest.raises(ValueError, match=r"a\.png: has no text in .*captions\.csv; add it, or give `caption`"):
        restored(folder, "a.png", captions=folder / "captions.csv")
    told = restored(folder, "a.png", captions=folder / "captions.csv", caption="a car")
    assert torch.equal(told, restored(folder, "a.png", caption="a car"))


def test_captions_come_in_four_ways(tmp_path: Path) -> None:
    expected = {"a.png": 'a "red" car,\nold', "sub/b": "ein Baum: grün", "c": ""}
    rows = [{"caption": caption, "name": name} for name, caption in expected.items()]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    quoted = ['"' + caption.replace('"', '""') + '"' for caption in expected.values()]
    for end, mark in ((".csv", ","), (".tsv", "\t")):
        lines = [mark.join(pair) for pair in zip(expected, quoted, strict=True)]
        (tmp_path / f"c{end}").write_text(f"\ufeffname{mark}caption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    for end in (".jsonl", ".csv", ".tsv"):
        assert read_captions(tmp_path / f"c{end}") == expected
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a car\n")
    assert read_captions(tmp_path / "texts") == {"a": "a car"}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("none.csv", None, "no such file of captions"),
        ("c.txt", "a", r"captions come from \.csv, \.tsv, \.jsonl or a folder"),
        ("c.csv", "file,text\na,b\n", "its entry 1 has no name or no caption"),
        ("c.csv", "name,caption\na,b\nc\n", "its entry 2 has no name or no caption"),
        ("c.csv", "name,caption\na,b\na,c\n", "has two captions of a; leave one"),
        ("c.csv", "name,caption\n", "holds no captions"),
        ("c.jsonl", "{", r"can't be read as \.jsonl"),
        ("c.jsonl", "[1]\n", "its entry 1 has no name"),
        ("c.tsv", b"name\tcaption\na\t\xff\n", r"can't be read as \.tsv in UTF-8"),
    ],
)
def test_a_file_of_captions_that_is_wrong_is_named(
    tmp_path: Path, file: str, content: str | bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=f"{file}: .*{message}"):
        read_captions(tmp_path / file)


def test_texts_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="embeddings are texts already"):
        Options(caption="a", embeddings=tmp_path)
    with pytest.raises(ValueError, match="give `caption` or `captions`, too"):
        Options(negative="fog")
    with pytest.raises(ValueError, match="text length is 0"):
        Options(text_length=0)


def test_the_command_line_tells_pictures_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [str(folder / name) for name in ("a.png", "b.png")]
    shared = ["--model", str(folder / "model"), "--steps", "2", "--device", "cpu"]
    told = ["--captions", str(folder / "captions.csv"), "--negative", "fog"]
    assert cli._call(["restore", *inputs, "-o", str(folder / "told"), *shared, *told]) == 0
    assert capsys.readouterr().err == ""
    for name, caption in (("a.png", "a car, red"), ("b.png", "a tree")):
        picture = np.asarray(Image.open(folder / "told" / name))
        expected = restored(folder, name, caption=caption, negative="fog")
        assert np.array_equal(picture, (expected[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8))
    assert cli._call(["restore", *inputs, "-o", str(folder / "untold"), *shared]) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--caption, --captions or --embeddings tell it more" in error


FULL = {
    "": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "projection_dim": 768},
    "_2": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "projection_dim": 1280},
    "_3": {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128},
}
HEADS = {"": 12, "_2": 20}


def test_the_text_encoders_are_gone_before_the_transformer_runs(
    shared: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """At full size in bfloat16, on a GPU that knows shapes alone: 9.8 GB of T5, then 5.8 GB of all else, never both."""
    transformers = pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("fakecuda", shared / "tools" / "fakecuda.py")
    assert spec is not None and spec.loader is not None
    fakecuda = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fakecuda)
    tokenizer = encoders.load(folder / "model" / "base", "", 9, CPU, torch.float32).tokenizer
    loaded: list[float] = []

    def held() -> float:
        """GB on the GPU."""
        gc.collect()
        fakes = [one for one in gc.get_objects() if isinstance(one, fakecuda.FakeTensor) and one.device.type == "cuda"]
        return sum({one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in fakes}.values()) / 1e9

    def load(place: Path, number: str, length: int, device: torch.device, dtype: torch.dtype) -> Encoder:
        if number == "_3":
            kind = transformers.T5EncoderModel
            config = transformers.T5Config(**FULL[number], feed_forward_proj="gated-gelu")
        else:
            kind = transformers.CLIPTextModelWithProjection
            config = transformers.CLIPTextConfig(**FULL[number], num_attention_heads=HEADS[number])
        with torch.device("meta"):
            network = kind(config).to(dtype)
        network.to(device)
        loaded.append(held())
        return Encoder(tokenizer, network, length if number == "_3" else None)

    monkeypatch.setattr(encoders, "load", load)
    with torch.device("meta"):
        model = random_model("dit4sr").to(torch.bfloat16)
    model.base = (str(folder / "model" / "base"), None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # asks for a driver
    running: list[float] = []

    class Begins(Exception):
        pass

    def begin(*_: object) -> None:
        running.append(held())
        raise Begins

    model.transformer.register_forward_pre_hook(begin)
    with fakecuda.fake_cuda():
        restorer = Restorer(model, Options(caption="a car", steps=1), device=torch.device("cuda"))
        with pytest.raises(Begins):
            restorer.restore(torch.rand(1, 3, 128, 128))
    assert loaded == pytest.approx([0.247, 1.389, 9.788], rel=0.01)
    assert len(running) == 1
    assert running[0] < 6

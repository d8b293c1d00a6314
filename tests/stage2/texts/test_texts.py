"""Texts of photographs: written, embedded, and handed to the model with their crops."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from deedsr import weights
from deedsr.data.photos import PhotoCrops, decode, list_photos
from deedsr.models import load_model
from deedsr.models.frozen.base import stock, write_part, write_scheduler
from deedsr.models.sd3.dit4sr import SMALL
from stage2.cache.writing import make_cache
from stage2.from_config import train
from stage2.texts import captioners, encoders
from stage2.texts.embedded import Texts

Composed = Callable[[str, list[str]], DictConfig]
SUFFIX = "stems/{}.safetensors"


def write_texts(folder: Path, stems: list[str]) -> Path:
    """Texts of 3 tokens of width 8; each stem's own number is all that they hold."""
    for number, stem in enumerate(stems, 1):
        single = {"tokens": torch.full((3, 8), float(number)), "pooled": torch.full((8,), float(number))}
        weights.save(folder / SUFFIX.format(stem), single)
    fixed = {
        f"{name}.{part}": torch.zeros(1, *shape)
        for name in ("null", "positive", "negative")
        for part, shape in (("tokens", (3, 8)), ("pooled", (8,)))
    }
    fixed["positive.tokens"] += 1
    weights.save(folder / "texts.safetensors", fixed)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3") / "base"
    tiny = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16}
    transformer = {**SMALL.transformer, **tiny, "joint_attention_dim": 8, "pooled_projection_dim": 8}
    torch.manual_seed(1)
    write_part(folder / "transformer", stock(transformer).state_dict(), transformer)
    vae = {**SMALL.vae, "encoder_block_out_channels": [8, 8, 16], "decoder_block_out_channels": [8, 8, 16]}
    vae |= {"encoder_layers_per_block": [0, 1, 1], "decoder_layers_per_block": [0, 1, 1]}
    write_part(folder / "vae", stock(vae).state_dict(), vae)
    write_scheduler(folder, SMALL.scheduler)
    return folder


def words(photos: Path, base: Path, output: Path, *more: str) -> list[str]:
    quiet = ["trainer=cpu", "trainer.enable_progress_bar=false", "data.workers=0", "checkpoint_every=1000"]
    files = [f"data.roots=[{photos}]", f"model.base={base}", f"output={output}", "model=dit4sr", "steps=1"]
    return [*quiet, *files, "crop=64", "batch=2", *more]


def test_each_crop_has_the_text_of_its_photograph(photos: Path, tmp_path: Path) -> None:
    files = list_photos(photos)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    listed = [*files, tmp_path / "photos" / "broken.png"]
    texts = Texts(write_texts(tmp_path / "texts", [file.stem for file in files]), 0.0)
    plain, told = PhotoCrops(listed, 32, 1, 4), PhotoCrops(listed, 32, 1, 4, text=texts)
    for step in range(8):
        for sample in range(4):
            crop = told.sample(step, sample)
            assert torch.equal(crop.hr, plain.crop(step, sample))
            number = int(crop.pooled[0])
            photo = torch.from_numpy(told.photo(number - 1).copy()).permute(2, 0, 1)
            windows = photo.unfold(1, 32, 1).unfold(2, 32, 1)  # the crop is cut out of that photograph
            mean = crop.hr.float().mean((1, 2))
            assert ((windows.float().mean((-1, -2)) - mean[:, None, None]).abs().amax(0) < 1e-3).any()


def test_a_share_is_told_nothing_and_a_missing_text_is_named(photos: Path, tmp_path: Path) -> None:
    files = list_photos(photos)
    folder = write_texts(tmp_path, [file.stem for file in files])
    crops = PhotoCrops(files, 32, 1, 1, text=Texts(folder, 0.2))
    null = [not crops.sample(step, 0).tokens.any() for step in range(300)]
    assert 30 < sum(null) < 90
    (folder / SUFFIX.format(files[0].stem)).unlink()
    with pytest.raises(ValueError, match=rf"{files[0].name}: has no text .*stage2\.texts\.captions"):
        Texts(folder, 0.0)(files[0], torch.Generator())
    weights.save(folder / "texts.safetensors", {"positive.tokens": torch.zeros(1, 3, 8)})
    with pytest.raises(ValueError, match="has no empty text"):
        Texts(folder, 0.0)


def test_training_and_its_cache_see_the_texts(photos: Path, base: Path, composed: Composed, tmp_path: Path) -> None:
    texts = f"model.texts={write_texts(tmp_path / 'texts', [file.stem for file in list_photos(photos)])}"
    train(composed("stage2", words(photos, base, tmp_path / "told", texts)))
    model = load_model(tmp_path / "told" / "model")
    assert torch.equal(model.positive_tokens, torch.ones(1, 3, 8))
    make_cache(
        composed(
            "cache", [*words(photos, base, tmp_path, texts), f"cache={tmp_path / 'cache'}", "batches=1", "shard=1"]
        )
    )
    cached = words(photos, base, tmp_path / "cached", texts, f"cache={tmp_path / 'cache'}")
    train(composed("stage2", cached))
    told, again = (weights.load(tmp_path / name / "model/adapter.safetensors").tensors for name in ("told", "cached"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in told.items())
    train(composed("stage2", words(photos, base, tmp_path / "untold", texts, "null_text=1")))
    untold = weights.load(tmp_path / "untold/model/adapter.safetensors").tensors
    assert any(not torch.equal(tensor, untold[name]) for name, tensor in told.items())
    for wrong, message in (
        ("model.texts=null", "made with texts="),
        ("null_text=1", r"made with null_text=0\.2, not 1"),
    ):
        with pytest.raises(ValueError, match=message):
            train(composed("stage2", [*cached, f"output={tmp_path / 'other'}", wrong]))


def test_captions_are_written_once(photos: Path, composed: Composed, tmp_path: Path) -> None:
    def caption(captioner: str, *more: str) -> Path:
        options = [f"data.roots=[{photos}]", f"captions={tmp_path / 'captions'}", f"captioner={captioner}", *more]
        return captioners.write(composed("captions", options))

    folder = caption("words", "words=a street")
    (folder / "0.txt").write_text("mine")
    assert caption("none") == folder
    assert sorted(file.name for file in folder.iterdir()) == [f"{number}.txt" for number in range(4)]
    assert [(folder / f"{number}.txt").read_text().strip() for number in (0, 1)] == ["mine", "a street"]
    (folder / "2.txt").unlink()
    with pytest.raises(ValueError, match=r"2\.txt: missing; captioner=files needs"):
        caption("files")
    with pytest.raises(ValueError, match="unknown captioner 'poet'; there are: none, words, files, transformers:ID"):
        caption("poet")


def test_a_corrupt_photograph_gets_no_caption(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    roots = tmp_path / "photos"
    roots.mkdir()
    (roots / "a.png").write_bytes(b"no picture")
    Image.new("RGB", (5, 4)).save(roots / "b.png")
    monkeypatch.setattr(captioners, "captioner", lambda _: lambda photo: str(decode(photo.read_bytes()).size))
    with caplog.at_level(logging.WARNING):  # the command line's tests switch it off
        folder = captioners.write(composed("captions", [f"data.roots=[{roots}]", f"captions={tmp_path / 'captions'}"]))
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"b.txt": "(5, 4)\n"}
    assert "a.png: not a picture, left out" in caplog.text


def test_what_is_said_of_damage_is_left_out() -> None:
    text = "A red car on a road. The background is blurry and out of focus. It's sunny! The image is of low quality."
    assert captioners.without_damage(text) == "A red car on a road. It's sunny!"


@pytest.fixture(scope="module")
def text_encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny encoders of texts in diffusers' layout; their words are single letters."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    vocabulary = {"<pad>": 0, "<end>": 1, "<unknown>": 2, **{chr(97 + number): 3 + number for number in range(26)}}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unknown>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>", model_max_length=77
    )
    clip = {"vocab_size": 29, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "eos_token_id": 1}
    clip |= {"num_attention_heads": 2, "projection_dim": 4, "bos_token_id": 1, "pad_token_id": 0}
    t5 = {"vocab_size": 29, "d_model": 20, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    torch.manual_seed(0)
    one, two = (transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**clip)) for _ in range(2))
    three = transformers.T5EncoderModel(transformers.T5Config(**t5))
    pipe = StableDiffusion3Pipeline(
        transformer=None,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=one,
        tokenizer=tokenizer,
        text_encoder_2=two,
        tokenizer_2=tokenizer,
        text_encoder_3=three,
        tokenizer_3=tokenizer,
    )
    folder = tmp_path_factory.mktemp("encoders")
    pipe.save_pretrained(folder)
    return folder


def test_texts_are_embedded_once(text_encoders: Path, composed: Composed, tmp_path: Path) -> None:
    (tmp_path / "captions").mkdir()
    for stem, text in (("one", "a car"), ("two", "a tree"), ("same", "a car")):
        (tmp_path / "captions" / f"{stem}.txt").write_text(f"{text}\n")
    options = [f"captions={tmp_path / 'captions'}", f"texts={tmp_path / 'texts'}", f"base={text_encoders}"]
    options += ["dtype=float32", "device=cpu"]
    folder = encoders.write(composed("embed", options))
    one, two, same = (weights.load(folder / SUFFIX.format(stem)).tensors for stem in ("one", "two", "same"))
    assert {name: tuple(tensor.shape) for name, tensor in one.items()} == {"tokens": (154, 20), "pooled": (8,)}
    assert torch.equal(one["tokens"], same["tokens"])
    assert not torch.allclose(one["tokens"], two["tokens"])
    fixed = weights.load(folder / "texts.safetensors").tensors
    assert fixed.keys() == {f"{name}.{part}" for name in ("null", "positive", "negative") for part in one}
    assert fixed["null.tokens"].shape == (1, 154, 20)
    before = (folder / SUFFIX.format("one")).stat().st_mtime_ns
    (folder / SUFFIX.format("two")).unlink()
    encoders.write(composed("embed", options))
    assert (folder / SUFFIX.format("two")).is_file()
    assert (folder / SUFFIX.format("one")).stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="text encoders can't be had"):
        encoders.write(composed("embed", [*options, f"base={tmp_path}"]))

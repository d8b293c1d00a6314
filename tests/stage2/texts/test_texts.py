"""Texts of photographs: written, embedded, and handed to the model with their crops."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from deedsr import weights
from deedsr.data.photos import PhotoCrops, decode, list_photos
from deedsr.models import load_model
from deedsr.models.frozen.base import Base, stock, write_part, write_scheduler
from deedsr.models.sd3.dit4sr import SMALL
from deedsr.models.sd3.folder import DIT4SR
from deedsr.models.sd3.lr_stream import LRStream
from deedsr.models.system import Header
from deedsr.options import Options
from deedsr.restorer import Restorer
from stage2.cache.writing import make_cache
from stage2.from_config import train
from stage2.restore.job import restore
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
def text_encoders(tmp_path_factory: pytest.TempPathFactory, write_text_encoders: Callable[..., Path]) -> Path:
    return write_text_encoders(tmp_path_factory.mktemp("encoders"), 20, 8)


@pytest.fixture
def told(write_text_encoders: Callable[..., Path], base: Path, tmp_path: Path) -> Path:
    """A folder with ``model``, whose base has text encoders, ``captions``, and two pictures."""
    config = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16}
    transformer = {**SMALL.transformer, **config, "joint_attention_dim": 20, "pooled_projection_dim": 8}
    shutil.copytree(base, tmp_path / "model" / "base")
    write_part(tmp_path / "model" / "base" / "transformer", stock(transformer).state_dict(), transformer)
    write_text_encoders(tmp_path / "model" / "base", 20, 8)
    DIT4SR.save(tmp_path / "model", *fresh(tmp_path / "model"))
    (tmp_path / "captions").mkdir()
    for number, (stem, text) in enumerate((("one", "a car"), ("two", "a tree"))):
        (tmp_path / "captions" / f"{stem}.txt").write_text(f"{text}\n")
        Image.effect_noise((9, 12), 40 + number).convert("RGB").save(tmp_path / f"{stem}.png")
    return tmp_path


def test_many_pictures_are_told_apart(told: Path, composed: Composed) -> None:
    """By `stage2.restore`, as by the restorer; other captions in the same file make other pictures."""
    options = [f"ckpt={told / 'model'}", f"input=[{told / 'one.png'},{told / 'two.png'}]", f"output={told / 'out'}"]
    options += ["trainer=cpu", "trainer.enable_progress_bar=false", "options.steps=2"]
    cfg = composed("restore", [*options, f"options.captions={told / 'captions'}", "options.negative=fog"])
    assert restore(cfg) == {"restored": 2, "kept": 0, "failed": 0}
    both = Options(steps=2, captions=told / "captions", negative="fog")
    restorer = Restorer.from_pretrained(str(told / "model"), both, "cpu")
    for stem in ("one", "two"):
        expected = restorer(told / f"{stem}.png").to_pil()
        assert Image.open(told / "out" / f"{stem}.png").tobytes() == expected.tobytes()
    assert restore(cfg)["kept"] == 2
    (told / "captions" / "two.txt").write_text("a sea\n")
    assert restore(cfg)["restored"] == 2


def test_embedded_texts_are_restored_with(told: Path, composed: Composed, tmp_path: Path) -> None:
    """By picture from the folder, one for all from the file in it: what captions as long give, to the bit."""
    options = [
        f"captions={tmp_path / 'captions'}",
        f"texts={tmp_path / 'texts'}",
        f"base={tmp_path / 'model' / 'base'}",
    ]
    encoders.write(composed("embed", [*options, "dtype=float32", "device=cpu", "tokens=256", "negative=fog"]))

    def restored(**given: object) -> dict[str, Tensor]:
        restorer = Restorer.from_pretrained(str(tmp_path / "model"), Options(steps=2, text_guidance=3, **given), "cpu")
        return {stem: restorer(tmp_path / f"{stem}.png").rgb for stem in ("one", "two")}

    captioned = restored(captions=tmp_path / "captions", negative="fog")
    again = restored(embeddings=tmp_path / "texts")
    assert all(torch.equal(image, again[stem]) for stem, image in captioned.items())
    alike = restored(embeddings=tmp_path / "texts" / "texts.safetensors")
    positive = composed("embed", options).positive
    expected = restored(caption=positive, negative="fog")
    assert all(torch.equal(image, expected[stem]) for stem, image in alike.items())
    assert not torch.equal(alike["one"], captioned["one"])
    (tmp_path / "texts" / "stems" / "two.safetensors").unlink()
    with pytest.raises(ValueError, match=r"two\.png: has no text in .*texts"):
        restored(embeddings=tmp_path / "texts")
    with pytest.raises(ValueError, match="no such embeddings"):
        restored(embeddings=tmp_path / "none")


def fresh(folder: Path) -> tuple[dict[str, Tensor], Header]:
    """A random LR stream on the base in `folder`, and the header of its model."""
    header = Header("base", LRStream(qk_init="clone"), {"sampler": "euler", "steps": 2})
    model = DIT4SR.model_on_base(Base.open(folder / "base"), header)
    for _, parameter in model.trainable():
        torch.nn.init.normal_(parameter, std=0.2)
    return dict(model.trainable()), header


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

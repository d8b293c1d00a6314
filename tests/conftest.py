"""Tiny models of the real classes, and what ../shared holds, for all tests."""

from __future__ import annotations

import dataclasses
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

# Before torch is loaded, here and in the processes that tests start:
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")  # MKL's exp else differs by the maker of the processor
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of several processes would wait for each other
os.environ.setdefault("PYTHONFAULTHANDLER", "1")  # see tests/processes.py
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts in the background what is deaf to Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import torch
from PIL import Image

from deedsr import weights
from deedsr.metrics.catalogue import METRICS
from deedsr.metrics.loading import missing_weights
from deedsr.models.deedsr.adapter_config import AdapterConfig
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.folder import DEEDSR, ENCODER, DeeDSRNumbers
from deedsr.models.deedsr.model import DeeDSR, random_model
from deedsr.models.deedsr.sizes import DeeDSRConfig, model_size
from deedsr.models.frozen.base import stock, write_part, write_scheduler
from deedsr.models.sd3.dit4sr import SMALL
from deedsr.models.system import Header

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def make_photos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """`make_photos(count)`: a folder of so many photographs of smooth noise."""

    def make(count: int) -> Path:
        folder = tmp_path_factory.mktemp("data") / "photos"
        folder.mkdir()
        random = np.random.default_rng(0)
        for number in range(count):
            small = Image.fromarray(random.integers(0, 256, (24, 30, 3), dtype=np.uint8))
            small.resize((120, 96), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def photos(make_photos: Callable[[int], Path]) -> Path:
    """Four of them."""
    return make_photos(4)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measuring data beside the repository; a test that needs it is skipped where it is not."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} does not exist: it holds the photographs and pairs for measuring")
    return SHARED


def tiny(levels: int = 3) -> DeeDSRConfig:
    """`small`, as narrow as GroupNorm lets it be. levels: so many, its last ones, in U-Net and adapter."""
    small = model_size("small")
    lasts = {"down_block_types": small.unet["down_block_types"][-levels:]}
    lasts |= {"up_block_types": small.unet["up_block_types"][:levels]}
    lasts |= {"attention_head_dim": small.unet["attention_head_dim"][-levels:], "block_out_channels": [32] * levels}
    return dataclasses.replace(
        small,
        unet={**small.unet, "in_channels": 4, "out_channels": 4, **lasts},
        vae={
            **small.vae,
            "latent_channels": 4,
            "encoder_block_out_channels": [8, 8, 16],
            "decoder_block_out_channels": [8, 8, 16],
            "encoder_layers_per_block": [0, 1, 1],
            "decoder_layers_per_block": [0, 1, 1],
        },
        encoder={"layers": [1, 1, 1, 1], "widths": [8, 8, 8, 16], "stem": 8},
        adapter=AdapterConfig(4, 32, (1,) * levels, (False, False, True)[-levels:], heads=4, maps=32, vector=16),
        sft_hidden=8,
        defaults={**small.defaults, "steps": 2},
    )


@pytest.fixture(scope="session")
def tiny_config() -> DeeDSRConfig:
    return tiny()


@pytest.fixture
def tiny_model() -> DeeDSR:
    """A DeeDSR whose fresh zero weights are random too, so that every part has a say."""
    return without_zeros(tiny())


def without_zeros(config: DeeDSRConfig) -> DeeDSR:
    torch.manual_seed(0)
    model = random_model(config)
    for _, parameter in model.trainable():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def write_base(folder: Path, config: DeeDSRConfig) -> Path:
    """A base with random weights in diffusers' layout."""
    torch.manual_seed(1)
    write_part(folder / "unet", stock(config.unet).state_dict(), config.unet)
    write_part(folder / "vae", stock(config.vae).state_dict(), config.vae)
    write_scheduler(folder, config.scheduler)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("tiny") / "base", tiny())


@pytest.fixture(scope="session")
def tiny_dit_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a DiT4SR."""
    folder = tmp_path_factory.mktemp("sd3") / "base"
    tiny = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16}
    transformer = {**SMALL.transformer, **tiny, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 8}
    transformer |= {"pooled_projection_dim": 8, "pos_embed_max_size": 16, "dual_attention_layers": [0]}
    vae = {**SMALL.vae, "latent_channels": 4, "encoder_block_out_channels": [8, 8, 16]}
    vae |= {"decoder_block_out_channels": [8, 8, 16], "encoder_layers_per_block": [0, 1, 1]}
    vae |= {"decoder_layers_per_block": [0, 1, 1]}
    torch.manual_seed(1)
    write_part(folder / "transformer", stock(transformer).state_dict(), transformer)
    write_part(folder / "vae", stock(vae).state_dict(), vae)
    write_scheduler(folder, {**SMALL.scheduler, "shift": 3.0})
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    encoder = DegradationEncoder(**tiny().encoder)
    return weights.save(tmp_path_factory.mktemp("encoder") / ENCODER, encoder.state_dict(), encoder.config())


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """`model_folder(levels)`: a whole model folder of `tiny(levels)`, base inside, for `load_model`; made once."""

    @cache
    def make(levels: int) -> Path:
        folder, config = tmp_path_factory.mktemp("model"), tiny(levels)
        write_base(folder / "base", config)
        model = without_zeros(config)
        weights.save(folder / ENCODER, model.encoder.state_dict(), model.encoder.config())
        header = Header("base", DeeDSRNumbers(config.adapter, config.sft_hidden), config.defaults)
        DEEDSR.save(folder, dict(model.trainable()), header)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_model_folder(model_folder: Callable[[int], Path]) -> Path:
    """That of all levels."""
    return model_folder(3)


@pytest.fixture(scope="session")
def make_pairs() -> Callable[..., Path]:
    """`make_pairs(folder, count, scale=4, width=…)`: parts of a photograph, and beside each its noisy, averaged LR."""

    def make(folder: Path, count: int, scale: int = 4, width: int = 336) -> Path:
        photo = Image.open(Path(__file__).parent / "data" / "rooftops.png").convert("RGB").resize((768, 512))
        random = np.random.default_rng(0)
        for role in ("lr", "hr"):
            (folder / role).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            left, top = 40 * number, 30 * number
            hr = photo.crop((left, top, left + width, top + 288))
            small = np.asarray(hr.resize((width // scale, 288 // scale), Image.Resampling.BOX))
            noisy = (small + random.normal(0, 6, small.shape)).clip(0, 255).astype(np.uint8)
            hr.save(folder / "hr" / f"{number}.png")
            Image.fromarray(noisy).save(folder / "lr" / f"{number}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def pack_pairs() -> Callable[[Path, Path], Path]:
    """`pack_pairs(folder, out)`: the pairs of a folder in two shards a side, as `tar -C lr -cf OUT .` makes them."""

    def pack(folder: Path, out: Path) -> Path:
        for role in ("lr", "hr"):
            (out / role).mkdir(parents=True)
            files = sorted((folder / role).iterdir())
            for number in range(2):
                with tarfile.open(out / role / f"{number}.tar", "w") as archive:
                    for file in files[number::2]:
                        archive.add(file, f"./{file.name}")
        return out

    return pack


@pytest.fixture(scope="session")
def needs_weights() -> Callable[[str], None]:
    """Skips a test where the weights of a metric are not on this machine."""

    def check(name: str) -> None:
        pytest.importorskip("pyiqa")
        if missing := missing_weights(METRICS[name].files):
            pytest.skip(f"weights are not on this machine: {', '.join(missing)}")

    return check


@pytest.fixture(scope="session")
def write_text_encoders() -> Callable[..., Path]:
    """`write_text_encoders(folder, width, pooled)`: those of a base of Stable Diffusion 3, tiny, in diffusers' layout.

    Their words are single letters.
    """
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")

    def write(folder: Path, width: int, pooled: int) -> Path:
        vocabulary = {"<pad>": 0, "<end>": 1, "<unknown>": 2, **{chr(97 + number): 3 + number for number in range(26)}}
        plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unknown>"))
        plain.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=plain, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>", model_max_length=77
        )
        clip = {"vocab_size": 29, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "eos_token_id": 1}
        clip |= {"num_attention_heads": 2, "projection_dim": pooled // 2, "bos_token_id": 1, "pad_token_id": 0}
        t5 = {"vocab_size": 29, "d_model": width, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        torch.manual_seed(0)
        parts = {
            number: transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**clip))
            for number in ("", "_2")
        }
        parts["_3"] = transformers.T5EncoderModel(transformers.T5Config(**t5))
        for number, part in parts.items():
            part.save_pretrained(folder / f"text_encoder{number}")
            tokenizer.save_pretrained(folder / f"tokenizer{number}")
        return folder

    return write


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which PyTorch finds no C++ compiler."""
    import torch._inductor.config  # which takes seconds

    monkeypatch.setenv("CXX", "/nowhere/cl")
    with torch._inductor.config.patch("cpp.cxx", ("/nowhere/g++",)):  # monkeypatch would hide it ever after
        yield


PLACES = {
    -2: ["stage2/test_ranks.py"],  # the longest
    -1: ["stage1/test_momentum.py", "stage1/test_train.py", "stage2/base/test_base.py", "stage2/test_launchers.py"],
    1: ["cuda/test_runs.py"],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork and train come first, those on the fake GPU last: after threads of autograd no process may fork.

    Of the last ones the longest file is the first, so that no process waits minutes for the other's.
    """
    tests = Path(__file__).parent
    places = {tests / name: place for place, names in PLACES.items() for name in names}
    items.sort(key=lambda item: places.get(item.path, 2 if "cuda" in item.path.parts else 0))

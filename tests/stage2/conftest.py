"""Made-up photographs and the real configurations, shrunk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.batch import Crops
from deedsr.data.photos import PhotoCrops
from deedsr.models import load_model
from deedsr.models.system import ADAPTER
from stage2.from_config import restoration_run, train

CONF = Path(__file__).parents[2] / "conf"

QUIET = ["trainer=cpu", "trainer.enable_progress_bar=false", "data.workers=0", "checkpoint_every=1000"]
BASE = [
    "+overrides.unet={in_channels:4,out_channels:4,block_out_channels:[32,32,32]}",
    "+overrides.vae={latent_channels:4,encoder_block_out_channels:[8,8,16],decoder_block_out_channels:[8,8,16],"
    "encoder_layers_per_block:[0,1,1],decoder_layers_per_block:[0,1,1]}",
    *("autoencoder.crop=32", "autoencoder.batch=2", "autoencoder.perceptual=null", "autoencoder.warmup=2"),
    *("denoiser.crop=48", "denoiser.batch=2", "denoiser.warmup=2"),
]
STAGE2 = [
    "+model.overrides={adapter:{in_channels:4,width:32,multipliers:[1,1,1],maps:32,vector:16},sft_hidden:8}",
    *("crop=64", "batch=2", "optimizer.warmup=2", "objective.fidelity.perceptual=0"),
]


@pytest.fixture(scope="session")
def base_options(photos: Path) -> Callable[..., list[str]]:
    """What is typed after ``python -m stage2.base`` for a tiny base: `base_options(output, "seed=2", …)`."""
    return lambda output, *more: [*QUIET, *BASE, f"data.roots=[{photos}]", f"output={output}", *more]


@pytest.fixture(scope="session")
def stage2_options(photos: Path, tiny_base: Path, tiny_encoder: Path) -> Callable[..., list[str]]:
    """What is typed after ``python -m stage2.train`` for a tiny model."""
    files = [f"data.roots=[{photos}]", f"model.base={tiny_base}", f"model.encoder={tiny_encoder}"]
    return lambda output, *more: [*QUIET, *STAGE2, *files, f"output={output}", *more]


@pytest.fixture(scope="session")
def composed() -> Callable[[str, list[str]], DictConfig]:
    """The configuration that Hydra makes of a primary's name and of what is typed."""

    def make(primary: str, options: list[str]) -> DictConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(primary, options)

    return make


class PowerCut(Exception):
    """Ends a run between two steps."""


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], AbstractContextManager]:
    """`with power_cut(n, size):` a run whose crops have that size ends when it reads those of step n."""
    whole = PhotoCrops.sample

    @contextmanager
    def armed(step: int, size: int) -> Iterator[None]:
        def broken(self: PhotoCrops, at: int, number: int) -> Crops:
            if (at, self.size) == (step, size):
                raise PowerCut
            return whole(self, at, number)

        with monkeypatch.context() as patch, pytest.raises(PowerCut):
            patch.setattr(PhotoCrops, "sample", broken)
            yield

    return armed


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager]:
    """`with signal_at(n, size, number):` a run gets this signal where it reads batch n, before it trains on n - 1."""

    @contextmanager
    def armed(batch: int, size: int, number: int, rank: int = 0) -> Iterator[None]:
        whole = PhotoCrops.sample

        def sent(self: PhotoCrops, at: int, sample: int) -> Crops:
            if (at, self.size, sample, self.rank) == (batch, size, 0, rank):
                os.kill(os.getpid(), number)
            return whole(self, at, sample)

        with monkeypatch.context() as patch:
            patch.setattr(PhotoCrops, "sample", sent)
            yield

    return armed


def assert_same(first: object, second: object, where: str) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)):
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


@pytest.fixture(scope="session")
def assert_same_runs() -> Callable[[Path, Path], None]:
    """Two folders hold the same weights, and the same checkpoints in all that training goes on from, to the bit."""

    def compare(first: Path, second: Path) -> None:
        for name in ("*.ckpt", "*.safetensors", "*config.json"):
            files = sorted(path.relative_to(first) for path in first.rglob(name))
            assert files == sorted(path.relative_to(second) for path in second.rglob(name))
            for file in files:
                if name != "*.ckpt":
                    assert (first / file).read_bytes() == (second / file).read_bytes(), file
                    continue
                states = [weights.load_checkpoint(folder / file) for folder in (first, second)]
                for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "average"):
                    assert_same(states[0].get(part), states[1].get(part), f"{file}/{part}")

    return compare


@pytest.fixture
def trained_and_resumed(
    composed: Callable, stage2_options: Callable, tmp_path: Path, assert_same_runs: Callable
) -> Callable[..., Path]:
    """The folder of a run of three steps with the words given: `trained_and_resumed("WORD=VALUE", …)`.

    The same comes of it in one go and in parts, to the bit; it changes and stores what is trainable, nothing else.
    """

    def make(*words: str) -> Path:
        common = [*words, "optimizer.schedule=constant", "optimizer.lr=0.01"]
        start = restoration_run(composed("stage2", stage2_options(tmp_path, *common))).model.state_dict()
        whole = tmp_path / "whole"
        train(composed("stage2", stage2_options(whole, *common, "steps=3")))
        for steps in (2, 3):
            train(composed("stage2", stage2_options(tmp_path / "parts", *common, f"steps={steps}")))
        assert_same_runs(whole, tmp_path / "parts")
        model = load_model(whole / "model")
        trained = {name for name, _ in model.trainable()}
        same = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, start[name])}
        assert same == start.keys() - trained
        assert weights.load(whole / "model" / ADAPTER).tensors.keys() == trained
        return whole

    return make

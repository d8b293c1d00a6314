"""Training from samples that were made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from deedsr import weights
from deedsr.training.run import BAD_BATCH
from stage2.cache.writing import make_cache
from stage2.from_config import train

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]

PLAIN = ["objective.fidelity=null", "objective.rollout=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, composed: Composed, stage2_options: Options) -> Path:
    """Four batches of two samples in two shards, with their HR crops."""
    output = tmp_path_factory.mktemp("cache")
    words = [f"cache={output / 'cache'}", "batches=4", "shard=2"]
    return make_cache(composed("cache", stage2_options(output, *words)))


def test_a_run_from_the_cache_equals_a_run_that_makes_its_samples(
    folder: Path, composed: Composed, stage2_options: Options, tmp_path: Path, assert_same_runs: Callable
) -> None:
    constant = "optimizer.schedule=constant"
    train(composed("stage2", stage2_options(tmp_path / "plain", constant, "steps=3")))
    for steps, workers in ((1, 0), (3, 1)):
        words = [constant, f"steps={steps}", f"data.workers={workers}", f"cache={folder}", "data.roots=[]"]
        train(composed("stage2", stage2_options(tmp_path / "cached", *words)))
    assert_same_runs(tmp_path / "plain", tmp_path / "cached")


def test_after_the_last_sample_they_come_again(
    folder: Path, composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    words = ["steps=3", f"cache={folder}", "trainer.accumulate_grad_batches=2"]
    train(composed("stage2", stage2_options(tmp_path, *words)))
    assert weights.load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3


def test_it_holds_bytes_and_latents_and_pictures_only_where_they_are_looked_at(
    folder: Path, composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    stored = weights.load(folder / "samples-000001.safetensors")
    kinds = {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in stored.tensors.items()}
    assert kinds == {
        "hr": ("torch.uint8", (4, 3, 64, 64)),
        "lr": ("torch.uint8", (4, 3, 16, 16)),
        "z": ("torch.float32", (4, 4, 16, 16)),
        "z_lr": ("torch.float32", (4, 4, 16, 16)),
    }
    cfg = composed("cache", stage2_options(tmp_path, f"cache={tmp_path}", "batches=1", "shard=1", *PLAIN))
    assert weights.load(make_cache(cfg) / "samples-000000.safetensors").tensors.keys() == {"lr", "z", "z_lr"}
    with pytest.raises(ValueError, match=r"made without HR crops, which objective\.fidelity needs"):
        train(composed("stage2", stage2_options(tmp_path / "run", "steps=1", f"cache={tmp_path}")))


def test_what_was_made_already_is_left_alone(
    folder: Path, composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    first, second = sorted(folder.iterdir())
    kept, lost = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    with pytest.raises(ValueError, match=r"samples-000000\.safetensors: missing; make it with"):
        train(composed("stage2", stage2_options(tmp_path, "steps=1", f"cache={tmp_path}")))
    make_cache(composed("cache", stage2_options(tmp_path, f"cache={folder}", "batches=4", "shard=2")))
    assert (first.stat().st_mtime_ns, second.read_bytes()) == (kept, lost)


@pytest.mark.parametrize("word", ["recipe=light", "seed=5", "crop=32"])
def test_samples_of_another_run_are_refused(
    folder: Path, composed: Composed, stage2_options: Options, tmp_path: Path, word: str
) -> None:
    name = word.split("=")[0]
    with pytest.raises(ValueError, match=rf"was made with {name}=.*, not .*: give the run that {name}"):
        train(composed("stage2", stage2_options(tmp_path, "steps=1", f"cache={folder}", word)))
    with pytest.raises(ValueError, match=rf"made with {name}="):
        make_cache(composed("cache", stage2_options(tmp_path, f"cache={folder}", "batches=4", "shard=2", word)))


def test_a_bad_batch_from_the_cache_is_kept(
    folder: Path, composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"the loss is (nan|inf)"):
        train(composed("stage2", stage2_options(tmp_path, "steps=5", "optimizer.lr=1e30", f"cache={folder}")))
    assert weights.load(tmp_path / BAD_BATCH).tensors.keys() == {"hr", "lr", "z", "z_lr"}


def test_shards_hold_whole_batches(composed: Composed, stage2_options: Options, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batches=5 must be a multiple of shard=2"):
        make_cache(composed("cache", stage2_options(tmp_path, f"cache={tmp_path}", "batches=5", "shard=2")))

"""Stage 2 on pairs: their LR is given, no dial is turned, and runs, caches and students take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.batch import Crops
from deedsr.degradation import Recipe
from deedsr.geometry import upsample
from deedsr.models.deedsr.model import DeeDSR
from stage2.cache.writing import make_cache
from stage2.distill import student as distill
from stage2.from_config import photographs, restoration_run, train
from stage2.module import RestorationRun
from stage2.objective import Objective
from stage2.vector import Vector

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]


@pytest.fixture(scope="module")
def words(make_pairs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = make_pairs(tmp_path_factory.mktemp("pairs"), 3)
    return [f"data.pairs=[{folder}]", "data.pair_share=0.5", "optimizer.schedule=constant"]


def test_rows_of_pairs_are_as_they_are(
    words: list[str], composed: Composed, stage2_options: Options, tmp_path: Path
) -> None:
    cfg = composed("stage2", stage2_options(tmp_path, *words, "batch=6"))
    run, stream = restoration_run(cfg), photographs(cfg).stream(0, 1, 0)
    batch = Crops.stack([stream.sample(0, number) for number in range(6)])
    assert int(batch.paired.sum()) == 3
    made = run.samples(batch, torch.Generator().manual_seed(0))
    assert torch.equal(made.lr[batch.paired], batch.lr[batch.paired])
    assert torch.equal(made.hr[batch.paired], batch.hr[batch.paired])
    assert not torch.equal(made.lr[~batch.paired], batch.lr[~batch.paired])
    assert torch.allclose(made.z_lr[batch.paired], run.model.encode(upsample(made.lr / 255))[batch.paired], atol=1e-4)


def test_a_crop_has_the_context_of_its_own_lr(tiny_model: DeeDSR, words: list[str]) -> None:
    run = RestorationRun(tiny_model, Recipe.named("light"), Objective(), DictConfig({}), 1, 0.9, 0, 64, Vector(1))
    lr = torch.arange(32, dtype=torch.uint8).expand(1, 3, 32, 32)
    hr = lr.repeat_interleave(4, -1).repeat_interleave(4, -2)
    made = run.samples(Crops(hr, lr=lr, paired=torch.tensor([True])), torch.Generator().manual_seed(3))
    assert torch.equal(made.lr, lr) and made.hr.shape[-1] == 64
    left = 4 * int(made.hr[0, 0, 0, 0])
    expected = upsample(lr / 255)[..., :64, left : left + 64]
    assert torch.allclose(made.z_lr, tiny_model.encode(expected), atol=1e-4)


def test_runs_resume_and_the_cache_holds_pairs(
    words: list[str],
    pack_pairs: Callable[[Path, Path], Path],
    composed: Composed,
    stage2_options: Options,
    tmp_path: Path,
    assert_same_runs: Callable,
) -> None:
    """What was packed into shards meanwhile is the same."""
    train(composed("stage2", stage2_options(tmp_path / "whole", *words, "steps=2")))
    folder = Path(words[0].removeprefix("data.pairs=[").removesuffix("]"))
    packed = [f"data.pairs=[{pack_pairs(folder, tmp_path / 'packed')}]", *words[1:]]
    for steps, of in ((1, words), (2, packed)):
        more = [f"steps={steps}", "data.workers=2"]
        train(composed("stage2", stage2_options(tmp_path / "parts", *of, *more)))
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    cache = f"cache={tmp_path / 'cache'}"
    make_cache(composed("cache", stage2_options(tmp_path / "c", *packed, cache, "batches=2", "shard=1")))
    train(composed("stage2", stage2_options(tmp_path / "cached", *words[2:], "steps=2", cache, "data.roots=[]")))
    assert_same_runs(tmp_path / "whole", tmp_path / "cached")


def test_pairs_alone_train_students(
    words: list[str], composed: Composed, stage2_options: Options, tiny_model_folder: Path, tmp_path: Path
) -> None:
    more = [*words, f"init={tiny_model_folder}", "objective.fidelity.structure=0", "adversary.width=4"]
    cfg = composed("distill", stage2_options(tmp_path, *more, "data.roots=[]", "steps=1"))
    train(cfg, distill.student_run)
    assert weights.load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 1
    cache = [f"cache={tmp_path / 'cache'}", "batches=1", "shard=1", "data.roots=[]"]
    stored = weights.load(
        make_cache(composed("cache", stage2_options(tmp_path / "c", *words, *cache))) / "samples-000000.safetensors"
    )
    assert stored.tensors["lr"].shape == (2, 3, 16, 16)

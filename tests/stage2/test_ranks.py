"""Two processes on the CPU: both strategies train, resume, and come to what one process would."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.batch import Crops
from deedsr.data.photos import PhotoCrops
from deedsr.models import load_model
from deedsr.models.system import ADAPTER
from stage2.best import best_of
from stage2.distill import student as distill
from stage2.from_config import restoration_run, train
from stage2.measuring import Row
from tests.processes import as_two_ranks

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")

STRATEGIES = {
    "ddp": ["trainer=cpu", "+trainer.strategy=ddp"],
    "fsdp": ["trainer=fsdp", "trainer.accelerator=cpu"],
}
COMMON = [
    *("trainer.devices=2", "trainer.precision=32-true", "recompute=true"),
    *("trainer.accumulate_grad_batches=2", "optimizer.schedule=constant"),
]

LEVEL = [
    *("+model.overrides.adapter.multipliers=[1]", "+model.overrides.adapter.attention=[true]"),
    "+model.overrides.adapter.decoder=true",
]
"""One with attention, and the decoder: parameters of all kinds, and each process plans anew how each is split."""


def two_ranks(cfg: DictConfig, make_run: Callable = restoration_run, codes: Sequence[int] = (0, 0)) -> None:
    assert as_two_ranks(partial(train, cfg, make_run)) == [*codes]


@pytest.fixture(scope="module")
def small_model_folder(model_folder: Callable[[int], Path]) -> Path:
    """A whole model of one level."""
    return model_folder(1)


@pytest.fixture(scope="module")
def run_two(
    composed: Composed, stage2_options: Options, small_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    level = [*LEVEL, f"model.base={small_model_folder / 'base'}"]

    def run(strategy: str, name: str, more: Sequence[str], codes: Sequence[int] = (0, 0)) -> Path:
        output = tmp_path_factory.getbasetemp() / "ranks" / f"{strategy}-{name}"
        options = [word for word in stage2_options(output, *level, *more) if word != "trainer=cpu"]
        two_ranks(composed("stage2", [*STRATEGIES[strategy], *COMMON, *options]), codes=codes)
        return output

    return run


@pytest.fixture(scope="module")
def whole(run_two: Callable) -> dict[str, Path]:
    """The outputs of unbroken runs of two steps, two batches each."""
    return {name: run_two(name, "whole", ["steps=2"]) for name in STRATEGIES}


def test_two_ranks_resume_to_the_bit(whole: dict[str, Path], run_two: Callable, assert_same_runs: Callable) -> None:
    """After one run of fewer steps; that sharded ones do, the next test shows."""
    for steps in (1, 2):
        parts = run_two("ddp", "parts", [f"steps={steps}"])
    assert_same_runs(whole["ddp"], parts)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_signal_to_one_rank_ends_both_after_the_step(
    strategy: str, whole: dict[str, Path], run_two: Callable, signal_at: Callable, assert_same_runs: Callable
) -> None:
    """No step is saved in between; then both go on, to the bit."""
    more = ["steps=2", "checkpoint_every=1000"]
    with signal_at(1, 64, signal.SIGTERM, rank=1):
        parts = run_two(strategy, "signalled", more, codes=(128 + signal.SIGTERM, 0))
    assert weights.load_checkpoint(parts / "last.ckpt")["global_step"] == 1
    run_two(strategy, "signalled", more)
    assert_same_runs(whole[strategy], parts)


def test_an_error_with_a_sharded_model_says_what_is_lost(
    run_two: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another rank may be anywhere, so that none has the whole model; what was saved before is kept."""
    whole = PhotoCrops.sample

    def cut(self: PhotoCrops, at: int, sample: int) -> Crops:
        if at == 7:  # three steps are taken
            raise OSError("the disk is gone")
        return whole(self, at, sample)

    monkeypatch.setattr(PhotoCrops, "sample", cut)
    told = logging.FileHandler(tmp_path / "log", encoding="utf-8")
    logging.getLogger("deedsr").addHandler(told)
    try:
        parts = run_two("fsdp", "cut", ["steps=4", "checkpoint_every=2"], codes=(1, 1))
    finally:
        logging.getLogger("deedsr").removeHandler(told)
    assert weights.load_checkpoint(parts / "last.ckpt")["global_step"] == 2
    assert "what came after step 2 is lost: this happened where no rank has the whole model" in (
        tmp_path / "log"
    ).read_text(encoding="utf-8")


def test_both_strategies_come_to_the_same_weights(whole: dict[str, Path]) -> None:
    first, second = (weights.load(folder / "model" / ADAPTER).tensors for folder in whole.values())
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-5), name
    first, second = (weights.load_checkpoint(folder / "last.ckpt") for folder in whole.values())
    assert first["state_dict"].keys() == second["state_dict"].keys()
    assert first["average"]["updates"] == second["average"]["updates"] == 2
    trained = {name for name, _ in load_model(str(whole["fsdp"] / "model")).trainable()}
    assert second["state_dict"].keys() == {f"model.{name}" for name in trained}
    assert len(second["optimizer_states"][0]["state"]) == len(trained)


def test_a_student_and_its_critic_are_the_same_on_both_ranks(
    composed: Composed, stage2_options: Options, tiny_model_folder: Path, tmp_path: Path, assert_same_runs: Callable
) -> None:
    """Two runs in one go and in two; ranks that drifted apart would hang or differ."""
    start = [f"init={tiny_model_folder}", "objective.fidelity.structure=0", "adversary.width=4"]
    for name, lengths in (("whole", [2]), ("parts", [1, 2])):
        for steps in lengths:
            options = stage2_options(tmp_path / name, *start, f"steps={steps}")
            words = [*STRATEGIES["ddp"], *COMMON, *(word for word in options if word != "trainer=cpu")]
            two_ranks(composed("distill", words), distill.student_run)
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_sharded_base_may_be_stored_in_bfloat16(run_two: Callable, whole: dict[str, Path]) -> None:
    mixed = run_two("fsdp", "mixed", ["steps=1", "trainer.precision=bf16-mixed", "frozen_dtype=bfloat16"])
    tensors = weights.load(mixed / "model" / ADAPTER).tensors
    assert tensors.keys() == weights.load(whole["fsdp"] / "model" / ADAPTER).tensors.keys()
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ranks_measure_together_and_keep_one_best(
    run_two: Callable, make_pairs: Callable, small_model_folder: Path, tmp_path: Path, strategy: str
) -> None:
    pairs = make_pairs(tmp_path / "pairs", 2, width=64)
    words = [f"validation.data={pairs}", "validation.every=1", "validation.metrics=[psnr]", "validation.side=64"]
    words += ["checkpoint.monitor=val/psnr", "checkpoint.top=1", "early_stopping=patience", "steps=2"]
    output = run_two(strategy, "best", [*words, f"init={small_model_folder}"])
    found = [Row(**row) for row in weights.load_checkpoint(output / "last.ckpt")["callbacks"]["Validation"]["rows"]]
    assert [row.step for row in found] == [0, 1, 2]
    best = best_of(found, "val/psnr")
    tensors = weights.load(output / "best" / ADAPTER).tensors
    if best.step == 2:
        assert_last(tensors, output)
    else:
        assert best.step or all(
            torch.equal(tensor, tensors[name])
            for name, tensor in weights.load(small_model_folder / ADAPTER).tensors.items()
        )
    assert load_model(output / "best").trainable()


def assert_last(tensors: dict[str, torch.Tensor], output: Path) -> None:
    last = weights.load(output / "model" / ADAPTER).tensors
    assert all(torch.equal(tensor, last[name]) for name, tensor in tensors.items())

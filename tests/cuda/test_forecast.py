"""The memory of a run, known before it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from deedsr.training.fake_cuda.forecast import GIB, Need
from stage2.evaluate.forecasts import CARDS, SPARE, Forecast
from stage2.evaluate.memory import ALL, PARTS, SHIPPED, configured, needed, report

CONF = Path(__file__).parents[2] / "conf"
README = (CONF.parent / "README.md").read_text(encoding="utf-8")
ROWS = {
    name: (int(devices), f"{card} GB", int(batch), bool(recomputed), float(need))
    for name, devices, card, batch, recomputed, need in re.findall(
        r"^\| `(\w+)` \| (\d) of (\d+) GB \| (\d+)(, recomputed)? \| ([\d.]+) \|$", README, re.MULTILINE
    )
}
"""Of each experiment in the README's table: GPUs, their size, batch, whether activations are recomputed, GiB."""
EXPERIMENTS = {file.stem for file in (CONF / "experiment").glob("*.yaml")}


def benchmark(*words: str) -> DictConfig:
    with initialize_config_dir(str(CONF / "evaluate"), version_base="1.3"):
        return compose("benchmark", ["memory=true", *words])


MEASURED = {
    "deedsr_sd21": (23.6, 30.3, 166_456_384, 2 * 984_223_275),
    "dit4sr_sd35": (48.0 - 3.5, 52.5 - 3.5, 350_877_696, 2 * 2_326_991_203 + 4 * 384**2 * 1536),
}
"""GiB on an H100, see deedsr/assets/gpu.md, less what DiT4SR's norm took more then; how many parameters are trained;
bytes of the others, in bfloat16, and of DiT4SR's embedding of places."""


@pytest.mark.parametrize("name", MEASURED)
def test_memory_is_as_the_readme_says_and_as_it_was_on_a_gpu(name: str) -> None:
    """Of the others, which take as long again, only the rows are compared with their configurations."""
    allocated, reserved, trained, frozen = MEASURED[name]
    need = needed(*configured(None, name, []))
    assert need.allocated / GIB == pytest.approx(allocated, rel=0.06)
    assert need.reserved / GIB == pytest.approx(reserved, rel=0.1)  # a tensor made earlier or later moves it so much
    assert need.on(8, split=False).reserved / GIB == pytest.approx(ROWS[name][-1], rel=0.1)
    assert need.gradients == need.average == 4 * trained
    assert need.optimizer == 8 * trained
    assert need.parameters == pytest.approx(4 * trained + frozen, rel=0.01)


OTHERS = {
    **dict.fromkeys(("built_in_distill", "distill_sd21", "finetune_pairs", "finetune_photos"), "distill"),
    **dict.fromkeys(("built_in_stage1", "stage1_deedsr", "stage1_deedsr_authors"), "stage1"),
    "dit4sr_small_base": "base",
}
"""Experiments of other commands than ``stage2.train``."""


@pytest.mark.parametrize("name", SHIPPED)
def test_each_experiment_is_its_commands_and_those_for_a_gpu_fit_theirs(name: str) -> None:
    primary, run = configured(None, name, SHIPPED[name])
    assert primary == OTHERS.get(name, "stage2")
    assert [part.batch for part in PARTS[primary](run)] == [run.denoiser.batch if primary == "base" else run.batch]
    assert (name in ROWS) == (run.trainer.accelerator == "gpu" and not name.endswith("_authors"))
    if name in ROWS:
        devices, card, batch, recomputed, need = ROWS[name]
        assert devices == (ALL if run.trainer.devices == -1 else run.trainer.devices)
        assert (batch, recomputed) == (run.batch, run.get("recompute", False))
        assert need <= (1 - SPARE) * CARDS[card]
        assert card == "24 GB" or "24gb" not in name


def test_all_shipped_experiments_are_counted_but_those_that_change_a_word_of_another() -> None:
    assert SHIPPED.keys() <= EXPERIMENTS
    assert all("ablation" in name for name in EXPERIMENTS - SHIPPED.keys() - {"none"})


def test_a_small_run_is_told_with_activations_kept_and_recomputed(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    words = "words={batch:2,objective.fidelity.perceptual:0}"
    text = report(benchmark("experiment=dit4sr_small", words, f"output={file}"))
    head, _, kept, recomputed = text.splitlines()
    assert "allocated | reserved | fits" in head
    assert kept.startswith("| **dit4sr_small** | **1** | **2** | **kept** |")
    assert recomputed.startswith("| dit4sr_small | 1 | 2 | recomputed |")
    first, second = json.loads(file.read_text(encoding="utf-8"))
    assert second["need"]["activations"] < 0.7 * first["need"]["activations"]
    assert second["need"]["parameters"] == first["need"]["parameters"] > 0


def test_restoring_is_told_where_no_experiment_is_named(tmp_path: Path) -> None:
    words = ["model=small-random", "size=256", "steps=1", "options.noise_guidance=[0,0]", "dtype=bfloat16"]
    text = report(benchmark(*words, f"output={tmp_path / 'found.json'}"))
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert text.startswith("restoring to 256² with small-random in bfloat16: ")
    assert "\nwith low_memory: " in text
    assert 0 < found["parameters"] < found["allocated"] <= found["reserved"]


@pytest.mark.parametrize(("name", "less"), [("sd21", 2.0), ("dit4sr", 1.3)])
def test_models_of_full_size_restore_on_8_gb(tmp_path: Path, name: str, less: float) -> None:
    """A picture of 1024² in one piece, which takes as much as a group of tiles; guided, so that the batch is 2."""
    words = [f"model={name}-random", "size=1024", "steps=1", "options.noise_guidance=[0,0]", "dtype=bfloat16"]
    report(benchmark(*words, f"output={tmp_path / 'found.json'}"))
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    low = found["low_memory"]
    assert low["allocated"] < 0.9 * 8e9 / GIB, "a tenth to spare, as only what is kept idle can be given back"
    assert low["reserved"] < 8e9 / GIB
    assert low["allocated"] < found["allocated"] - less


def test_several_devices_hold_parts_or_copies() -> None:
    need = Need(parameters=800, gradients=80, optimizer=160, average=80, allocated=2000, reserved=2400, gathered=100)
    assert need.activations == 880
    assert need.on(1, split=True) == need
    assert need.on(8, split=False) == replace(need, allocated=2080, reserved=2480)
    split = need.on(8, split=True)
    assert (split.parameters, split.gradients, split.optimizer, split.average) == (100, 10, 20, 10)
    assert split.activations == need.activations + 100


def test_a_card_must_have_a_tenth_to_spare() -> None:
    def fits(size: float) -> str:
        return Forecast("x", 1, None, True, Need(0, 0, 0, 0, 0, int(size * GIB))).fits()

    assert [fits(0.89 * CARDS["24 GB"]), fits(0.91 * CARDS["24 GB"]), fits(79)] == ["24 GB", "80 GB", "none"]


def test_an_experiment_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^experiment=nothing can't be composed: "):
        configured(None, "nothing", [])
    with pytest.raises(
        ValueError, match=r"^experiment=finetune_pairs can't be composed: run=stage2 is another command"
    ):
        configured("stage2", "finetune_pairs", [])
    assert list(PARTS) == ["stage2", "distill", "base", "stage1"]

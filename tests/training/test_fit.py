"""The trainer of a configuration: Lightning's own doors stay open, and what can't be heeded is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from pytorch_lightning.callbacks import DeviceStatsMonitor, EarlyStopping, Timer

from deedsr.training.fit import COUNTS, REFUSED, check, make_trainer

CONF = Path(__file__).parents[2] / "conf"


def composed(*words: str, config: str = "stage2") -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config, ["data.roots=[photos]", "trainer=cpu", "trainer.enable_progress_bar=false", *words])


def test_callbacks_are_added_to_those_of_the_run(tmp_path: Path) -> None:
    early = "{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: train/mse}"
    timer = "{_target_: pytorch_lightning.callbacks.Timer, duration: '00:01:00:00'}"
    words = ["callbacks=device_stats", f"+callbacks.early={early}", f"+trainer.callbacks=[{timer}]"]
    plain, trainer = (make_trainer(composed(*more), tmp_path, 3) for more in ([], words))
    kinds = [type(callback) for callback in trainer.callbacks]
    assert {type(callback) for callback in plain.callbacks} < set(kinds)
    assert {DeviceStatsMonitor, EarlyStopping, Timer} <= set(kinds)
    assert next(one for one in trainer.callbacks if isinstance(one, EarlyStopping)).monitor == "train/mse"
    assert trainer.max_steps == 3


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_word_that_can_not_be_heeded_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.{name}=7 can't be heeded here: .+$"):
        make_trainer(composed(f"++trainer.{name}=7"), tmp_path, 3)


def test_what_lightning_takes_besides_is_taken(tmp_path: Path) -> None:
    trainer = make_trainer(composed("+trainer.gradient_clip_algorithm=value", "+trainer.min_steps=2"), tmp_path, 3)
    assert (trainer.gradient_clip_algorithm, trainer.fit_loop.min_steps) == ("value", 2)


@pytest.mark.parametrize("name", [name for name in COUNTS if name.split(".")[0] not in ("autoencoder", "denoiser")])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_what_counts_steps_is_at_least_one(name: str, value: str) -> None:
    config = "stage1" if name.startswith("probe") else "stage2"
    check(composed(f"{name}=1", config=config))
    with pytest.raises(ValueError, match=rf"^{name} must be at least 1, got {value}$"):
        check(composed(f"{name}={value}", config=config))


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("words", ["stage1 compile=true", "stage2 compile={}", "stage2 compile={mode:max-autotune}"])
def test_a_machine_without_a_compiler_is_told_so(words: str) -> None:
    config, word = words.split()
    with pytest.raises(ValueError, match=r"^compiling needs a C\+\+ compiler, which is not here: .* `compile` out$"):
        check(composed(word, config=config))


@pytest.mark.usefixtures("no_compiler")
def test_what_needs_no_compiler_is_not_refused_without_one() -> None:
    for word in ("compile=null", "compile={backend:eager}"):
        check(composed(word))
    check(composed("compile=false", config="stage1"))


def test_what_is_not_counted_is_not_refused() -> None:
    check(composed("pictures=null", "steps=1e3"))


@pytest.mark.parametrize("name", ["kind", "schedule"])
def test_an_unknown_word_of_the_optimizer_is_refused_before_anything_is_made(name: str) -> None:
    with pytest.raises(ValueError, match=f"^unknown optimizer.{name} 'other'; there are: "):
        check(composed(f"++optimizer.{name}=other"))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_a_precision_in_which_nothing_is_trained_in_float32_is_refused(precision: str) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.precision={precision} can't be had: .*Say bf16-mixed"):
        check(composed(f"trainer.precision={precision}"))
    check(composed("trainer.precision=bf16-mixed"))


def test_an_optimizer_that_takes_no_split_parameters_is_refused_where_they_are_split() -> None:
    split = "+trainer.strategy={_target_: pytorch_lightning.strategies.ModelParallelStrategy}"
    check(composed(split))
    check(composed("optimizer.kind=8bit"))
    with pytest.raises(ValueError, match=r"^optimizer\.kind=8bit can't be had with a model_parallel strategy: .*fused"):
        check(composed(split, "optimizer.kind=8bit"))


def test_batchnorm_can_be_synchronised_by_a_word(tmp_path: Path) -> None:
    words = ["trainer.devices=2", "+trainer.strategy=ddp"]
    for more, synchronised in ([], False), (["trainer.sync_batchnorm=true"], True):
        trainer = make_trainer(composed(*words, *more, config="stage1"), tmp_path, 3)
        assert (trainer.strategy._layer_sync is not None) is synchronised

"""The trainer of a configuration: Lightning's own doors stay open, and what can't be heeded is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from pytorch_lightning.callbacks import DeviceStatsMonitor, EarlyStopping, Timer

from deedsr.training.fit import REFUSED, make_trainer

CONF = Path(__file__).parents[2] / "conf"


def composed(*words: str) -> object:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("stage2", ["data.roots=[photos]", "trainer=cpu", "trainer.enable_progress_bar=false", *words])


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

"""However a run ends, its last whole step is kept, its last line says so, and going on equals an unbroken run."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from deedsr import weights
from deedsr.devices import Fetched
from deedsr.models.system import ADAPTER
from deedsr.training.fit import fit
from deedsr.training.run import Broken
from stage2.from_config import batches, restoration_run, train

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]
COMMON = ["steps=6", "checkpoint_every=4", "trainer.accumulate_grad_batches=2"]
SIZE = 64
LAST = "last.ckpt"


@pytest.fixture
def config(composed: Composed, stage2_options: Options) -> Callable[..., DictConfig]:
    return lambda output, *more: composed("stage2", stage2_options(output, *COMMON, *more))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, composed: Composed, stage2_options: Options) -> Path:
    """The output of an unbroken run of 6 steps of two batches."""
    output = tmp_path_factory.mktemp("whole")
    train(composed("stage2", stage2_options(output, *COMMON)))
    return output


def taken(output: Path) -> int:
    return weights.load_checkpoint(output / LAST)["global_step"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_ends_a_run_after_the_step_and_it_goes_on_to_the_bit(
    name: str,
    whole: Path,
    config: Callable,
    signal_at: Callable,
    tmp_path: Path,
    assert_same_runs: Callable,
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with caplog.at_level(logging.INFO), signal_at(5, SIZE, number), pytest.raises(SystemExit) as ended:
        train(config(tmp_path))  # before the first batch of its third step
    assert ended.value.code == 128 + number
    assert taken(tmp_path) == 3
    said = [record.message for record in caplog.records if record.name.startswith("deedsr.training")][-1]
    assert said == f"{name}: 3 of 6 steps are in {tmp_path / LAST} and {tmp_path / 'model'}; the same command goes on"
    assert signal.getsignal(number) == before
    assert (tmp_path / "model" / ADAPTER).is_file()
    train(config(tmp_path))
    assert_same_runs(whole, tmp_path)


@pytest.mark.parametrize("batch", [5, 6])
def test_an_error_keeps_the_last_whole_step(
    batch: int, whole: Path, config: Callable, power_cut: Callable, tmp_path: Path, assert_same_runs: Callable
) -> None:
    """Before the third step, and amid it."""
    with power_cut(batch, SIZE):
        train(config(tmp_path))
    assert taken(tmp_path) == 2
    average = weights.load_checkpoint(tmp_path / LAST)["average"]["tensors"]
    stored = weights.load(tmp_path / "model" / ADAPTER).tensors
    assert all(torch.equal(stored[name], tensor) for name, tensor in average.items())
    train(config(tmp_path))
    assert_same_runs(whole, tmp_path)


def test_a_second_interrupt_ends_at_once(
    config: Callable, signal_at: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with signal_at(5, SIZE, signal.SIGINT), signal_at(6, SIZE, signal.SIGINT), pytest.raises(SystemExit) as ended:
        train(config(tmp_path))
    assert ended.value.code == 128 + signal.SIGINT
    assert taken(tmp_path) == 2
    assert caplog.messages[-1].startswith("SIGINT: 2 of 6 steps are in ")


@pytest.mark.parametrize("works", [True, False])
def test_slurms_signal_queues_the_job_again(
    works: bool,
    whole: Path,
    config: Callable,
    signal_at: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_runs: Callable,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What `scontrol` is asked for; that the checkpoint is ours alone, and the job goes on from it."""
    asked, scontrol = tmp_path / "asked", tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $@ >> {asked}\n" if works else "#!/bin/sh\necho down >&2\nexit 1\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    job = {"JOB_ID": 7, "ARRAY_JOB_ID": 12, "ARRAY_TASK_ID": 3, "JOB_NAME": "train", "NTASKS": 1, "NTASKS_PER_NODE": 1}
    for name, value in {**job, "NNODES": 1, "NODEID": 0, "PROCID": 0, "LOCALID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    output = tmp_path / "run"
    with caplog.at_level(logging.INFO), signal_at(5, SIZE, signal.SIGUSR1), pytest.raises(SystemExit) as ended:
        train(config(output))
    assert ended.value.code == 128 + signal.SIGUSR1
    assert caplog.messages[-1] == f"job 12_3 is {'queued again' if works else 'not queued again: down'}"
    assert [path.name for path in output.glob("*.ckpt")] == [LAST] and taken(output) == 3
    if works:
        assert asked.read_text() == "requeue 12_3\n"
        train(config(output))
        assert_same_runs(whole, output)


def test_a_time_limit_keeps_what_was_taken(
    config: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, assert_same_runs: Callable
) -> None:
    with caplog.at_level(logging.INFO):
        train(
            config(tmp_path / "parts", "steps=100000", "optimizer.schedule=constant", "+trainer.max_time={seconds:1}")
        )
    steps = taken(tmp_path / "parts")
    assert 0 < steps < 100000
    assert caplog.messages[-1].startswith(
        f"trainer.max_time: {steps} of 100000 steps are in {tmp_path / 'parts' / LAST}"
    )
    assert caplog.messages[-1].endswith("the same command goes on with a longer trainer.max_time")
    train(config(tmp_path / "whole", f"steps={steps}", "optimizer.schedule=constant"))
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


class Stop(pl.Callback):
    """Tells a run to stop after its first batch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        trainer.should_stop = True


class Spoil(pl.Callback):
    """Makes a weight NaN after the third step."""

    def on_train_batch_end(self, trainer: pl.Trainer, run: pl.LightningModule, *_: object) -> None:
        if trainer.global_step == 3:
            with torch.no_grad():
                next(iter(run.model.trainable()))[1].view(-1)[0] = float("nan")


def fitted(cfg: DictConfig, output: Path, callback: pl.Callback) -> pl.Trainer:
    return fit(cfg, restoration_run(cfg), batches(cfg), output, cfg.steps, [callback])


def test_a_callback_stops_a_run_at_a_whole_step(config: Callable, tmp_path: Path) -> None:
    trainer = fitted(config(tmp_path), tmp_path, Stop())
    assert (trainer.global_step, taken(tmp_path)) == (1, 1)
    assert trainer.fit_loop.total_batch_idx + 1 == 2


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("every", [2, 3])
def test_weights_that_are_no_numbers_are_not_kept(
    config: Callable, tmp_path: Path, every: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the step that spoils them would be saved or not; and where its loss comes only then, as from a GPU."""
    if late:
        monkeypatch.setattr(Fetched, "there", False)
    with pytest.raises(Broken, match=r"(a weight is NaN or inf|the loss is nan) at step 3: take a lower learning rate"):
        fitted(config(tmp_path, f"checkpoint_every={every}"), tmp_path, Spoil())
    assert (tmp_path / LAST).is_file() == (every == 2)
    assert every == 3 or taken(tmp_path) == 2


def test_a_trial_writes_nothing_and_says_so(config: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        train(config(tmp_path / "run", "+trainer.fast_dev_run=true"))
    assert not (tmp_path / "run").exists()
    assert "fast_dev_run: 1 of 6 steps were tried; nothing is written" in caplog.messages

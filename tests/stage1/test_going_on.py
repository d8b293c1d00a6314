"""Going on under a name: what may be other is taken and noted, all else is refused, or taken in fact where asked to."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deedsr import __version__, weights
from deedsr.training import record
from stage1.from_config import train

Compose = Callable[..., DictConfig]
WORDS = ["optimizer.lr=0.001", "optimizer.schedule=constant"]
LAST = "last.ckpt"


@pytest.fixture(scope="module")
def two(tiny: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    output = tmp_path_factory.mktemp("two") / "run"
    train(tiny(output, *WORDS, "steps=2"))
    return output


@pytest.fixture
def run(two: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(two, tmp_path / "run")


def stored(output: Path) -> dict:
    return weights.load_checkpoint(output / LAST)


def starts(output: Path) -> list:
    return OmegaConf.load(output / "run.yaml").starts


def test_the_record_is_beside_the_checkpoint_and_in_it(two: Path, tiny: Compose, photos: Path) -> None:
    kept = OmegaConf.to_container(OmegaConf.load(two / "run.yaml"))
    assert kept == stored(two)["run"]
    assert kept["configuration"] == OmegaConf.to_container(tiny(two, *WORDS, "steps=2"), resolve=True)
    assert kept["photographs"]["count"] == 4
    (start,) = kept["starts"]
    assert (start["from"], start["step"], start["changes"]) == (None, 0, [])
    assert start["versions"]["torch"] == torch.__version__
    assert {"time", "host", "commit", "clean"} <= start.keys()


def test_a_checkout_that_is_not_installed_knows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str) -> str:
        if name == "deedsr":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(record, "version", installed)
    assert record.this_start(None, 0, [])["versions"]["deedsr"] == __version__


@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+encoder.overrides.vector=8", "encoder.overrides.vector: null → 8"),
        ("recipe=light", "recipe: varied → light"),
        ("seed=3", "seed: 0 → 3"),
        ("crop=32", "crop: 64 → 32"),
        ("batch=2", "batch: 4 → 2"),
        ("positives=same_image", "positives: same_degradation → same_image"),
        ("optimizer.weight_decay=0.5", "optimizer.weight_decay: 0.0001 → 0.5"),
        ("trainer.gradient_clip_val=1", "trainer.gradient_clip_val: null → 1"),
        ("data.split=null", "photographs.count: 4 → 6"),
    ],
)
def test_another_run_under_the_same_name_is_refused(two: Path, tiny: Compose, word: str, said: str, steps: int) -> None:
    """Neither "finished" nor mixed into the old one."""
    before = {path: path.stat().st_mtime_ns for path in two.rglob("*")}
    with pytest.raises(ValueError) as refused:
        train(tiny(two, *WORDS, f"steps={steps}", word))
    message = str(refused.value)
    assert message.startswith(f"{two / LAST} is of another run: ") and "\n" not in message
    assert said in message
    ways = "take another name=…, with init=… for its weights, or go on with the new values by resume=changed"
    assert message.endswith(ways)
    assert {path: path.stat().st_mtime_ns for path in two.rglob("*")} == before


def test_what_may_be_other_is_taken_and_noted(
    run: Path, tiny: Compose, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The photographs lie elsewhere, and are the same."""
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(photos.with_suffix(".tsv"), tmp_path / "photos.tsv")
    other = [f"data.roots=[{tmp_path / 'photos'}]", "checkpoint_every=3", "trainer.log_every_n_steps=2", "steps=4"]
    with caplog.at_level(logging.INFO):
        train(tiny(run, *WORDS, *other))
    assert stored(run)["global_step"] == 4
    first, second = starts(run)
    assert (first.step, second.step, second["from"]) == (0, 2, str(run / LAST))
    assert {change.split(":")[0] for change in second.changes} == {
        *("data.roots", "checkpoint_every", "trainer.log_every_n_steps", "steps")
    }
    assert "checkpoint_every: 1000 → 3" in second.changes
    assert f"going on after step 2 of {run / LAST} with {', '.join(second.changes)}" in caplog.messages


def rates(output: Path) -> dict[int, float]:
    """The learning rates in the run's log by step."""
    events = EventAccumulator(str(output)).Reload()
    return {event.step: event.value for event in events.Scalars("lr-SGD")}


def test_what_is_changed_holds_in_fact(run: Path, tiny: Compose) -> None:
    """The rate, its course and the decay, in the optimizer, in the log, and in what is learned."""
    other = ["optimizer.lr=0.004", "optimizer.weight_decay=0.3", "optimizer.schedule=milestones"]
    other += ["optimizer.milestones=[4]", "steps=6", "resume=changed"]
    train(tiny(run, *other))
    (group,) = stored(run)["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.0004), 0.3)
    assert rates(run) == pytest.approx({0: 0.001, 1: 0.001, 2: 0.004, 3: 0.004, 4: 0.0004, 5: 0.0004})
    assert starts(run)[-1].step == 2
    assert "optimizer.lr: 0.001 → 0.004" in starts(run)[-1].changes
    assert stored(run)["run"]["configuration"]["optimizer"]["lr"] == 0.004
    train(tiny(run, *other, "steps=7", "resume=auto"))
    assert stored(run)["global_step"] == 7, "from now on it is the same run"


def test_one_changed_step_is_that_of_the_new_numbers(run: Path, tiny: Compose) -> None:
    """SGD with momentum: w − lr·(m·buffer + g + wd·w), by hand from the states of before and after."""
    before = stored(run)
    train(tiny(run, *WORDS, "optimizer.lr=0.01", "optimizer.weight_decay=0.25", "steps=3", "resume=changed"))
    after = stored(run)
    name, number = "contrast.encoder.conv1.weight", 0
    buffer = after["optimizer_states"][0]["state"][number]["momentum_buffer"]
    assert after["state_dict"][name].shape == buffer.shape
    expected = before["state_dict"][name] - 0.01 * buffer
    assert torch.allclose(after["state_dict"][name], expected, atol=1e-7)
    assert not torch.allclose(after["state_dict"][name], before["state_dict"][name] - 0.001 * buffer, atol=1e-7)


def test_another_kind_of_optimizer_begins_with_no_state(run: Path, tiny: Compose) -> None:
    train(tiny(run, "optimizer=adamw", "optimizer.lr=0.001", "steps=3", "resume=changed"))
    (state,) = {frozenset(state) for state in stored(run)["optimizer_states"][0]["state"].values()}
    assert state == {"step", "exp_avg", "exp_avg_sq"}
    assert stored(run)["optimizer_states"][0]["state"][0]["step"] == 1


def test_what_is_changed_needs_a_step_to_count(run: Path, tiny: Compose) -> None:
    with pytest.raises(ValueError, match=r"run has taken its 2 steps: give more steps for what is changed to count"):
        train(tiny(run, *WORDS, "seed=1", "steps=2", "resume=changed"))


def test_fewer_steps_are_said_to_be_fewer(two: Path, tiny: Compose, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        train(tiny(two, *WORDS, "steps=1"))
    assert f"{two}: finished, 2 steps, more than the 1 asked for; give more steps to go on" in caplog.messages


def test_a_run_from_the_beginning_moves_the_old_one_aside(run: Path, tiny: Compose) -> None:
    (run / "run.log").write_text("old\n")
    handler = logging.FileHandler(run / "run.log")
    logging.getLogger().addHandler(handler)
    try:
        train(tiny(run, *WORDS, "seed=5", "steps=1", "resume=never"))
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert stored(run.with_name("run.1"))["global_step"] == 2
    assert (run.with_name("run.1") / "run.log").read_text().startswith("old")
    assert (stored(run)["global_step"], stored(run)["run"]["configuration"]["seed"]) == (1, 5)
    assert [start.step for start in starts(run)] == [0]
    train(tiny(run, *WORDS, "seed=6", "steps=1", "resume=never"))
    assert stored(run.with_name("run.2"))["run"]["configuration"]["seed"] == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.accelerator=gpu"], "this machine has no GPU"),
        (["steps=0"], "steps must be at least 1, got 0"),
        (["optimizer.kind=other"], "unknown optimizer.kind 'other'"),
        (["+trainer.max_epochs=2"], "trainer.max_epochs=2 can't be heeded here"),
        (["ckpt_path={run}/last.ckpt"], "last.ckpt is of the run that resume=never moves aside: take another name="),
        (["ckpt_path={two}/last.ckpt", "seed=9"], "last.ckpt is of another run: seed: "),
        (["data.roots=[{run}/none]"], "none: "),
    ],
)
def test_a_run_that_is_refused_stays_where_it_is(
    two: Path, run: Path, tiny: Compose, words: list[str], message: str
) -> None:
    if "GPU" in message and torch.accelerator.is_available():
        pytest.skip("there is a GPU")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(ValueError, match=message):
        train(tiny(run, *WORDS, "resume=never", *(word.format(run=run, two=two) for word in words)))
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert not run.with_name("run.1").exists()


def test_a_run_from_the_beginning_that_takes_a_checkpoint_has_its_starts_alone(
    two: Path, run: Path, tiny: Compose
) -> None:
    train(tiny(run, *WORDS, "steps=3"))
    train(tiny(run, *WORDS, "steps=4", "resume=never", f"ckpt_path={two / LAST}"))
    assert stored(run.with_name("run.1"))["global_step"] == 3
    assert [start.step for start in starts(run)] == [0, 2]


def test_a_checkpoint_elsewhere_is_gone_on_from(
    two: Path, run: Path, tiny: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*WORDS, "steps=4", f"ckpt_path={two / LAST}"]
    for output, given in ((run, []), (tmp_path / "other", words)):
        train(tiny(output, *WORDS, "steps=4", *given))
    whole, other = stored(run), stored(tmp_path / "other")
    assert all(torch.equal(tensor, other["state_dict"][name]) for name, tensor in whole["state_dict"].items())
    assert starts(tmp_path / "other")[-1]["from"] == str(two / LAST)
    with caplog.at_level(logging.INFO):
        train(tiny(tmp_path / "other", *words))
    assert "finished, 4 steps" in caplog.text
    with pytest.raises(ValueError, match=r"last\.ckpt is there already, so that ckpt_path=.* would not count"):
        train(tiny(run, *words))
    with pytest.raises(ValueError, match=r"seed: 0 → 9"):
        train(tiny(tmp_path / "third", *words, "seed=9"))


def test_a_run_of_before_records_goes_on(run: Path, tiny: Compose, caplog: pytest.LogCaptureFixture) -> None:
    (run / "run.yaml").unlink()
    checkpoint = {name: value for name, value in stored(run).items() if name != "run"}
    torch.save(checkpoint, run / "new")
    (run / "new").replace(run / LAST)  # the old one is still being read from
    with caplog.at_level(logging.INFO):
        train(tiny(run, *WORDS, "steps=3", "optimizer.lr=0.002"))
    assert f"{run / LAST}: holds no record of its configuration, so that the present one is not compared" in caplog.text
    (group,) = stored(run)["optimizer_states"][0]["param_groups"]
    assert group["lr"] == 0.002


def test_an_unknown_way_to_go_on_is_named(two: Path, tiny: Compose) -> None:
    with pytest.raises(ValueError, match="unknown resume 'yes'; choose one of auto, changed, never"):
        train(tiny(two, *WORDS, "steps=3", "resume=yes"))

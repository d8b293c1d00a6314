"""Fine-tuning: the start is a row, the best is kept, and a run that brings nothing says why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from deedsr import weights
from deedsr.data.pair_crops import PairCrops
from deedsr.data.pair_list import list_pairs
from deedsr.geometry import resize
from deedsr.metrics.fidelity import psnr
from deedsr.models import load_model
from deedsr.models.system import ADAPTER
from deedsr.restorer import Restorer
from deedsr.training.command import CONF
from deedsr.training.recipe import recipe
from deedsr.training.saving import Saving
from stage2.best import Origin, advice, best_of, verdict
from stage2.distill.student import train
from stage2.from_config import photographs
from stage2.measuring import Row, of_pairs, of_photos, validate
from stage2.watchers import validated

Config = Callable[..., DictConfig]
SMALL = [
    *("trainer=cpu", "trainer.enable_progress_bar=false", "crop=64", "batch=2", "vector.context=0", "vector.dropout=0"),
    *(
        "objective.fidelity.perceptual=0",
        "objective.fidelity.structure=0",
        "optimizer.kind=adamw",
        "optimizer.warmup=0",
    ),
    *("validation.metrics=[psnr]", "checkpoint.monitor=val/psnr", "validation.side=128", "validation.every=2"),
    *("steps=4", "optimizer.schedule=constant", "validation.images=null"),
]


LEARNS = ["optimizer.lr=0.003", "model.defaults.colour=wavelet", "+model.defaults.ensemble=2"]


class PowerCut(Exception):
    """Ends a run between two steps."""


@pytest.fixture(scope="module")
def pairs(make_pairs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pairs(tmp_path_factory.mktemp("own"), 6)


@pytest.fixture(scope="module")
def config(composed: Callable, tiny_model_folder: Path, pairs: Path) -> Config:
    words = ["experiment=finetune_pairs", f"init={tiny_model_folder}", f"data.pairs=[{pairs}]", *SMALL]
    return lambda output, *more: composed("distill", [*words, f"output={output}", *more])


def rows(output: Path) -> list[Row]:
    """Those in a run's checkpoint."""
    states = weights.load_checkpoint(output / "last.ckpt")["callbacks"]
    return [Row(**row) for row in states["Validation"]["rows"]]


def test_the_start_is_the_first_row_and_the_best_is_the_best(config: Config, tmp_path: Path) -> None:
    cfg = config(tmp_path, "checkpoint.top=1", "early_stopping=none", *LEARNS)
    train(cfg)
    found = rows(tmp_path)
    assert [row.step for row in found] == [0, 2, 4]
    best = best_of(found, "val/psnr")
    assert best.step > 0, found
    samples = of_pairs(photographs(cfg).held_pairs, None, 128)
    assert len(samples) == 2
    for row, folder in ((best, tmp_path / "best"), (found[0], cfg.init)):
        restorer = Restorer(load_model(folder))
        values = [float(psnr(restorer.restore(sample.lr), sample.hr)) for sample in samples.values()]
        assert sum(values) / 2 == pytest.approx(row.metrics["psnr"], abs=1e-4)
    assert load_model(tmp_path / "best").defaults == replace(load_model(cfg.init).defaults, ensemble=2)
    (checkpoint,) = tmp_path.glob("best-*.ckpt")
    assert checkpoint.name == f"best-{best.step:06d}.ckpt"
    card = (tmp_path / "best" / "README.md").read_text()
    assert f"| **{best.step}** | {best.metrics['psnr']:.4f} |" in card and "| 0, the start |" in card
    assert f"The best is of step {best.step}: psnr" in card and "better than the start's" in card
    assert f"Start: `{Path(cfg.init).name}`. Data: pairs of `own0`, 4 pictures, 2 others to validate on." in card


def test_photographs_are_held_back_and_always_degraded_in_the_same_way(
    composed: Callable, tiny_model_folder: Path, pairs: Path, tmp_path: Path
) -> None:
    words = ["experiment=finetune_photos", f"init={tiny_model_folder}", f"data.roots=[{pairs / 'hr'}]", *SMALL, *LEARNS]
    cfg = composed("distill", [*words, f"output={tmp_path}"])
    data, again = photographs(cfg), photographs(cfg)
    samples, same = validated(cfg, data), validated(cfg, again)
    assert [*samples] == [*same] == [photo.stem for photo in data.held_photos] and len(samples) == 2 == len(data) - 2
    for stem, sample in samples.items():
        assert torch.equal(sample.lr, same[stem].lr) and torch.equal(sample.hr, same[stem].hr)
        assert not torch.allclose(sample.lr, resize(sample.hr, sample.lr.shape[-2:]), atol=0.02)
    train(cfg)
    found = rows(tmp_path)
    best = best_of(found, "val/psnr")
    assert [row.step for row in found] == [0, 2, 4] and best.step > 0, found
    for row, folder in ((found[0], cfg.init), (best, tmp_path / "best")):
        restorer = Restorer(load_model(folder))
        values = [float(psnr(restorer.restore(sample.lr), sample.hr)) for sample in samples.values()]
        assert sum(values) / 2 == pytest.approx(row.metrics["psnr"], abs=1e-4)


GOES_ON = ["checkpoint_every=3", "steps=6", *LEARNS, "early_stopping.patience=20"]


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an unbroken run."""
    output = tmp_path_factory.mktemp("whole")
    train(config(output, *GOES_ON))
    return output


@pytest.mark.parametrize(("killed", "saved"), [(True, 3), (False, 4)])
def test_a_broken_run_that_goes_on_equals_an_unbroken_one(
    config: Config,
    whole: Path,
    tmp_path: Path,
    assert_same_runs: Callable,
    monkeypatch: pytest.MonkeyPatch,
    killed: bool,
    saved: int,
) -> None:
    crops, parts = PairCrops.sample, tmp_path / "parts"

    def broken(self: PairCrops, step: int, number: int) -> object:
        if step == 5:
            raise PowerCut
        return crops(self, step, number)

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(PairCrops, "sample", broken)
        if killed:
            patch.setattr(Saving, "on_exception", lambda *_: None)
        train(config(parts, *GOES_ON))
    assert weights.load_checkpoint(parts / "last.ckpt")["global_step"] == saved
    train(config(parts, *GOES_ON))
    assert_same_runs(whole, parts)
    one, other = (weights.load_checkpoint(output / "last.ckpt")["callbacks"] for output in (whole, parts))
    assert [row["step"] for row in one["Validation"]["rows"]] == [0, 2, 4, 6]
    for name in ("Validation", *(name for name in one if name.startswith("Patience"))):
        assert one[name] == other[name]
    assert len(one) == len(other) == 2
    cards = [(output / "best" / "README.md").read_text() for output in (whole, parts)]
    assert cards[0] == cards[1]


def test_a_run_that_brings_nothing_keeps_the_start_as_it_was(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cfg = config(tmp_path, "optimizer.lr=0.03", "early_stopping.patience=2", "steps=8")
    train(cfg)
    start, result = weights.load(Path(cfg.init) / ADAPTER), weights.load(tmp_path / "best" / ADAPTER)
    assert result.config["defaults"] == start.config["defaults"]
    assert all(torch.equal(tensor, start.tensors[name]) for name, tensor in result.tensors.items())
    assert [row.step for row in rows(tmp_path)] == [0, 2, 4]
    last = [record.message for record in caplog.records if record.name == "stage2.best"][-1]
    assert "the result is the start: no step was better than it" in last and "too high a learning rate" in last
    caplog.clear()
    train(cfg)  # it has ended
    assert [row.step for row in rows(tmp_path)] == [0, 2, 4]
    assert "early_stopping.patience: 4 of 8 steps are in" in caplog.text
    assert "the same command goes on with a longer early_stopping.patience" in caplog.text
    train(config(tmp_path, "optimizer.lr=0.03", "early_stopping.patience=3", "steps=8"))
    assert [row.step for row in rows(tmp_path)] == [0, 2, 4, 6]


def test_callbacks_of_lightning_follow_validation(config: Config, tmp_path: Path) -> None:
    early = "{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/psnr, mode: max, patience: 2}"
    kept = f"{{_target_: pytorch_lightning.callbacks.ModelCheckpoint, monitor: val/psnr, dirpath: {tmp_path / 'kept'}}}"
    words = ["early_stopping=none", f"+trainer.callbacks=[{early},{kept}]"]
    train(config(tmp_path / "run", "optimizer.lr=0.03", "steps=8", *words))
    assert [row.step for row in rows(tmp_path / "run")] == [0, 2, 4]
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_rows_of_one_table_are_measured_alike(config: Config, pairs: Path, tmp_path: Path) -> None:
    words = ["optimizer.lr=0", "early_stopping.patience=9"]
    train(config(tmp_path, *words, "steps=2"))
    for word, told in (
        ("validation.side=64", "validation.side: 128 → 64"),
        ("validation.images=1", "validation.images: null → 1"),
        ("validation.metrics=[psnr,ssim]", r"validation.metrics: \[\"psnr\"\] → "),
        (f"validation.data={pairs}", "validation.data: null → "),
        ("checkpoint.monitor=val/ssim", "checkpoint.monitor: val/psnr → val/ssim"),
    ):
        with pytest.raises(ValueError, match=f"{told}.*resume=changed"):
            train(config(tmp_path, *words, word))
    words += ["validation.every=1"]
    train(config(tmp_path, *words, "steps=3", "checkpoint.top=1"))
    assert [row.step for row in rows(tmp_path)] == [0, 2, 3]
    words += ["resume=changed", "checkpoint.top=1"]
    train(config(tmp_path, *words, "validation.images=1", "steps=4"))  # the picture that is the harder one
    (row,) = rows(tmp_path)
    states = weights.load_checkpoint(tmp_path / "last.ckpt")["callbacks"]
    (patience,) = (state for name, state in states.items() if name.startswith("Patience"))
    (kept,) = (state for name, state in states.items() if name.startswith("BestCheckpoints"))
    assert row.step == 4 and patience["wait_count"] == 0
    assert float(patience["best_score"]) == float(kept["best_model_score"]) == pytest.approx(row.metrics["psnr"])
    words += ["validation.images=1", "validation.metrics=[psnr,ssim]", "checkpoint.monitor=val/ssim"]
    train(config(tmp_path, *words, "steps=5"))
    assert [row.step for row in rows(tmp_path)] == [5]
    assert "The best is of step 5: ssim" in (tmp_path / "best" / "README.md").read_text()


def test_pictures_of_one_name_are_all_validated_on(make_pairs: Callable, composed: Callable, tmp_path: Path) -> None:
    folders = [make_pairs(tmp_path / name, 4) for name in ("one", "two")]
    held = [pair for folder in folders for pair in list_pairs(folder, 64).pairs[:2]]
    found = of_pairs(held, None, 64)
    assert [*found] == ["0", "1", "0_2", "1_2"]
    photos = of_photos([pair.hr for pair in held], None, 64, recipe("varied"), 0)
    assert [*photos] == [*found] and not torch.equal(photos["0"].lr, photos["0_2"].lr)


def test_a_trial_writes_nothing(config: Config, tmp_path: Path) -> None:
    train(config(tmp_path, "+trainer.fast_dev_run=2"))
    assert list(tmp_path.iterdir()) == []


def test_shuffled_pairs_are_named_as_the_reason(config: Config, pairs: Path, tmp_path: Path) -> None:
    shuffled = tmp_path / "shuffled"
    (shuffled / "lr").mkdir(parents=True)
    (shuffled / "hr").symlink_to(pairs / "hr")
    for number in range(6):
        from PIL import Image

        picture = Image.open(pairs / "lr" / f"{(number + 1) % 6}.png")
        picture.transpose(Image.Transpose.ROTATE_180).save(shuffled / "lr" / f"{number}.png")
    with pytest.raises(ValueError, match="show something else in lr/ than in hr/"):
        train(config(tmp_path / "refused", f"data.pairs=[{shuffled}]"))
    train(config(tmp_path / "run", f"data.pairs=[{shuffled}]", "data.shifted=true", *LEARNS))
    found = rows(tmp_path / "run")
    assert best_of(found, "val/psnr").step > 0 == best_of(found, "val/psnr", void=True).step
    card = (tmp_path / "run" / "best" / "README.md").read_text()
    assert "The result is the start: pairs that show two things can't tell what is better" in card
    assert "of 6 pairs" in card and "show something else in lr/ than in hr/" in card


def made(*losses: float | None, scores: tuple[float, ...]) -> list[Row]:
    colours = {"red": 0.0, "green": 0.0, "blue": 0.0, "contrast": 1.0}
    return [
        Row(2 * at, {"lpips": score}, colours, loss)
        for at, (score, loss) in enumerate(zip(scores, losses, strict=True))
    ]


@pytest.mark.parametrize(
    ("losses", "doubts", "words"),
    [
        ((None, 2.0, 1.0), [], "the loss fell in training, from 2.000 to 1.000, .*too few pictures"),
        (
            (None, 2.0, 3.0),
            [],
            r"did not fall in training either \(from 2.000 to 3.000\): too high .*try optimizer.lr=0.1",
        ),
        ((None, 2.0, 1.0), ["of 9 pairs 4 are shifted"], "^of 9 pairs 4 are shifted: mend or leave out"),
    ],
)
def test_the_advice_names_what_was_seen(losses: tuple, doubts: list[str], words: str) -> None:
    import re

    found = made(*losses, scores=(0.3, 0.4, 0.5))
    origin = Origin("built-in", {}, "pairs", doubts, 0.4, 4)
    assert re.search(words, advice(found, origin))
    said = verdict(found, "val/lpips", origin)
    assert said.startswith(
        "the result is the start: no step was better than it (lpips 0.3000; at best 0.4000 afterwards"
    )
    few = advice(found, replace(origin, pictures=3))
    assert few == f"too few pictures to validate on, 3, to tell: give more; {advice(found, origin)}"
    equal = made(*losses, scores=(0.4, 0.39961, 0.5))
    assert best_of(equal, "val/lpips") is equal[0]
    shown = (
        "the result is the start: no step was better than it by 0.1% (lpips 0.4000; at best 0.3996 afterwards, step 2)"
    )
    assert verdict(equal, "val/lpips", origin).startswith(shown)
    assert best_of(made(*losses, scores=(0.4, 0.3995, 0.5)), "val/lpips").step == 2
    void = verdict(made(*losses, scores=(0.4, 0.3, 0.5)), "val/lpips", replace(origin, void=True))
    assert void.startswith("the result is the start: pairs that show two things")
    better = made(*losses, scores=(0.4, 0.3, 0.5))
    assert (
        verdict(better, "val/lpips", origin)
        == "the best is of step 2: lpips 0.3000, 25.0% better than the start's 0.4000"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.held_back=0"],
            "checkpoint.monitor=val/psnr needs a validation: give validation.data=PAIRS, or data.held",
        ),
        (["checkpoint.monitor=psnr"], "checkpoint.monitor=psnr: give a metric of validation, as val/lpips"),
        (["checkpoint.monitor=val/lpips"], "checkpoint.monitor=val/lpips was not measured: there are psnr, red"),
        (
            ["checkpoint.monitor=null", "checkpoint.top=2", "early_stopping=none"],
            "checkpoint.top=2 needs checkpoint.monitor",
        ),
        (["validation.every=0"], "validation.every=0: give a number of steps, at least 1"),
        (["validation.side=2"], "side=2: give at least 4, or null for all"),
        (["init=null"], "model=init is the model of init=…"),
    ],
)
def test_what_can_not_be_watched_is_named(config: Config, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(config(tmp_path, *words))


def test_a_model_is_measured_alone_as_in_a_run(
    config: Config, pairs: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    train(config(tmp_path, "steps=1", "validation.every=1"))
    with initialize_config_dir(str(CONF / "evaluate"), version_base="1.3"):
        words = [f"model={tiny_model_folder}", f"data={pairs}", "side=128", "metrics=[psnr]"]
        alone, of_all = (validate(compose("validate", [*words, f"held_back={share}"])) for share in (0.1, 0))
    start = rows(tmp_path)[0]
    assert f"| {' | '.join(start.cells(['psnr']))} |\n\n2 pairs." in alone
    with initialize_config_dir(str(CONF / "evaluate"), version_base="1.3"):
        assert validate(compose("validate", [*words, "held_back=0.1", "metrics=psnr"])) == alone
        for word, message in (
            ("held_back=1.5", "held_back is 1.5; it must be at least 0 and below 1"),
            (f"data=[{pairs}]", "data=.*: name one folder, without brackets"),
            ("side=2", "side=2: give at least 4, or null for all"),
            ("images=0", "images=0: give at least 1, or null for all"),
        ):
            with pytest.raises(ValueError, match=message):
                validate(compose("validate", [*words, word]))
    assert of_all.endswith("\n\n6 pairs.\n") and of_all.startswith("|  | PSNR-Y ↑ | red | green | blue | contrast |")

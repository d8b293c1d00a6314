"""Validation while stage 2 trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deedsr.metrics.evaluation import Evaluator
from deedsr.models import export
from deedsr.models.card import CARD
from stage2.from_config import train


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    small = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    for role, scale in (("lr", 1), ("hr", 4)):
        (tmp_path / "pairs" / role).mkdir(parents=True)
        for stem, (width, height) in {"one": (24, 16), "two": (16, 20)}.items():
            resized = Image.fromarray(small).resize((scale * width, scale * height), Image.Resampling.BICUBIC)
            resized.save(tmp_path / "pairs" / role / f"{stem}.png")
    return tmp_path / "pairs"


def test_it_logs_scores_table_and_pictures_and_changes_nothing(
    pairs: Path, composed: Callable, stage2_options: Callable, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    validation = f"validation={{data: {pairs}, every: 2, images: 2, metrics: [psnr, ssim]}}"
    watched = train(composed("stage2", stage2_options(tmp_path / "watched", "steps=4", validation)))
    alone = train(composed("stage2", stage2_options(tmp_path / "alone", "steps=4")))
    assert (watched / "adapter.safetensors").read_bytes() == (alone / "adapter.safetensors").read_bytes()
    events = EventAccumulator(str(tmp_path / "watched"))
    events.Reload()
    for name in ("val/psnr", "val/ssim"):
        assert [scalar.step for scalar in events.Scalars(name)] == [2, 4]
    assert [(image.width, image.height) for image in events.Images("val/one")] == [(288, 64)] * 2
    assert [(image.width, image.height) for image in events.Images("val/two")] == [(192, 80)] * 2
    assert "val/table/text_summary" in events.Tags()["tensors"]
    export(tmp_path / "watched" / "last.ckpt", tmp_path / "handed_on", with_base=False)
    measured = ", ".join(f"{name} {events.Scalars(f'val/{name}')[-1].value:.4f}" for name in ("psnr", "ssim"))
    assert f"its own pictures for it: {measured}." in (tmp_path / "handed_on" / CARD).read_text(encoding="utf-8")


def test_it_counts_steps_not_batches(
    pairs: Path, composed: Callable, stage2_options: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, runs = Evaluator.run, []
    monkeypatch.setattr(Evaluator, "run", lambda self, *_, **__: runs.append(1) or run(self, *_, **__))
    words = [f"validation={{data: {pairs}, every: 2, images: 1, metrics: [psnr]}}", "trainer.accumulate_grad_batches=3"]
    train(composed("stage2", stage2_options(tmp_path / "run", "steps=4", *words)))
    assert len(runs) == 2


def test_pairs_that_are_not_four_times_apart_are_named(
    pairs: Path, composed: Callable, stage2_options: Callable, tmp_path: Path
) -> None:
    with Image.open(pairs / "lr" / "one.png") as picture:
        picture.resize((48, 32)).save(pairs / "lr" / "one.png")
    options = stage2_options(tmp_path / "run", "steps=1", f"validation={{data: {pairs}, every: 1}}")
    with pytest.raises(ValueError, match="one: hr is 96×64; 4 times lr, which is 48×32, would be 192×128"):
        train(composed("stage2", options))

"""Many pictures, one after another: what is written when, what is told in which order, and what fails."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deedsr import batch, jobs
from deedsr.ledger import DONE, Ledger
from deedsr.models.deedsr.model import DeeDSR
from deedsr.options import Options
from deedsr.pictures import picture as images
from deedsr.pictures.picture import Picture
from deedsr.restorer import Restorer

Write = Callable[..., list[str]]
LIMIT = 60  # seconds; a test that fails may wait so long
NAMES = ["a.png", "b.png", "c.png", "d.png"]


@pytest.fixture
def plan(tmp_path: Path) -> jobs.Plan:
    """Of four pictures."""
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(NAMES):
        pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    return jobs.make_plan([tmp_path / "in"], tmp_path / "out")


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], None]], None]:
    """`writing(look)`: has `look` called with the name of each picture before it is written."""
    write = images.write

    def install(look: Callable[[str], None]) -> None:
        def looked_at(path: Path, picture: Picture, quality: int | None = None) -> list[str]:
            look(path.name)
            return write(path, picture, quality)

        monkeypatch.setattr(images, "write", looked_at)

    return install


class Watched(Restorer):
    """Calls `look` with the name of each picture before it restores it."""

    def __init__(self, model: DeeDSR, look: Callable[[str], None]) -> None:
        super().__init__(model, Options(steps=1))
        self.look = look

    def __call__(self, image: Picture, progress: Callable[[float], None] | None, name: Path) -> Picture:
        self.look(name.name)
        return super().__call__(image, progress, name)


def restore(plan: jobs.Plan, restorer: Restorer, ledger: Ledger | None = None) -> tuple[list[jobs.Outcome], list[str]]:
    """The outcomes, and the names as they were told."""
    told: list[str] = []
    outcomes = batch.restore_all(
        plan,
        lambda: restorer,
        True,
        lambda outcome: told.append(outcome.source.name),
        lambda done, total: None,
        ledger=ledger,
    )
    return outcomes, told


def test_a_picture_is_written_while_the_next_is_restored(
    plan: jobs.Plan, tiny_model: DeeDSR, writing: Callable
) -> None:
    begun = {name: threading.Event() for name in NAMES}

    def look(name: str) -> None:
        following = NAMES[NAMES.index(name) + 1 :][:1]
        assert all(begun[other].wait(LIMIT) for other in following), f"{following} had to wait for {name}"

    writing(look)
    outcomes, told = restore(plan, Watched(tiny_model, lambda name: begun[name].set()))
    assert [outcome.status for outcome in outcomes] == ["restored"] * 4
    assert told == NAMES


def test_no_more_than_one_picture_waits(plan: jobs.Plan, tiny_model: DeeDSR, writing: Callable) -> None:
    """However slowly they are written: one is restored, and one is written."""
    begun: list[str] = []
    behind: list[int] = []

    def look(name: str) -> None:
        time.sleep(0.3)
        behind.append(len(begun) - NAMES.index(name))

    writing(look)
    restore(plan, Watched(tiny_model, begun.append))
    assert behind == [2, 2, 2, 1]


def test_what_fails_is_told_in_its_place_and_the_rest_goes_on(
    plan: jobs.Plan, tiny_model: DeeDSR, writing: Callable, tmp_path: Path
) -> None:
    """The second can't be written, the third not be read, while the one before is being written."""
    plan.jobs[2].source.write_text("no picture")

    def look(name: str) -> None:
        time.sleep(0.2)
        if name == "b.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writing(look)
    ledger = Ledger(tmp_path / "out", "settings")
    outcomes, told = restore(plan, Restorer(tiny_model, Options(steps=1)), ledger)
    assert told == [outcome.source.name for outcome in outcomes] == NAMES
    assert [outcome.status for outcome in outcomes] == ["restored", "failed", "failed", "restored"]
    full = "the disk is full; free some space or choose another folder with `output`"
    assert outcomes[1].error == f"{plan.jobs[1].target}: {full}"
    assert outcomes[2].error.startswith(f"{plan.jobs[2].source}: not a picture")
    assert [state == DONE for state in ledger.states(plan.jobs)] == [True, False, False, True]


def test_an_interrupt_leaves_what_is_being_written_whole(
    plan: jobs.Plan, tiny_model: DeeDSR, writing: Callable, tmp_path: Path
) -> None:
    writes, interrupted = threading.Event(), threading.Event()

    def look(name: str) -> None:
        writes.set()
        assert interrupted.wait(LIMIT)
        time.sleep(0.2)

    def interrupt(name: str) -> None:
        if name == "b.png":
            assert writes.wait(LIMIT)
            interrupted.set()
            raise KeyboardInterrupt

    writing(look)
    ledger = Ledger(tmp_path / "out", "settings", tmp_path / "noted")
    with pytest.raises(KeyboardInterrupt):
        restore(plan, Watched(tiny_model, interrupt), ledger)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    assert ledger.states(plan.jobs[:1]) == [DONE]


def test_a_fault_of_ours_in_writing_is_not_passed_over(plan: jobs.Plan, tiny_model: DeeDSR, writing: Callable) -> None:
    def look(name: str) -> None:
        if name == "d.png":
            raise RuntimeError("a fault of ours")

    writing(look)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        restore(plan, Restorer(tiny_model, Options(steps=1)))


def test_it_is_said_once_that_memory_holds_fewer_tiles(
    plan: jobs.Plan, tiny_model: DeeDSR, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = tiny_model.decode

    def short(latent: torch.Tensor) -> torch.Tensor:
        if len(latent) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return decode(latent)

    monkeypatch.setattr(tiny_model, "decode", short)
    outcomes, _ = restore(plan, Restorer(tiny_model, Options(steps=1, tile=32, batch=2)))
    said = f"{plan.jobs[0].source}: too little memory for more than 1 of its tiles at a time"
    assert [outcome.notes for outcome in outcomes] == [(said,), (), (), ()]


def too_large() -> RuntimeError:
    """What torch says where the CPU's memory is too small."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


def broken(model: DeeDSR, error: BaseException) -> Restorer:
    def fail(name: str) -> None:
        if name == "b.png":
            raise error

    return Watched(model, fail)


@pytest.mark.parametrize(
    "error", [too_large(), MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")]
)
def test_a_picture_that_is_too_large_fails_alone(plan: jobs.Plan, tiny_model: DeeDSR, error: BaseException) -> None:
    outcomes, _ = restore(plan, broken(tiny_model, error))
    assert [outcome.status for outcome in outcomes] == ["restored", "failed", "restored", "restored"]
    assert outcomes[1].error == f"{plan.jobs[1].source}: not enough memory; use smaller tiles, `tile=256`"


@pytest.mark.parametrize(
    "message",
    ["CUDA error: an illegal memory access was encountered", "Expected tensors in the same memory format"],
)
def test_what_only_speaks_of_memory_is_no_lack_of_it(plan: jobs.Plan, tiny_model: DeeDSR, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        restore(plan, broken(tiny_model, RuntimeError(message)))

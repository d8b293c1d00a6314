"""The suite for a GPU, tried on the CPU: an error, or no time, costs a part its rows and nobody else's."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from deedsr.training.fake_cuda.forecast import GIB, Need
from stage2.evaluate.gpu import agreement, bench, suite, training
from stage2.evaluate.gpu.bench import Bench, Row
from stage2.evaluate.timing import report

CONF = Path(__file__).parents[3] / "conf" / "evaluate"


@pytest.fixture
def tiny(tmp_path: Path) -> Bench:
    return Bench(torch.device("cpu"), True, tmp_path, time.monotonic() + 600)


def configured(*overrides: str) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("benchmark", ["device=cpu", "suite=gpu", "tiny=true", *overrides])
    return report(cfg)


def endless(_: Bench) -> Iterator[Row]:
    yield Row("first", "here")
    while True:
        time.sleep(0.01)


def faulty(_: Bench) -> Iterator[Row]:
    yield Row("first", "here")
    raise RuntimeError("CUDA error: an illegal | access")


def test_an_error_and_the_time_end_one_part_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "gpu.md"

    def last(_: Bench) -> Iterator[Row]:
        assert "illegal" in file.read_text(), "written before the next part"
        yield Row("also", "here", "there", good=False)

    monkeypatch.setattr(suite, "PARTS", {"faulty": faulty, "last": last, "endless": endless, "late": last})
    monkeypatch.setattr(suite, "END", 0)
    text = configured("minutes=0.15", f"output={file}")
    assert file.read_text() == text
    assert "| faulty | first | here |  |  |\n|  | stopped | RuntimeError: CUDA error: an illegal \\| access |" in text
    assert "| last | also | here | there | **no** |" in text
    assert "| endless | first | here |  |  |\n|  | broken off | the time was up |" in text
    assert "| late | left out | the time was up |" in text
    assert "raise RuntimeError" in text, "the traceback"


def test_a_part_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match=r"parts has no 'speeed'; there are: deedsr, dit4sr"):
        configured("parts=[speeed]")
    with pytest.raises(ValueError, match="unknown suite 'tpu'"):
        configured("suite=tpu")


@pytest.mark.parametrize("part", [agreement.deedsr, agreement.dit4sr])
def test_networks_that_compute_something_else_are_seen(
    tiny: Bench, part: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(part(tiny))
    assert len(rows) >= 9 and all(row.good for row in rows)
    assert {row.found for row in rows if row.what.endswith(" float32")} == {"0.0e+00 apart"}
    asked = iter(range(100))
    monkeypatch.setattr(agreement, "outputs", lambda *_: {"encode": torch.ones(2) + 0.2 * (next(asked) == 0)})
    wrong = [row.what for row in part(tiny) if not row.good]
    assert wrong == ["encode, float32"], "the first of the three is the one that was made wrong"


def test_no_weight_is_zero_so_that_every_part_counts(tiny: Bench) -> None:
    for size in bench.TINY:
        assert all(parameter.any() for parameter in tiny.model(size).parameters())


def test_a_shipped_experiment_is_timed(tiny: Bench) -> None:
    rows = {row.what: row for row in training.stage1_deedsr(tiny)}
    assert rows["loss, gradient"].good
    assert "(batch 2, crop 128)" in rows["speed"].found
    assert set(rows) == {"loss, gradient", "speed", "work", "counted", "memory"}
    kernels, waits = map(int, re.findall(r"\d+", rows["counted"].found))
    assert (1000 < kernels < 2000, waits) == (True, 0), "as tests/cuda/test_counts.py holds"
    assert "reserved; forecast 0.0, 0.0" in rows["memory"].found


def test_memory_that_is_not_as_forecast_is_seen(tmp_path: Path) -> None:
    there, need = Bench(torch.device("cuda"), True, tmp_path, 0), Need(0, 0, 0, 0, GIB, 2 * GIB)
    seen = [training.memory(there, GIB, int(reserved * GIB), need) for reserved in (1.7, 1.9, 2.1, 2.3)]
    assert [row.good for row in seen] == [False, True, True, False]
    assert seen[1].found == "1.0 GiB at most, 1.9 reserved; forecast 1.0, 2.0"


def test_parts_come_in_the_order_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(_: Bench) -> Iterator[Row]:
        yield Row("seen", "here")

    monkeypatch.setattr(suite, "PARTS", {"first": one, "second": one})
    assert re.findall(r"^\| (first|second) \|", configured("parts=[second,first]"), re.MULTILINE) == ["second", "first"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("part", [name for name in suite.PARTS if name != "compiled"])
def test_a_gpu_shows_all_that_it_must(part: str) -> None:
    text = configured("device=cuda", f"parts=[{part}]")
    assert "**no**" not in text and "the time was up" not in text, text

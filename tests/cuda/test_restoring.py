"""Restoring on "cuda": no tensor is left on the CPU or in another dtype, and where memory is low parts take turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deedsr import models
from deedsr.models import RestorationModel
from deedsr.models.deedsr.model import DeeDSR
from deedsr.models.sd3.model import SD3Restoration
from deedsr.options import Options
from deedsr.restorer import Restorer
from deedsr.tiling import Groups, Window, windows
from deedsr.training.fake_cuda.device import ENDLESS, fake_cuda
from deedsr.training.fake_cuda.mode import CUDA
from stage2.evaluate.timing import model_named

MIB = 2**20
LR = torch.zeros(1, 3, 8, 40)
TILES = {"tile": 128, "batch": 1, "ensemble": 2, "steps": 1}
CASES: dict[str, tuple[str, torch.dtype, dict[str, Any]]] = {
    "DeeDSR in float32, tiles, views": ("small", torch.float32, TILES),
    "DeeDSR in bfloat16, its authors' way": (
        "small",
        torch.bfloat16,
        {"preset": "authors", "steps": 1, "noise_guidance": (0, 0)},
    ),
    "DiT4SR in bfloat16, tiles, views, guided by text": ("dit4sr_small", torch.bfloat16, TILES),
}


def made(name: str, dtype: torch.dtype) -> RestorationModel:
    """A small model with random weights on the fake GPU; one that takes texts has some, so that they guide it."""
    model = model_named(f"{name}-random", CUDA, dtype)
    if isinstance(model, SD3Restoration):
        text = model.text("positive")
        model.set_texts(text, text)
    return model


def places(model: RestorationModel) -> dict[str, set[str]]:
    """Where the modules of each phase lie."""
    return {
        phase: {parameter.device.type for module in modules for parameter in module.parameters()}
        for phase, modules in model.phases().items()
    }


@pytest.mark.parametrize("case", CASES)
def test_parts_take_turns_and_do_the_same(case: str) -> None:
    name, dtype, options = CASES[case]
    seen: dict[str, dict[str, set[str]]] = {}
    with fake_cuda() as gpu:
        model, launches = made(name, dtype), []
        for low_memory in (False, True):
            restorer = Restorer(model, Options(**options), device=CUDA, low_memory=low_memory)
            for phase, modules in model.phases().items() if low_memory else ():
                modules[0].register_forward_pre_hook(lambda *_, phase=phase: seen.update({phase: places(model)}))
            gpu.launches.clear()
            restored = restorer.restore(LR)
            assert (restored.shape, restored.dtype, restored.device.type) == ((1, 3, 32, 160), torch.float32, "cpu")
            launches.append({kind: count for kind, count in gpu.launches.items() if kind != "_to_copy"})
        assert launches[0] == launches[1]
        phases = model.phases().keys()
        assert seen == {one: {other: {"cuda" if other == one else "cpu"} for other in phases} for one in phases}
        assert places(model) == {phase: {"cpu"} for phase in phases}
        assert not any(parameter.is_inference() for parameter in model.parameters())


def test_tiles_are_fewer_at_a_time_where_memory_lacks(tiny_model: DeeDSR) -> None:
    model, lr = tiny_model.requires_grad_(False), torch.zeros(1, 3, 48, 48)  # 4 tiles

    def restored(total: int, batch: int | None) -> tuple[int, int]:
        with fake_cuda(total) as gpu:
            restorer = Restorer(model, Options(tile=160, steps=1, batch=batch), device=CUDA, low_memory=True)
            assert restorer.restore(lr).shape == (1, 3, 192, 192)
            return gpu.memory.peak_reserved, restorer.groups.most

    (two, _), (four, most) = (restored(ENDLESS, batch) for batch in (2, 4))
    assert (most, four > two) == (4, True)
    peak, most = restored((two + four) // 2, None)
    assert (most, peak < four) == (2, True)
    with pytest.raises(torch.OutOfMemoryError):
        restored(two // 4, None)


def test_tiles_are_more_at_a_time_once_a_first_group_has_told_what_they_take(
    tiny_model: DeeDSR, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deedsr.restorer.UNTILED", 2 * 128**2)
    groups: dict[str, list[int]] = {"unet": [], "decoder": []}
    with fake_cuda():
        restorer = Restorer(tiny_model, Options(tile=128, steps=2), device=CUDA)
        for name, module in (("unet", tiny_model.unet), ("decoder", tiny_model.vae.decoder)):
            module.register_forward_pre_hook(lambda _, given, name=name: groups[name].append(len(given[0])))
        restorer.restore(torch.zeros(1, 3, 96, 96))
    assert groups == {"unet": [2, 8, 8, 7, 9, 8, 8], "decoder": [2, 8, 8, 7]}


@pytest.mark.parametrize(
    ("total", "held", "sizes"),
    [(ENDLESS, 0, [2, 6, 6, 6]), (100 * MIB, 0, [2, 6, 6, 6]), (100 * MIB, 50, [2, *[3] * 6])],
)
def test_groups_are_what_free_memory_holds(total: int, held: int, sizes: list[int]) -> None:
    """Each window takes 10 MiB; what PyTorch keeps of tensors that are gone is free."""

    def function(group: list[Window]) -> torch.Tensor:
        torch.empty(len(group) * 10 * MIB, dtype=torch.uint8, device=CUDA)
        return torch.zeros(len(group), device=CUDA)

    found = windows(8, 8 * 20, 8, 0)
    with fake_cuda(total):
        others = torch.empty(held * MIB, dtype=torch.uint8, device=CUDA)
        torch.empty(30 * MIB, dtype=torch.uint8, device=CUDA)
        groups = Groups(None, 2 * 8 * 8, CUDA)
        assert [len(group) for group, _ in groups(function, found)] == sizes
        assert groups.most is None, "none of them lacked memory"
        again = [len(group) for group, _ in groups(function, found)]
        assert again == ([7, 7, 6] if max(sizes) == 6 else [3] * 6 + [2]), "of known work"
        assert [len(group) for group, _ in groups(function, found, "other work")] == sizes
        del others


def test_a_part_that_is_forgotten_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda():
        model = made("small", torch.float32)
        phases = {**model.phases(), "decode": []}
        monkeypatch.setattr(model, "phases", lambda: phases)
        with pytest.raises(RuntimeError, match="device"):
            Restorer(model, Options(steps=1), device=CUDA, low_memory=True).restore(LR)


def test_large_models_restore_in_bfloat16_unless_told_otherwise(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(tiny_model_folder)
    with fake_cuda():
        small = Restorer.from_pretrained(name)
        monkeypatch.setattr(models, "LARGE", 1000)
        large, told = Restorer.from_pretrained(name), Restorer.from_pretrained(name, dtype="float32")
    assert [(one.device.type, one.dtype) for one in (small, large, told)] == [
        ("cuda", torch.float32),
        ("cuda", torch.bfloat16),
        ("cuda", torch.float32),
    ]
    assert Restorer.from_pretrained(name, device="cpu").dtype == torch.float32

"""LoRA: what it adds, that it is peft's, and that a merged base does the same."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deedsr import weights
from deedsr.models import describe, load_model
from deedsr.models.deedsr.folder import DEEDSR
from deedsr.models.deedsr.model import DeeDSR
from deedsr.models.deedsr.sizes import SIZES, DeeDSRConfig
from deedsr.models.frozen import lora
from deedsr.models.frozen.base import PART
from deedsr.models.frozen.lora import LowRank
from deedsr.models.sd3.lr_stream import LRStream
from tests.models.conftest import Made


class Attention(nn.Module):
    """The four projections alone."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(8, 6) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(6, 8), nn.Dropout(0.0)])

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out[0](self.to_q(x) * self.to_k(x) + self.to_v(x))


def with_lora(random: bool) -> tuple[Attention, Attention, Tensor]:
    """The same attention without LoRA and with it, and an input."""
    torch.manual_seed(0)
    plain = Attention()
    changed = copy.deepcopy(plain)
    lora.attach([changed], 2)
    if random:
        for _, part in lora.parts(changed, ""):
            nn.init.normal_(part.up.weight)
    return plain, changed, torch.randn(3, 5, 8)


def test_it_changes_nothing_at_first_and_no_name() -> None:
    plain, changed, x = with_lora(random=False)
    assert torch.equal(changed(x), plain(x))
    own = {name for name in changed.state_dict() if not lora.is_lora(name)}
    assert own == plain.state_dict().keys()
    assert len(changed.state_dict()) == len(own) + 8


@torch.no_grad()
def test_merged_it_is_the_same() -> None:
    plain, changed, x = with_lora(random=True)
    assert not torch.allclose(changed(x), plain(x), atol=0.1)
    changes = lora.changes({f"unet.{name}": value for name, value in changed.state_dict().items()})
    plain.load_state_dict(lora.merged(plain.state_dict(), "unet", changes))
    assert torch.allclose(changed(x), plain(x), atol=1e-5)


@torch.no_grad()
def test_it_is_pefts() -> None:
    peft = pytest.importorskip("peft")
    plain, changed, x = with_lora(random=True)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=list(lora.PROJECTIONS))
    theirs = peft.inject_adapter_in_model(config, plain)
    for name, part in lora.parts(changed, ""):
        module = theirs.get_submodule(name.removesuffix(".lora"))
        module.lora_A["default"].weight.copy_(part.down.weight)
        module.lora_B["default"].weight.copy_(part.up.weight)
    assert torch.allclose(changed(x), theirs(x), atol=1e-6)


@pytest.fixture
def trained(made: Made) -> tuple[Path, DeeDSR]:
    """A folder and the model in it, on the tiny base with LoRA of rank 3, nothing at zero."""
    return made("trained", 0, lora_rank=3), made.model


def answer(model: DeeDSR) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    lr, z_lr = torch.rand(2, 3, 16, 24, generator=generator), torch.randn(2, 4, 16, 24, generator=generator)
    with torch.no_grad():
        return model.denoise(z_lr.flip(-1), torch.tensor([981, 121]), model.condition(lr, z_lr))


def test_a_folder_is_loaded_with_it_and_exported_without(trained: tuple[Path, DeeDSR], tmp_path: Path) -> None:
    folder, model = trained
    expected, loaded = answer(model), load_model(folder)
    assert torch.equal(answer(loaded), expected)
    assert describe(str(folder)) == loaded.counts()
    DEEDSR.export(folder, tmp_path / "kept", with_base=True)
    assert torch.equal(answer(load_model(tmp_path / "kept")), expected)
    DEEDSR.export(folder, tmp_path / "merged", with_base=True, merge=True)
    merged = load_model(tmp_path / "merged")
    assert not [part for part in merged.modules() if isinstance(part, LowRank)]
    assert merged.counts()["lora"] == 0
    assert torch.allclose(answer(merged), expected, atol=1e-5)
    for part in (module for module in loaded.modules() if isinstance(module, LowRank)):
        part.up.weight.zero_()
    assert not torch.allclose(answer(loaded), expected, atol=1e-3), "LoRA has no say in this test"


def test_what_is_merged_into_a_half_base_is_not_rounded(trained: tuple[Path, DeeDSR], tmp_path: Path) -> None:
    folder, _ = trained
    DEEDSR.export(folder, tmp_path / "half", with_base=True, dtype=torch.float16)
    expected = answer(load_model(tmp_path / "half"))
    DEEDSR.export(tmp_path / "half", tmp_path / "merged", with_base=True, merge=True)
    assert torch.allclose(answer(load_model(tmp_path / "merged")), expected, atol=1e-5)
    stored = weights.load(tmp_path / "merged" / "base" / "unet" / PART).tensors
    single = {name.rpartition(".attn1.")[2] for name, tensor in stored.items() if tensor.dtype == torch.float32}
    assert single == {f"{name}.weight" for name in lora.PROJECTIONS}
    DEEDSR.export(tmp_path / "half", tmp_path / "small", with_base=True, dtype=torch.float16, merge=True)
    small = weights.load(tmp_path / "small" / "base" / "unet" / PART).tensors
    assert {tensor.dtype for tensor in small.values()} == {torch.float16}


def test_what_cannot_be_merged_is_refused(
    trained: tuple[Path, DeeDSR], tiny_model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"merging changes the base, so .*: add `with_base`"):
        DEEDSR.export(trained[0], tmp_path / "new", with_base=False, merge=True)
    with pytest.raises(ValueError, match=rf"^{tiny_model_folder}: has neither LoRA nor a decoder to merge"):
        DEEDSR.export(tiny_model_folder, tmp_path / "new", with_base=True, merge=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("rank", [-1, 2.5, "many"])
def test_what_is_no_rank_is_refused(rank: object, tiny_config: DeeDSRConfig) -> None:
    for make in (lambda: replace(tiny_config.adapter, lora_rank=rank), lambda: LRStream(lora_rank=rank)):
        with pytest.raises(ValueError, match=f"lora_rank is {rank}; choose a whole number"):
            make()


def test_a_base_without_self_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="lora_rank is 4, but this base has no self-attention"):
        lora.attach([], 4)
    lora.attach([], 0)


def test_it_is_off_in_the_papers_configurations() -> None:
    assert [size.adapter.lora_rank for size in SIZES.values()] == [0, 0]
    assert LRStream().lora_rank == 0

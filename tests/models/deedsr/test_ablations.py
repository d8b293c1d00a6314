"""Ablations of DeeDSR: what each leaves out, counts, trains and keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deedsr.diffusion.free_guidance import FreeGuidance
from deedsr.models.deedsr.blocks import DegradationBlock
from deedsr.models.deedsr.folder import DEEDSR, ENCODER, DeeDSRNumbers, load_encoder, model_on_base
from deedsr.models.deedsr.model import DeeDSR, random_model
from deedsr.models.deedsr.sizes import DeeDSRConfig, model_size
from deedsr.models.frozen.base import Base
from deedsr.models.system import Header

ABLATIONS = {
    "zero": {"degradation": "zero"},
    "shuffled": {"degradation": "shuffled"},
    "constant": {"degradation": "constant"},
    "null": {"null": True},
    "prompts": {"prompts": 3},
    "modulate": {"modulate": True},
    "modulation": {"modulation": False},
    "none": {"cross_attention": "none"},
    "projected": {"cross_attention": "projected"},
    "lora": {"lora_rank": 3},
    "all": {"degradation": "zero", "modulation": False, "cross_attention": "projected"},
}
Assembled = Callable[[str], DeeDSR]
each = pytest.mark.parametrize("name", list(ABLATIONS))


def ablated(config: DeeDSRConfig, name: str) -> DeeDSRConfig:
    return dataclasses.replace(config, adapter=dataclasses.replace(config.adapter, **ABLATIONS.get(name, {})))


@pytest.fixture
def assembled(tiny_config: DeeDSRConfig, tiny_base: Path, tiny_encoder: Path) -> Assembled:
    """An ablation, or ``own`` without one, on the tiny base, its trained parts fresh."""

    def make(name: str) -> DeeDSR:
        config = ablated(tiny_config, name)
        torch.manual_seed(0)
        header = Header("", DeeDSRNumbers(config.adapter, config.sft_hidden), config.defaults)
        return model_on_base(Base.open(tiny_base), load_encoder(tiny_encoder), header)

    return make


def inputs(batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    lr = torch.rand(batch, 3, 16, 24, generator=generator)
    z_lr, x_t = (torch.randn(batch, 4, 16, 24, generator=generator) for _ in range(2))
    return lr, z_lr, x_t, torch.tensor([981, 121])[:batch]


def answer(model: DeeDSR) -> torch.Tensor:
    lr, z_lr, x_t, t = inputs()
    with torch.no_grad():
        return model.denoise(x_t, t, model.condition(lr, z_lr))


@each
def test_all_that_is_trained_has_a_gradient_by_the_third_backward(tiny_config: DeeDSRConfig, name: str) -> None:
    torch.manual_seed(0)
    model = random_model(ablated(tiny_config, name))
    lr, z_lr, x_t, t = inputs()
    trained = dict(model.trainable())
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        condition = model.condition(lr, z_lr, guidance=FreeGuidance(2.0 if name == "null" else 1.0))
        model.denoise(x_t, t, condition).square().mean().backward()
        if step < 2:
            optimizer.step()
    assert [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()] == []
    frozen = {name: parameter for name, parameter in model.named_parameters() if name not in trained}
    assert not any(parameter.requires_grad for parameter in frozen.values())
    assert all(parameter.requires_grad for parameter in trained.values())


@each
def test_a_trained_ablation_loads_again(
    assembled: Assembled, tiny_config: DeeDSRConfig, tiny_base: Path, tiny_encoder: Path, tmp_path: Path, name: str
) -> None:
    config = ablated(tiny_config, name)
    model = assembled(name)
    for _, parameter in model.trainable():
        torch.nn.init.normal_(parameter, std=0.05)
    (tmp_path / ENCODER).write_bytes(tiny_encoder.read_bytes())
    header = Header(str(tiny_base), DeeDSRNumbers(config.adapter, config.sft_hidden), config.defaults)
    DEEDSR.save(tmp_path, dict(model.trainable()), header)
    assert DEEDSR.open(tmp_path).header == header
    loaded = DEEDSR.load(tmp_path)
    assert torch.equal(answer(loaded), answer(model))
    assert loaded.counts() == model.counts() == random_model(config).counts()


def test_counts_at_full_size() -> None:
    sd21 = model_size("sd21")
    with torch.device("meta"):
        found = {name: random_model(ablated(sd21, name)).counts() for name in ABLATIONS}
        full = random_model(sd21).counts()
    assert found["shuffled"] == full
    # W of v, and of both DAconvs W1, W2, A1, A2 and the 1x1 kernel, which K = 0 silences
    steered = sum(1024 * c + 2 * (c**2 + 9 * c**2 + 2 * c * c // 32 + c**2) for c in (256, 256, 512, 512))
    assert full["adapter"] - found["zero"]["adapter"] == steered
    assert found["modulation"]["sft"] == 0
    assert full["adapter"] - found["modulation"]["adapter"] == 7_217_664  # the output ResBlocks
    assert full["adapter"] - found["none"]["adapter"] == 11_544_576  # the middle
    assert found["none"]["cross_attention"] == 0
    assert found["projected"]["adapter"] - full["adapter"] == 512 * 1024 + 1024
    assert found["projected"]["cross_attention"] == 37_572_800 - 12_779_520
    stock = 865_910_724
    assert found["none"]["unet_frozen"] == stock
    assert found["projected"]["unet_total"] == stock + full["sft"]
    widths = [320] * 5 + [640] * 5 + [1280] * 6  # of the U-Net's transformers, each with one self-attention
    low_rank = sum(4 * 3 * 2 * width for width in widths)
    more = {name: full[name] + low_rank for name in ("lora", "trained", "unet_total")}
    assert found["lora"] == {**full, **more}
    assert found["modulation"]["trained"] == full["trained"] - 52_979_840 - 7_217_664


@torch.no_grad()
def test_a_zero_vector_is_what_the_block_without_one_computes() -> None:
    torch.manual_seed(0)
    whole, bare = DegradationBlock(32, 16).double(), DegradationBlock(32, 0).double()
    own, biases = whole.state_dict(), {f"{part}.bias": f"{part}.conv.bias" for part in ("first", "second")}
    bare.load_state_dict({name: own[biases.get(name, name)] for name in bare.state_dict()})
    x = torch.randn(2, 32, 8, 8, dtype=torch.float64)
    expected = whole(x, whole.filters(torch.zeros(2, 16, dtype=torch.float64)))
    assert torch.allclose(bare(x, bare.filters(torch.ones(2, 16))), expected, atol=1e-12)


@torch.no_grad()
def test_the_vector_is_own_absent_or_the_next_pictures(tiny_config: DeeDSRConfig) -> None:
    models = {}
    for kind in ("own", "zero", "shuffled"):
        torch.manual_seed(0)
        models[kind] = random_model(
            dataclasses.replace(tiny_config, adapter=dataclasses.replace(tiny_config.adapter, degradation=kind))
        )
    lr, z_lr, _, _ = inputs()
    own, shuffled = (models[kind].condition(lr, z_lr).told.filters for kind in ("own", "shuffled"))
    for level, other in zip(own, shuffled, strict=True):
        assert torch.equal(level[0].kernels[0], other[0].kernels[1])
        assert not torch.equal(level[0].kernels[0], level[0].kernels[1])
    assert models["zero"].condition(lr, z_lr).told.filters == [(None, None)] * 3
    alone = models["shuffled"].condition(lr[:1], z_lr[:1]).told.filters
    assert torch.allclose(alone[0][0].kernels, own[0][0].kernels[:1], atol=1e-6)
    with torch.enable_grad(), pytest.raises(ValueError, match="batch of one picture has no other vector"):
        models["shuffled"].condition(lr[:1], z_lr[:1])


@torch.no_grad()
def test_without_cross_attention_attn2_stays_stock(assembled: Assembled, tiny_base: Path) -> None:
    """Only the modulations, which start at zero, tell it from the base with its zero token."""
    model = assembled("none")
    _, _, x_t, t = inputs()
    base = Base.open(tiny_base).load("unet").eval()
    token = torch.zeros(2, 1, base.config.cross_attention_dim)
    assert torch.equal(answer(model), base(x_t, t, encoder_hidden_states=token).sample)


@torch.no_grad()
def test_projection_keeps_the_bases_keys_and_values(assembled: Assembled, tiny_base: Path) -> None:
    model = assembled("projected")
    base, trained = Base.open(tiny_base).load("unet"), dict(model.trainable())
    for name, parameter in base.named_parameters():
        assert torch.equal(model.unet.get_parameter(name), parameter)
        if ".attn2." in name:
            assert (f"unet.{name}" in trained) == (".to_q." in name or ".to_out." in name)
    before = answer(model)
    model.adapter.projection.bias.add_(0.1)
    assert not torch.allclose(answer(model), before, atol=1e-6)


@torch.no_grad()
def test_without_modulation_the_resblocks_are_the_bases(tiny_config: DeeDSRConfig) -> None:
    torch.manual_seed(0)
    model = random_model(ablated(tiny_config, "modulation"))
    assert len(model.modulations) == len(model.adapter.heads) == 0
    assert not any(module._forward_hooks for module in model.unet.modules())
    assert not any(name.startswith(("modulations.", "adapter.heads.")) for name, _ in model.trainable())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degradation": "none"}, "unknown degradation 'none'; there are: own, constant, zero, shuffled"),
        ({"cross_attention": "stock"}, "unknown cross_attention 'stock'; there are: fresh, projected, none"),
        ({"modulation": False, "cross_attention": "none"}, "nothing is left of the adapter"),
    ],
)
def test_wrong_ablations_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_size("small", {"adapter": change})


def test_guidance_by_the_degradation_leads_away_from_the_null_vector(assembled: Assembled) -> None:
    model = assembled("null")
    model.adapter.null.data.uniform_(-1, 1)
    for level in model.adapter.levels:
        torch.nn.init.normal_(level.degradation.conv3.weight, std=0.1)
    for modulation in model.modulations:
        torch.nn.init.normal_(modulation.gamma.weight, std=0.1)
    lr, z_lr, x_t, t = inputs()
    with torch.no_grad():
        own = model.denoise(x_t, t, model.condition(lr, z_lr))
        null = model.denoise(x_t, t, model.condition(lr, z_lr, vector=model.null(2)))
        assert (own - null).abs().max() > 1e-3
        same = model.denoise(x_t, t, model.condition(lr, z_lr, guidance=FreeGuidance(1.0)))
        assert torch.equal(same, own)
        further = model.denoise(x_t, t, model.condition(lr, z_lr, guidance=FreeGuidance(3.0)))
        assert torch.allclose(further, null + 3 * (own - null), atol=1e-4)
        low = model.condition(lr, z_lr, guidance=FreeGuidance(3.0, 0.0, 0.01))
        assert torch.equal(model.denoise(x_t, t, low), own)
    with pytest.raises(ValueError, match=r"has no null vector: it was trained without vector\.dropout"):
        assembled("own").condition(lr, z_lr, guidance=FreeGuidance(2.0))


def test_a_constant_model_sees_its_null_vector_alone(assembled: Assembled) -> None:
    model = assembled("constant")
    model.adapter.null.data.uniform_(-1, 1)
    lr = inputs()[0]
    assert torch.equal(model.vector(lr), model.null(2))
    assert torch.equal(model.vector(lr), model.vector(1 - lr))
    assert not model.guided_by_degradation


def test_prompts_join_the_tokens_and_the_vector_the_modulations(assembled: Assembled) -> None:
    lr, z_lr, _, t = inputs()
    plain, prompted, modulated = (assembled(name) for name in ("own", "prompts", "modulate"))
    tokens = [model.adapter(z_lr, t, model.condition(lr, z_lr).told).tokens for model in (plain, prompted)]
    assert tokens[1].shape[1] == tokens[0].shape[1] + 3
    told = prompted.condition(lr, z_lr).told
    assert torch.equal(tokens[1][:, -3:], told.prompts)
    assert not torch.allclose(told.prompts[0], told.prompts[1])
    before = answer(modulated)
    for modulation in modulated.modulations:
        torch.nn.init.normal_(modulation.vector.weight, std=0.1)
    assert not torch.allclose(answer(modulated), before)
    assert modulated.additions() == {
        f"modulations.{index}.vector.{part}"
        for index in range(len(modulated.modulations))
        for part in ("weight", "bias")
    }

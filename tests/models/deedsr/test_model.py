"""DeeDSR: exact sizes, and the traps of the authors' code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deedsr.models import describe, load_model
from deedsr.models.deedsr.blocks import DegradationBlock, Modulation
from deedsr.models.deedsr.model import DeeDSR, random_model
from deedsr.models.deedsr.sizes import DeeDSRConfig, model_size
from deedsr.models.frozen.base import Base, stock
from deedsr.nested import join
from deedsr.tiling import Window


def test_sd21_has_the_exact_parameter_counts() -> None:
    assert describe("sd21") == {
        "degradation_encoder": 85_011_008,
        "adapter": 75_903_744,
        "sft": 52_979_840,
        "cross_attention": 37_572_800,
        "lora": 0,
        "trained": 166_456_384,
        "unet_frozen": 815_558_404,
        "unet_total": 906_111_044,
        "vae": 83_653_863,
    }


def test_sd21_parts_of_the_adapter() -> None:
    with torch.device("meta"):
        model = random_model(model_size("sd21"))

    def size(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert size(model.adapter.time) == 1_312_768
    assert size(model.adapter.stem) + size(model.adapter.levels) == 55_828_736
    assert size(model.adapter.middle) == 11_544_576
    assert size(model.adapter.heads) == 7_217_664
    blocks = [size(module) for module in model.modules() if isinstance(module, DegradationBlock)]
    assert blocks == [3_482_880, 3_482_880, 13_404_672, 13_404_672]
    modulations = sorted({size(module) for module in model.modulations})
    assert (modulations, len(model.modulations)) == ([1_032_960, 1_770_880, 3_246_720], 22)
    fresh = [name for name, _ in model.named_parameters() if ".attn2.to_k." in name or ".attn2.to_v." in name]
    assert len(fresh) == 32


def test_an_unknown_size_is_an_error_that_lists_the_sizes() -> None:
    with pytest.raises(ValueError, match=r"'sd3'.*sd21, small"):
        describe("sd3")


def test_sd21_without_an_adapter_says_how_to_train_one() -> None:
    with pytest.raises(ValueError, match=r"published.*stage2\.train` \(conf/experiment/"):
        load_model("sd21")


def noisy_inputs(model: DeeDSR, height: int = 16, width: int = 24) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    lr = torch.rand(2, 3, height, width, generator=generator)
    z_lr, x_t = (torch.randn(2, 4, height, width, generator=generator) for _ in range(2))
    return lr, z_lr, x_t, torch.tensor([981, 121])


def test_gamma_and_beta_learn_at_once_and_everything_by_the_third_backward(tiny_config: DeeDSRConfig) -> None:
    """Trap 1: with the whole modulation at zero, its convolutions would never get a gradient."""
    torch.manual_seed(0)
    model = random_model(tiny_config)
    lr, z_lr, x_t, t = noisy_inputs(model)
    trained = dict(model.trainable())
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        model.denoise(x_t, t, model.condition(lr, z_lr)).square().mean().backward()
        if step == 0:
            for modulation in model.modulations:
                assert modulation.gamma.weight.grad.any()
                assert modulation.beta.weight.grad.any()
        if step < 2:
            optimizer.step()
    dead = [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()]
    # a lone key bias would be such a case, but attn2 has none
    assert dead == []
    frozen = [name for name, parameter in model.named_parameters() if name not in trained]
    assert all(model.get_parameter(name).grad is None for name in frozen)


def test_trained_parts_are_adapter_modulations_and_attn2_alone(tiny_model: DeeDSR) -> None:
    trained = {name for name, _ in tiny_model.trainable()}
    for name, parameter in tiny_model.named_parameters():
        expected = name.startswith(("adapter.", "modulations.")) or ".attn2." in name
        assert (name in trained) == expected == parameter.requires_grad, name


def test_the_encoders_batch_norms_never_move(tiny_model: DeeDSR) -> None:
    """Trap 4."""
    lr, z_lr, x_t, t = noisy_inputs(tiny_model)
    before = {name: buffer.clone() for name, buffer in tiny_model.encoder.named_buffers()}
    tiny_model.train()
    tiny_model.denoise(x_t, t, tiny_model.condition(lr, z_lr)).mean().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in tiny_model.encoder.named_buffers())
    assert not any(module.training for module in tiny_model.modules())


@torch.no_grad()
def test_a_fresh_adapter_leaves_the_stock_unet_as_it_is(tiny_config: DeeDSRConfig) -> None:
    torch.manual_seed(0)
    model = random_model(tiny_config)
    lr, z_lr, x_t, t = noisy_inputs(model)
    condition = model.condition(lr, z_lr)
    output = model.denoise(x_t, t, condition)
    plain = stock(tiny_config.unet, cross_attention_dim=tiny_config.adapter.context)
    plain.load_state_dict(model.unet.state_dict())
    tokens = model.adapter(z_lr, t, condition.told).tokens
    assert torch.equal(output, plain.eval()(x_t, t, encoder_hidden_states=tokens).sample)


@torch.no_grad()
def test_modulation_is_plain_sft() -> None:
    torch.manual_seed(0)
    modulation, h, maps = Modulation(4, 6, 5), torch.randn(1, 6, 8, 8), torch.randn(1, 4, 8, 8)
    assert torch.equal(modulation(h, maps), h)
    modulation.gamma.bias.fill_(0.5)
    modulation.beta.bias.fill_(2.0)
    assert torch.equal(modulation(h, maps), h * 1.5 + 2)


@torch.no_grad()
def test_the_answer_depends_on_lr_vector_latent_and_time(tiny_model: DeeDSR) -> None:
    """Trap 2: there the condition lacks the LR latent."""
    lr, z_lr, x_t, t = noisy_inputs(tiny_model)
    reference = tiny_model.denoise(x_t, t, tiny_model.condition(lr, z_lr))
    for other in (
        tiny_model.denoise(x_t, t, tiny_model.condition(1 - lr, z_lr)),
        tiny_model.denoise(x_t, t, tiny_model.condition(lr, z_lr + 0.1)),
        tiny_model.denoise(x_t, t - 100, tiny_model.condition(lr, z_lr)),
    ):
        assert not torch.allclose(reference, other, atol=1e-5)


@torch.no_grad()
def test_the_vae_sees_minus_one_to_one_and_gives_the_mode(tiny_config: DeeDSRConfig) -> None:
    """Traps 3 and 5, on Stable Diffusion's own class."""
    kl = {**model_size("sd21").vae, "block_out_channels": [32, 32, 32], "latent_channels": 4}
    kl["down_block_types"], kl["up_block_types"] = ["DownEncoderBlock2D"] * 3, ["UpDecoderBlock2D"] * 3
    unet = {**tiny_config.unet}
    config = DeeDSRConfig("t", unet, kl, tiny_config.scheduler, tiny_config.encoder, tiny_config.adapter, 8)
    torch.manual_seed(0)
    model = random_model(config)
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    mode = model.vae.encode(2 * image - 1).latent_dist.mode() * 0.18215
    assert torch.equal(model.encode(image), mode)
    assert torch.equal(model.encode(image), model.encode(image))
    drawn = model.encode(image, torch.Generator().manual_seed(3))
    assert not torch.equal(drawn, mode)
    assert torch.equal(drawn, model.encode(image, torch.Generator().manual_seed(3)))
    decoded = model.decode(mode)
    assert decoded.shape == image.shape
    assert 0 <= decoded.min() <= decoded.max() <= 1
    model.vae.register_to_config(shift_factor=0.5)
    assert torch.allclose(model.encode(image), mode - 0.5 * 0.18215, atol=1e-6), "not what the base was trained on"
    assert torch.allclose(model.decode(model.encode(image)), decoded, atol=1e-5)


@torch.no_grad()
def test_a_batch_of_tiles_equals_its_tiles(tiny_model: DeeDSR) -> None:
    lr, z_lr, x_t, t = (tensor[:1] for tensor in noisy_inputs(tiny_model))
    whole = tiny_model.condition(lr, z_lr)
    tiles = [Window(0, 0, 16, 16), Window(0, 8, 16, 16)]
    cut = [x_t[tile.slices] for tile in tiles]
    batch = tiny_model.denoise(torch.cat(cut), t.expand(2), join([whole.crop(tile) for tile in tiles]))
    for index, tile in enumerate(tiles):
        single = tiny_model.denoise(cut[index], t, whole.crop(tile))
        assert torch.allclose(batch[index : index + 1], single, atol=1e-5)


def test_another_context_width_starts_fresh_and_finite(tiny_base: Path) -> None:
    stored = Base.open(tiny_base).load("unet")
    unet = Base.open(tiny_base).load("unet", cross_attention_dim=24)
    fresh = 0
    for name, parameter in unet.named_parameters():
        assert not parameter.is_meta
        assert torch.isfinite(parameter).all()
        if ".attn2.to_k." in name or ".attn2.to_v." in name:
            fresh += 1
            assert parameter.shape[1] == 24
        else:
            assert torch.equal(parameter, stored.get_parameter(name))
    assert fresh == 2 * sum(name.endswith(".attn2") for name, _ in unet.named_modules())


def test_sizes_are_read_from_the_parts() -> None:
    with torch.device("meta"):
        sd21, small = random_model(model_size("sd21")), random_model(model_size("small"))
    assert (sd21.factor, sd21.size.multiple, sd21.process.prediction) == (8, 64, "epsilon")
    assert (small.factor, small.size.multiple, small.process.prediction) == (4, 16, "v_prediction")

"""The authors' own modules, run on weights that anyone can regenerate, against ours."""

import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deedsr.convert.deedsr import key_table, rename
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.encoder.network import DegradationEncoder
from deedsr.models.adapter_config import AdapterConfig
from deedsr.models.build import stock
from deedsr.models.deedsr import DeeDSR, build
from deedsr.models.presets import preset

GOLDEN = Path(__file__).parents[1] / "golden"


def small() -> DeeDSR:
    """The configuration of ``deedsr_small``: full-width encoder of one block a stage, everything else narrow."""
    sd21 = preset("sd21")
    return DeeDSR(
        stock(
            sd21.unet, block_out_channels=[64, 128, 256, 256], attention_head_dim=[2, 4, 8, 8], cross_attention_dim=128
        ),
        stock(sd21.vae, block_out_channels=[32] * 4),
        Process.from_config(sd21.scheduler),
        DegradationEncoder(layers=(1, 1, 1, 1)),
        AdapterConfig(4, 64, (1, 1, 2, 2), (True, True, True, False), heads=4, maps=64, vector=1024),
        sft_hidden=128,
        defaults=Settings(),
    )


def regenerated(name: str, shape: torch.Size) -> torch.Tensor:
    """The weight `name` after the rule of the golden files."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    n = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())), dtype=torch.float64)
    if name.endswith("running_var"):
        return 1 + 0.1 * n.abs()
    if len(shape) == 1:
        return 1 + 0.1 * n if name.endswith("weight") else 0.1 * n
    return n / (n.numel() / shape[0]) ** 0.5


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Norm-relative difference."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "deedsr_small.safetensors")


@pytest.fixture(scope="module")
def model() -> DeeDSR:
    model = small().double()
    own = model.state_dict()
    theirs = {theirs: regenerated(theirs, own[ours].shape) for theirs, ours in key_table(model).items()}
    model.load_state_dict(rename(theirs, model), strict=False)
    return model


@torch.no_grad()
def test_vector_maps_tokens_and_noise_equal_the_authors(model: DeeDSR, golden: dict[str, torch.Tensor]) -> None:
    x_t, z_lr, lr, t = (golden[f"in.{name}"] for name in ("x_t", "z_lr", "lr", "t"))
    vector = model.encoder(lr)
    steering = model.adapter(z_lr, t, model.adapter.filters(vector))
    assert difference(vector, golden["out.vector"]) < 1e-12
    assert difference(steering.tokens, golden["out.tokens"]) < 1e-7
    for index, single in enumerate(steering.maps):
        assert difference(single, golden[f"out.map{index}"]) < 1e-7
    assert difference(model.denoise(x_t, t, model.condition(lr, z_lr)), golden["out.eps"]) < 1e-7


def test_every_name_and_shape_at_full_size_is_the_authors() -> None:
    with torch.device("meta"):
        full = build(preset("sd21"))
    own = full.state_dict()
    listed = dict(line.split("\t") for line in (GOLDEN / "deedsr_keys.tsv").read_text().splitlines())
    table = key_table(full)
    assert table.keys() == listed.keys()
    for theirs, ours in table.items():
        shape = tuple(int(side) for side in listed[theirs].split("x") if side)
        assert torch.Size(shape).numel() == own[ours].numel(), theirs
        assert shape[: own[ours].ndim] == own[ours].shape, theirs


def test_a_missing_and_an_extra_name_are_refused() -> None:
    with torch.device("meta"):
        model = small()
        tensors = {theirs: model.state_dict()[ours] for theirs, ours in key_table(model).items()}
    first = next(iter(tensors))
    tensors["surplus"] = tensors.pop(first)
    with pytest.raises(ValueError, match="surplus"):
        rename(tensors, model)

"""The authors' own modules, run on weights that anyone can regenerate, against ours."""

import dataclasses
import re
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deedsr import weights
from deedsr.cli import main as cli
from deedsr.convert.deedsr import convert, fitted, key_table, schedule
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.models import load_model
from deedsr.models.deedsr.adapter_config import AdapterConfig
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.model import DeeDSR, random_model
from deedsr.models.deedsr.sizes import DeeDSRConfig, model_size
from deedsr.models.frozen import original_names
from deedsr.models.frozen.base import stock

GOLDEN = Path(__file__).parents[1] / "golden"


def small() -> DeeDSR:
    """The configuration of ``deedsr_small``: full-width encoder of one block a stage, everything else narrow."""
    sd21 = model_size("sd21")
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
    table = key_table(model)
    theirs = {theirs: regenerated(theirs, own[ours].shape) for theirs, ours in table.items()}
    model.load_state_dict(original_names.renamed(theirs, table, model), strict=False)
    return model


@torch.no_grad()
def test_vector_maps_tokens_and_noise_equal_the_authors(model: DeeDSR, golden: dict[str, torch.Tensor]) -> None:
    x_t, z_lr, lr, t = (golden[f"in.{name}"] for name in ("x_t", "z_lr", "lr", "t"))
    vector = model.encoder(lr)
    steering = model.adapter(z_lr, t, model.adapter.told(vector))
    assert difference(vector, golden["out.vector"]) < 1e-12
    assert difference(steering.tokens, golden["out.tokens"]) < 1e-7
    for index, single in enumerate(steering.maps):
        assert difference(single, golden[f"out.map{index}"]) < 1e-7
    assert difference(model.denoise(x_t, t, model.condition(lr, z_lr)), golden["out.eps"]) < 1e-7


def test_every_name_and_shape_at_full_size_is_the_authors() -> None:
    with torch.device("meta"):
        full = random_model(model_size("sd21"))
    own = full.state_dict()
    listed = dict(line.split("\t") for line in (GOLDEN / "deedsr_keys.tsv").read_text().splitlines())
    table = key_table(full)
    assert table.keys() == listed.keys()
    for theirs, ours in table.items():
        shape = tuple(int(side) for side in listed[theirs].split("x") if side)
        assert torch.Size(shape).numel() == own[ours].numel(), theirs
        assert shape[: own[ours].ndim] == own[ours].shape, theirs


@pytest.fixture(scope="module")
def config(tiny_config: DeeDSRConfig) -> DeeDSRConfig:
    """The authors' architecture as narrow as it can be: four levels, an AutoencoderKL, SD's schedule."""
    sd21 = model_size("sd21")
    return dataclasses.replace(
        sd21,
        unet={**sd21.unet, "block_out_channels": [32, 32, 32, 32], "attention_head_dim": [2, 2, 2, 2]},
        vae={**sd21.vae, "block_out_channels": [32, 32, 32, 32]},
        encoder=tiny_config.encoder,
        adapter=AdapterConfig(4, 32, (1, 1, 1, 1), (True, True, True, False), heads=4, maps=32, vector=16),
        sft_hidden=8,
        defaults={"steps": 2},
    )


def their_vae_names(model: DeeDSR) -> dict[str, str]:
    """As in ``first_stage_model.*``, made by words instead of tables."""
    names, last = {}, len(model.vae.config.block_out_channels) - 1
    for ours in model.vae.state_dict():
        theirs = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", ours)
        theirs = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", theirs)
        theirs = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{last - int(match[1])}.block", theirs)
        theirs = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{last - int(match[1])}.upsample", theirs)
        theirs = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", theirs)
        theirs = theirs.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        theirs = theirs.replace("to_out.0", "proj_out").replace("conv_shortcut", "nin_shortcut")
        theirs = re.sub(r"attn_1\.to_([qkv])", r"attn_1.\1", theirs).replace("conv_norm_out", "norm_out")
        names[f"first_stage_model.{theirs}"] = f"vae.{ours}"
    return names


def authors_checkpoint(model: DeeDSR) -> dict[str, torch.Tensor]:
    """All that a checkpoint of theirs holds, in their names and shapes."""
    own = model.state_dict()
    tensors = {theirs: own[ours] for theirs, ours in {**key_table(model), **their_vae_names(model)}.items()}
    for name, tensor in tensors.items():
        if re.search(r"\.ca\.conv_du\.\d\.weight$|mid\.attn_1\.(q|k|v|proj_out)\.weight$", name):
            tensors[name] = tensor[:, :, None, None]
    return {**tensors, **{name: buffer.float() for name, buffer in schedule(model.process).items()}}


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["ckpt", "pth", "safetensors"])
def test_a_checkpoint_of_theirs_gives_the_same_outputs(config: DeeDSRConfig, tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    model = random_model(config)
    for _, parameter in model.trainable():
        torch.nn.init.normal_(parameter, std=0.05)
    source, tensors = tmp_path / f"theirs.{suffix}", authors_checkpoint(model)
    if suffix == "safetensors":
        weights.save(source, tensors)
    else:
        torch.save({"state_dict": tensors, "global_step": 3} if suffix == "ckpt" else tensors, source)
    convert(source, tmp_path / "model", config)
    converted = load_model((tmp_path / "model").rename(tmp_path / "moved"))
    state = converted.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    lr, t = torch.rand(1, 3, 16, 16), torch.tensor([500])
    z_lr, x_t = torch.randn(2, 1, 4, 16, 16)
    assert torch.equal(
        converted.denoise(x_t, t, converted.condition(lr, z_lr)), model.denoise(x_t, t, model.condition(lr, z_lr))
    )
    assert torch.equal(converted.encode(lr), model.encode(lr))
    defaults = converted.defaults
    assert (defaults.sampler, defaults.steps, defaults.eta, defaults.spacing) == ("ddim", 50, 1.0, "leading")
    assert (defaults.guidance.weight, defaults.guidance.steps) == (1.0, 1)


def test_a_whole_checkpoint_fits_at_full_size_and_the_rest_is_listed() -> None:
    with torch.device("meta"):
        model = random_model(model_size("sd21"))
    listed = dict(line.split("\t") for line in (GOLDEN / "deedsr_keys.tsv").read_text().splitlines())
    shapes = {name: [int(side) for side in shape.split("x") if side] for name, shape in listed.items()}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    own = model.state_dict()
    tensors |= {theirs: own[ours] for theirs, ours in their_vae_names(model).items()}
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    tensors |= {"betas": beta.float(), "alphas_cumprod": (1 - beta).cumprod(0).float()}
    state = fitted(tensors, model_size("sd21"), "theirs.ckpt")
    shapes = {name: tensor.shape for name, tensor in own.items()}
    assert {name: tensor.shape for name, tensor in state.items()} == shapes
    wrong = {**tensors, "cond_stage_model.logit_scale": torch.ones(()), "betas": torch.linspace(1e-4, 0.02, 1000)}
    del wrong["first_stage_model.quant_conv.bias"]
    wrong["Encoder_degrad.time_embed.0.bias"] = torch.empty(7, device="meta")
    with pytest.raises(ValueError, match=r"^theirs\.ckpt: not a DeeDSR of the authors' repository: ") as refused:
        fitted(wrong, model_size("sd21"), "theirs.ckpt")
    for fault in (
        "1 missing (first_stage_model.quant_conv.bias)",
        "1 unexpected (cond_stage_model.logit_scale)",
        "1 of another size (Encoder_degrad.time_embed.0.bias is (7,), not (1024,))",
        "1 of another schedule (betas)",
    ):
        assert fault in str(refused.value)


def test_what_is_no_state_dict_is_refused(config: DeeDSRConfig, tmp_path: Path) -> None:
    torch.save({"state_dict": {"betas": 3}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt: betas should be tensors; this is no state dict"):
        convert(tmp_path / "a.ckpt", tmp_path / "model", config)
    torch.save({"betas": torch.ones(1000)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b\.pth: not a DeeDSR .* missing \(.*1 of another schedule"):
        convert(tmp_path / "b.pth", tmp_path / "model", config)
    assert not (tmp_path / "model").exists()
    with pytest.raises(ValueError, match="exists already; remove it or name another folder"):
        convert(tmp_path / "b.pth", tmp_path, config)


def test_the_schedule_is_the_published_one() -> None:
    """Against the recursion, in numpy's words."""
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    ours = schedule(Process.from_config(model_size("sd21").scheduler))
    product, before = 1.0, 1.0
    for t in range(1000):
        product *= 1 - float(beta[t])
        variance = float(beta[t]) * (1 - before) / (1 - product)
        assert ours["alphas_cumprod"][t].item() == pytest.approx(product, rel=1e-4)
        assert ours["posterior_variance"][t].item() == pytest.approx(variance, rel=1e-3, abs=1e-7)
        assert ours["posterior_mean_coef2"][t].item() == pytest.approx(
            (1 - float(beta[t])) ** 0.5 * (1 - before) / (1 - product), rel=1e-3, abs=1e-6
        )
        before = product
    assert torch.allclose(ours["betas"], beta, rtol=1e-3)


def test_the_command_line_names_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights.save(tmp_path / "other.safetensors", {"conv.weight": torch.ones(2)})
    assert cli._call(["convert", "deedsr", str(tmp_path / "other.safetensors"), str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "other.safetensors: not a DeeDSR of the authors' repository: 1530 missing (Encoder_degrad." in error
    assert "1 unexpected (conv.weight)" in error
    assert cli._call(["convert", "deedsr", str(tmp_path / "none.ckpt"), str(tmp_path / "model")]) == 2
    assert "none.ckpt: no such checkpoint" in capsys.readouterr().err

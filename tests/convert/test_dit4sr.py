"""The DiT4SR authors' own modules, run on weights that anyone can regenerate, against ours."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deedsr.cli import main as cli
from deedsr.convert.dit4sr import CONV_SCALE, STREAMS, convert, fold, their_name, version_of
from deedsr.models.frozen.base import stock, write_part, write_scheduler
from deedsr.models.sd3.dit4sr import SD35, DiT4SRConfig
from deedsr.models.sd3.folder import DIT4SR
from deedsr.models.sd3.lr_stream import LRStream
from deedsr.models.sd3.transformer import DiT4SRTransformer

GOLDEN = Path(__file__).parents[1] / "golden"
POSITIONS = "pos_embed.pos_embed"


def regenerated(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight `name` after the rule of the golden files."""
    n = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())), dtype=torch.float64)
    if len(shape) == 1:
        return 1 + 0.1 * n if name.endswith("weight") else 0.1 * n
    return n / (n.numel() / shape[0]) ** 0.5


@pytest.fixture(scope="module")
def config() -> DiT4SRConfig:
    numbers = json.loads((GOLDEN / "dit4sr_small.json").read_text())
    assert numbers.pop("conv_scale") == 1.2
    narrow = {"block_out_channels": [8], "down_block_types": ["DownEncoderBlock2D"], "norm_num_groups": 4}
    vae = {**SD35.vae, **narrow, "up_block_types": ["UpDecoderBlock2D"], "layers_per_block": 1}
    return replace(SD35, transformer={**numbers, "_class_name": "SD3Transformer2DModel"}, vae=vae)


@pytest.fixture(scope="module")
def theirs(config: DiT4SRConfig) -> dict[str, Tensor]:
    """Their state dict; the buffer of positions is the class's own."""
    lines = (GOLDEN / "dit4sr_small_keys.tsv").read_text().splitlines()
    shapes = {name: tuple(map(int, sides.split("x"))) for name, sides in (line.split("\t") for line in lines)}
    positions = SD3Transformer2DModel.from_config(config.transformer).pos_embed.pos_embed.double()
    return {name: positions if name == POSITIONS else regenerated(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def base(config: DiT4SRConfig, theirs: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen part of their weights as a base in diffusers' layout."""
    folder = tmp_path_factory.mktemp("sd35")
    names = SD3Transformer2DModel.from_config(config.transformer).state_dict()
    write_part(folder / "transformer", {name: theirs[name] for name in names}, config.transformer)
    write_part(folder / "vae", stock(config.vae).state_dict(), config.vae)
    write_scheduler(folder, config.scheduler)
    return folder


def write_shards(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True)
    names = sorted(tensors)
    for index in (0, 1):
        part = {name: tensors[name].contiguous() for name in names[index::2]}
        save_file(part, folder / f"diffusion_pytorch_model-0000{index + 1}-of-00002.safetensors")
    return folder


@torch.no_grad()
@pytest.mark.parametrize(("version", "output"), [("dit4sr_q", "v1"), ("dit4sr_f", "v1"), ("dit4sr_r1", "r1")])
def test_a_converted_checkpoint_gives_the_authors_output(
    version: str, output: str, config: DiT4SRConfig, theirs: dict[str, Tensor], base: Path, tmp_path: Path
) -> None:
    write_shards(tmp_path / version / "transformer", theirs)
    folder = convert(tmp_path / version, tmp_path / "model", base=str(base), config=config)
    model = DIT4SR.load(folder)
    assert model.transformer.stream == STREAMS[version]
    assert STREAMS[version].conv_scale == 1.2
    assert STREAMS[version].legacy_noise_keys == (output == "v1")
    golden = load_file(GOLDEN / "dit4sr_small.safetensors")
    x_t, z_lr, text, pooled, t = (golden[f"in.{name}"] for name in ("x_t", "z_lr", "text", "pooled", "t"))
    found = model.transformer(x_t, text, pooled, t, joint_attention_kwargs={"lr_latents": z_lr}).sample
    expected = golden[f"out.{output}"]
    assert (found - expected).norm() / expected.norm() < 1e-14
    other = golden["out.r1" if output == "v1" else "out.v1"]
    assert (found - other).norm() / other.norm() > 1e-3


@torch.no_grad()
def test_stacked_projections_are_the_authors_own(config: DiT4SRConfig, theirs: dict[str, Tensor]) -> None:
    """With ``projection=stack`` their tensors have the place that they have in their code, and nothing is folded."""
    stock = SD3Transformer2DModel.from_config(config.transformer).double()
    stock.load_state_dict({name: theirs[name] for name in stock.state_dict()})
    stream = LRStream(projection="stack", out_init="random", conv_scale=CONV_SCALE)
    model = DiT4SRTransformer.from_transformer(stock, stream)
    for name, parameter in model.lr_stream():
        parameter.copy_(theirs[their_name(name)])
    golden = load_file(GOLDEN / "dit4sr_small.safetensors")
    x_t, z_lr, text, pooled, t = (golden[f"in.{name}"] for name in ("x_t", "z_lr", "text", "pooled", "t"))
    found = model(x_t, text, pooled, t, joint_attention_kwargs={"lr_latents": z_lr}).sample
    assert (found - golden["out.r1"]).norm() / golden["out.r1"].norm() < 1e-14


@torch.no_grad()
def test_folded_equals_stacked() -> None:
    torch.manual_seed(0)
    frozen, added = nn.Linear(24, 24).double(), nn.Linear(24, 24).double()
    folded = nn.Linear(24, 24).double()
    folded.weight.copy_(fold(added.weight, frozen.weight))
    folded.bias.copy_(fold(added.weight, frozen.bias, added.bias))
    x = torch.randn(5, 24, dtype=torch.float64)
    assert (folded(x) - added(frozen(x))).abs().max() < 1e-12


def test_half_precision_is_folded_to_float32() -> None:
    torch.manual_seed(0)
    own, frozen = torch.randn(2, 8, 8).to(torch.bfloat16)
    folded = fold(own, frozen)
    assert folded.dtype == torch.float32
    assert torch.allclose(folded, own.float() @ frozen.float(), atol=1e-5)


def test_a_single_file_needs_its_version_said(theirs: dict[str, Tensor], config: DiT4SRConfig, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in theirs.items()}, file)
    with pytest.raises(ValueError, match="dit4sr_q, dit4sr_f, dit4sr_r1"):
        convert(file, tmp_path / "model", config=config)
    with pytest.raises(ValueError, match="unknown version 'v1'"):
        convert(file, tmp_path / "model", "v1", config=config)
    assert (convert(file, tmp_path / "model", "dit4sr_f", config=config) / "adapter.safetensors").is_file()
    with pytest.raises(ValueError, match="exists already"):
        convert(file, tmp_path / "model", "dit4sr_f", config=config)
    assert version_of(Path("some/DiT4SR-R1/model.safetensors")) == "dit4sr_r1"


def test_anything_else_is_refused_with_all_its_keys(
    theirs: dict[str, Tensor], config: DiT4SRConfig, tmp_path: Path
) -> None:
    lacking = "transformer_blocks.3.ff.control_conv.bias"
    tensors = {name: value for name, value in theirs.items() if name != lacking}
    tensors |= {"proj_out.bias": torch.zeros(3), "first.surplus": torch.zeros(1), "second.surplus": torch.zeros(1)}
    write_shards(tmp_path / "wrong", tensors)
    with pytest.raises(ValueError) as raised:
        convert(tmp_path / "wrong", tmp_path / "model", "dit4sr_r1", config=config)
    text = str(raised.value)
    assert f"1 missing: {lacking};" in text
    assert "2 without a place: first.surplus, second.surplus;" in text
    assert "1 of another size: proj_out.bias)" in text
    assert not (tmp_path / "model").exists()


def test_the_stock_base_is_not_taken_for_a_checkpoint(base: Path, config: DiT4SRConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="56 missing"):
        convert(base, tmp_path / "model", "dit4sr_r1", config=config)


def test_files_that_are_no_weights_are_named(tmp_path: Path, config: DiT4SRConfig, theirs: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        convert(tmp_path / "nowhere", tmp_path / "model", "dit4sr_q", config=config)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no safetensors file"):
        convert(tmp_path / "empty", tmp_path / "model", "dit4sr_q", config=config)
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.safetensors")
    with pytest.raises(ValueError, match="a pickle"):
        convert(tmp_path / "pickle.safetensors", tmp_path / "model", "dit4sr_q", config=config)
    folder = write_shards(tmp_path / "twice", theirs)
    save_file({"proj_out.bias": theirs["proj_out.bias"]}, folder / "other.safetensors")
    with pytest.raises(ValueError, match=r"proj_out\.bias is in another file"):
        convert(folder, tmp_path / "model", "dit4sr_q", config=config)


def test_the_command_line_refuses_what_it_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    arguments = ["convert", "dit4sr", str(tmp_path / "a.safetensors"), str(tmp_path / "model")]
    assert cli._call(arguments) == 2
    assert "give the version: one of dit4sr_q, dit4sr_f, dit4sr_r1" in capsys.readouterr().err
    assert cli._call([*arguments, "--version", "dit4sr_q"]) == 2
    assert "not a checkpoint of DiT4SR's authors" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()

"""A base as a folder and as one original file: the same networks, and what is wrong with it is said."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn

from deedsr import weights
from deedsr.models.deedsr.folder import DEEDSR, ENCODER, DeeDSRNumbers, load_encoder, model_on_base
from deedsr.models.deedsr.sizes import DeeDSRConfig
from deedsr.models.frozen import original_names as originals
from deedsr.models.frozen.base import PART, Base, stock, write_part, write_scheduler
from deedsr.models.frozen.configs import SD21, SMALL
from deedsr.models.system import ADAPTER, Header

UNET = {**SD21["unet"], "block_out_channels": [32] * 4, "attention_head_dim": [2] * 4, "cross_attention_dim": 24}
VAE = {**SD21["vae"], "block_out_channels": [32, 32, 64, 64]}


def original_names(module: nn.Module, root: str) -> dict[str, Tensor]:
    """The tensors of a stock module as an original file has them, 1x1 convolutions in the VAE's attention."""
    unet = root == originals.UNET
    names = originals.table(module.state_dict(), (originals.unet_pairs if unet else originals.vae_pairs)(module))
    own = module.state_dict()
    tensors = {root + theirs: own[ours] for theirs, ours in names.items()}
    linear = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$")
    return {name: value[:, :, None, None] if linear.search(name) else value for name, value in tensors.items()}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sd/sd.safetensors``, with tensors of a text encoder in it too, and ``base/``: the same as a folder."""
    root = tmp_path_factory.mktemp("original")
    torch.manual_seed(0)
    unet, vae = stock(UNET), stock(VAE)
    others = {"cond_stage_model.model.ln_final.bias": torch.ones(3), "betas": torch.ones(1000)}
    tensors = {**original_names(unet, originals.UNET), **original_names(vae, originals.VAE), **others}
    weights.save(root / "sd" / "sd.safetensors", tensors)
    for base in (root / "sd", root / "base"):
        for part, module, config in (("unet", unet, UNET), ("vae", vae, VAE)):
            write_part(base / part, module.state_dict(), config)
        write_scheduler(base, {**SD21["scheduler"], "prediction_type": "v_prediction"})
    for part in ("unet", "vae"):
        (root / "sd" / part / PART).unlink()
    return root


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_an_original_file_is_the_same_network_as_the_folder(original: Path, part: str) -> None:
    file, folder = (Base.open(original / place).load(part) for place in ("sd/sd.safetensors", "base"))
    assert type(file) is type(folder)
    state = file.state_dict()
    assert state.keys() == folder.state_dict().keys()
    for name, tensor in folder.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_names_are_those_that_diffusers_itself_converts(original: Path) -> None:
    tensors = weights.load(original / "sd" / "sd.safetensors").tensors
    theirs = {
        "unet": convert_ldm_unet_checkpoint(dict(tensors), dict(stock(UNET).config)),
        "vae": convert_ldm_vae_checkpoint(dict(tensors), dict(stock(VAE).config)),
    }
    for part, expected in theirs.items():
        ours = Base.open(original / "sd" / "sd.safetensors").tensors(part)
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())


def test_without_configurations_a_file_is_stable_diffusion_21(original: Path, tmp_path: Path) -> None:
    file = tmp_path / "sd.safetensors"
    shutil.copy(original / "sd" / "sd.safetensors", file)
    for part in ("unet", "vae", "scheduler"):
        assert Base.open(file).config(part) == SD21[part]
    with pytest.raises(ValueError, match=r"sd\.safetensors: holds no unet of this .*of another size.*beside"):
        Base.open(file).load("unet")
    assert Base.open(original / "sd" / "sd.safetensors").config("scheduler")["prediction_type"] == "v_prediction"


def test_what_a_file_lacks_or_has_too_much_is_named(original: Path, tmp_path: Path) -> None:
    base = shutil.copytree(original / "sd", tmp_path / "sd")
    tensors = weights.load(base / "sd.safetensors").tensors
    tensors["first_stage_model.loss.logvar"] = tensors.pop("first_stage_model.quant_conv.bias")
    weights.save(base / "sd.safetensors", tensors)
    with pytest.raises(ValueError, match=r"1 missing \(first_.*\.quant_conv\.bias\); 1 unexpected \(first_.*loss"):
        Base.open(base / "sd.safetensors").load("vae")
    Base.open(base / "sd.safetensors").load("unet")
    config = SMALL["vae"]
    (base / "vae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"AutoencoderDC has no original names; give a folder"):
        Base.open(base / "sd.safetensors").load("vae")
    (base / "sd.safetensors").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"sd\.safetensors: a pickle, which is not read; convert it"):
        Base.open(base / "sd.safetensors").load("unet")


def test_a_vae_with_the_attention_names_of_old_is_read(original: Path, tmp_path: Path) -> None:
    """As the autoencoders of Stable Diffusion lie on the hub."""
    shutil.copytree(original / "base" / "vae", tmp_path / "vae")
    former = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for name, tensor in weights.load(tmp_path / "vae" / PART).tensors.items():
        for present, old in former.items():
            name = name.replace(present, old)
        tensors[name] = tensor
    assert any(".proj_attn." in name for name in tensors)
    weights.save(tmp_path / "vae" / PART, tensors)
    expected, loaded = (Base.open(place).load("vae").state_dict() for place in (original / "base", tmp_path))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())


def test_a_model_on_an_original_file(
    original: Path, tiny_config: DeeDSRConfig, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Trained on the file, exported with the base inside: the same tensors, and the file's v-prediction."""
    multipliers, attention = (1, 1, 1, 1), (False, False, False, True)
    adapter = dataclasses.replace(tiny_config.adapter, multipliers=multipliers, attention=attention)
    base = original / "sd" / "sd.safetensors"
    header = Header(str(base), DeeDSRNumbers(adapter, 8), {"steps": 2})
    model = model_on_base(Base.open(base), load_encoder(tiny_encoder), header)
    assert model.process.prediction == "v_prediction"
    assert model.unet.config.cross_attention_dim == 32
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ENCODER).write_bytes(tiny_encoder.read_bytes())
    DEEDSR.save(tmp_path / "model", dict(model.trainable()), header)
    DEEDSR.export(tmp_path / "model", tmp_path / "whole", with_base=True)
    DEEDSR.export(tmp_path / "model", tmp_path / "slim", with_base=False)
    assert (tmp_path / "slim" / weights.header(tmp_path / "slim" / ADAPTER)["base"]).resolve() == base.resolve()
    for folder in ("model", "whole", "slim"):
        loaded = DEEDSR.load(tmp_path / folder)
        state = loaded.state_dict()
        assert loaded.process.prediction == "v_prediction"
        assert not any(tensor.is_meta for tensor in state.values())
        for name, tensor in model.state_dict().items():
            assert torch.equal(state[name], tensor), (folder, name)

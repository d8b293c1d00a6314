"""The stock parts of a base: ``BASE/unet``, ``BASE/vae``, ``BASE/scheduler``.

BASE is a folder in diffusers' layout, or one safetensors file with Stable Diffusion's original names
(``model.diffusion_model.*``, ``first_stage_model.*``). Such a file says nothing of its configuration: it is that of
Stable Diffusion 2.1-base, or what lies beside the file as ``unet/config.json``, ``vae/config.json`` and
``scheduler/scheduler_config.json`` (v-prediction, another size).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from deedsr import weights
from deedsr.files import write_json
from deedsr.models.deedsr.sizes import SD21
from deedsr.models.frozen import original_names
from deedsr.models.frozen.stock import read_config, stock

PART, SCHEDULER = "diffusion_pytorch_model.safetensors", "scheduler_config.json"
ORIGINAL = {
    "unet": (original_names.UNET, original_names.unet_pairs),
    "vae": (original_names.VAE, original_names.vae_pairs),
}
# an AutoencoderKL that diffusers wrote before 0.18 has other names in its attention
FORMER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def read_part(place: Path) -> dict[str, Any]:
    """The configuration of the part `place`. Raises ValueError that names a missing or broken file."""
    file, base = (SCHEDULER if place.name == "scheduler" else "config.json"), place.parent
    if not base.is_file():
        return read_config(place, file)
    if place.name not in ("unet", "vae", "scheduler"):
        raise ValueError(f"{base}: a single file has no {place.name}; give a folder in diffusers' layout")
    beside = base.parent / place.name
    return read_config(beside, file) if (beside / file).is_file() else dict(getattr(SD21, place.name))


def part_tensors(place: Path) -> dict[str, Tensor]:
    """The tensors of the part `place` (unet or vae) in diffusers' names, in the dtypes of the file.

    Raises ValueError for a file that is missing or broken, and for an original one that lacks tensors of the part, has
    others or is of another size.
    """
    base = place.parent
    if not base.is_file():
        return {_present(name): tensor for name, tensor in weights.load(place / PART).tensors.items()}
    with torch.device("meta"):
        module = stock(read_part(place))
    if not isinstance(module, UNet2DConditionModel | AutoencoderKL):
        raise ValueError(f"{place}: {type(module).__name__} has no original names; give a folder in diffusers' layout")
    prefix, pairs = ORIGINAL[place.name]
    found = weights.load(base, prefix=prefix).tensors
    names = {prefix + theirs: ours for theirs, ours in original_names.table(module.state_dict(), pairs(module)).items()}
    if faults := original_names.misfits(found, names, module):
        raise ValueError(
            f"{base}: holds no {place.name} of this configuration: {faults}; put the {place.name}/config.json that it "
            "was made with beside the file, or give a folder in diffusers' layout"
        )
    return original_names.renamed(found, names, module)


def _present(name: str) -> str:
    """The name that diffusers gives a tensor today."""
    for former, present in FORMER.items():
        name = name.replace(former, present)
    return name


def load_part(place: Path, **overrides: Any) -> nn.Module:
    """The stock module `place` in float32, every tensor checked, with other numbers where `overrides` has some.

    With another ``cross_attention_dim`` among the overrides, every attn2.to_k and to_v starts fresh.
    """
    try:
        with torch.device("meta"):
            module = stock(read_part(place), **overrides)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: no part of a base ({error})") from None
    fresh: set[str] = set()
    if "cross_attention_dim" in overrides:
        fresh = {name for name in module.state_dict() if ".attn2.to_k." in name or ".attn2.to_v." in name}
    kept = {name: tensor.float() for name, tensor in part_tensors(place).items() if name not in fresh}
    source = place.parent if place.parent.is_file() else place / PART
    weights.load_strict(module, kept, source, allow_missing=fresh, assign=True)
    for name in sorted({name.rpartition(".")[0] for name in fresh}):
        module.get_submodule(name).to_empty(device="cpu").reset_parameters()
    assert not any(tensor.is_meta for tensor in chain(module.parameters(), module.buffers()))
    return module


def write_part(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """A stock module as diffusers writes it: ``config.json``, then its safetensors, so that these mark it as whole."""
    write_json(folder / "config.json", dict(config))
    weights.save(folder / PART, tensors)


def write_scheduler(base: Path, config: Mapping[str, Any]) -> None:
    """``scheduler/scheduler_config.json`` of the base in `base`."""
    write_json(base / "scheduler" / SCHEDULER, dict(config))

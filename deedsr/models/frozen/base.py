"""A base, the frozen backbone of a model: stock diffusers modules by part, opened once.

On the disk it is a folder in diffusers' layout (``unet/`` or ``transformer/``, ``vae/``, ``scheduler/``), or one
safetensors file with Stable Diffusion's original names (``model.diffusion_model.*``, ``first_stage_model.*``). Such a
file says nothing of its configuration: it is that of Stable Diffusion 2.1-base, or what lies beside the file as
``unet/config.json``, ``vae/config.json`` and ``scheduler/scheduler_config.json`` (v-prediction, another size).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from deedsr import weights
from deedsr.diffusion.process import Process
from deedsr.files import write_json
from deedsr.models.frozen import configs, lora, original_names
from deedsr.models.resolver import resolve

PART, SCHEDULER = "diffusion_pytorch_model.safetensors", "scheduler_config.json"
CLASSES = ("UNet2DConditionModel", "AutoencoderKL", "AutoencoderDC", "AutoencoderTiny", "SD3Transformer2DModel")
ORIGINAL = {
    "unet": (original_names.UNET, original_names.unet_pairs),
    "vae": (original_names.VAE, original_names.vae_pairs),
}
# an AutoencoderKL that diffusers wrote before 0.18 has other names in its attention
FORMER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def stock(config: Mapping[str, Any], **overrides: Any) -> nn.Module:
    """A module of the diffusers class ``config["_class_name"]``, with random weights. ValueError for another class."""
    name = config.get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"class {name!r} can't be part of a base; it may be one of {', '.join(CLASSES)}")
    return getattr(diffusers, name).from_config({**config, **overrides})


@dataclass(frozen=True)
class Base:
    """A base in diffusers' layout. place: its folder."""

    place: Path

    @staticmethod
    def open(place: Path) -> Base:
        """The base in the folder or file `place`."""
        return OriginalFile(place) if place.is_file() else Base(place)

    @staticmethod
    def find(reference: str, denoiser: str, near: Path | None = None) -> Base:
        """The base that `reference` means, a path (also relative to the folder `near`) or a hub id.

        denoiser: the name of the part that predicts, ``unet`` or ``transformer``. Errors as of `resolve`.
        """
        parts = [f"{part}/{file}" for part in (denoiser, "vae") for file in ("config.json", PART)]
        return Base.open(resolve(reference, near, [*parts, f"scheduler/{SCHEDULER}"]))

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part. Raises ValueError that names a missing or broken file."""
        return read_config(_config_file(self.place, part))

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of a part in diffusers' names, in the dtypes of the file.

        Raises ValueError for a file that is missing or broken, and for an original one that lacks tensors of the part,
        has others or is of another size.
        """
        return {_present(name): tensor for name, tensor in weights.load(self.file(part)).tensors.items()}

    def file(self, part: str) -> Path:
        """The file that holds the tensors of a part."""
        return self.place / part / PART

    def process(self) -> Process:
        """The diffusion that the base was trained with, as its scheduler says."""
        return Process.from_config(self.config("scheduler"))

    def load(self, part: str, dtype: torch.dtype | None = torch.float32, **overrides: Any) -> nn.Module:
        """A part as a stock module, every tensor checked, with other numbers where `overrides` has some.

        dtype: of all tensors, or None for those of the file. With another ``cross_attention_dim`` among the overrides,
        every attn2.to_k and to_v starts from random values. Raises ValueError for what does not fit, by name.
        """
        try:
            with torch.device("meta"):
                module = stock(self.config(part), **overrides)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.place / part}: no part of a base ({error})") from None
        fresh: set[str] = set()
        if "cross_attention_dim" in overrides:
            fresh = {name for name in module.state_dict() if ".attn2.to_k." in name or ".attn2.to_v." in name}
        tensors = weights.cast(self.tensors(part), dtype)
        kept = {name: tensor for name, tensor in tensors.items() if name not in fresh}
        weights.load_strict(module, kept, self.file(part), allow_missing=fresh, assign=True)
        for name in sorted({name.rpartition(".")[0] for name in fresh}):
            module.get_submodule(name).to_empty(device="cpu").reset_parameters()
        assert not any(tensor.is_meta for tensor in chain(module.parameters(), module.buffers()))
        return module

    def copy(
        self,
        target: Path,
        parts: Sequence[str],
        dtype: torch.dtype | None,
        added: Mapping[str, Tensor] | None = None,
        instead: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write `parts` to the folder `target` in diffusers' layout, their floating-point tensors in `dtype` if any.

        added: what is added to tensors, by PART.NAME. instead: what takes their place, by PART.NAME.
        """
        for part in parts:
            tensors = lora.merged(self.tensors(part), part, added or {})
            tensors |= {name: new for name in tensors if (new := (instead or {}).get(f"{part}.{name}")) is not None}
            write_part(target / part, weights.cast(tensors, dtype), self.config(part))
        write_scheduler(target, self.config("scheduler"))


class OriginalFile(Base):
    """A base as one safetensors file with Stable Diffusion's original names."""

    def config(self, part: str) -> dict[str, Any]:
        if part not in configs.SD21:
            raise ValueError(f"{self.place}: a single file has no {part}; give a folder in diffusers' layout")
        file = _config_file(self.place.parent, part)
        return read_config(file) if file.is_file() else dict(configs.SD21[part])

    def tensors(self, part: str) -> dict[str, Tensor]:
        with torch.device("meta"):
            module = stock(self.config(part))
        if not isinstance(module, UNet2DConditionModel | AutoencoderKL):
            kind = type(module).__name__
            raise ValueError(f"{self.place}: {kind} has no original names; give a folder in diffusers' layout")
        prefix, pairs = ORIGINAL[part]
        found = weights.load(self.place, prefix=prefix).tensors
        table = original_names.table(module.state_dict(), pairs(module))
        names = {prefix + theirs: ours for theirs, ours in table.items()}
        if faults := original_names.misfits(found, names, module):
            raise ValueError(
                f"{self.place}: holds no {part} of this configuration: {faults}; put the {part}/config.json that it "
                "was made with beside the file, or give a folder in diffusers' layout"
            )
        return original_names.renamed(found, names, module)

    def file(self, part: str) -> Path:
        return self.place


def _config_file(folder: Path, part: str) -> Path:
    return folder / part / (SCHEDULER if part == "scheduler" else "config.json")


def read_config(file: Path) -> dict[str, Any]:
    """The JSON configuration in `file`. Raises ValueError that names a missing or broken file."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{file}: missing; a base is a folder in diffusers' layout (unet/, vae/, scheduler/)"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file}: holds a {type(config).__name__}, not the names and values of a configuration")
    return config


def _present(name: str) -> str:
    """The name that diffusers gives a tensor today."""
    for former, present in FORMER.items():
        name = name.replace(former, present)
    return name


def write_part(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """A stock module as diffusers writes it: ``config.json``, then its safetensors, so that these mark it as whole."""
    write_json(folder / "config.json", dict(config))
    weights.save(folder / PART, tensors)


def write_scheduler(base: Path, config: Mapping[str, Any]) -> None:
    """``scheduler/scheduler_config.json`` of the base in `base`."""
    write_json(base / "scheduler" / SCHEDULER, dict(config))

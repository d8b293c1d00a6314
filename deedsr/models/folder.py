"""DeeDSR as a folder: ``adapter.safetensors`` (all that stage 2 trains), ``encoder.safetensors``, and a base.

The header of ``adapter.safetensors`` holds the configuration: the adapter's numbers, the sampling defaults, and `base`,
a folder in diffusers' layout (relative to the model's own, or a path) or a hub id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deedsr import weights
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.encoder.network import DegradationEncoder
from deedsr.models.adapter_config import AdapterConfig
from deedsr.models.build import read_config, stock
from deedsr.models.deedsr import DeeDSR, build
from deedsr.models.presets import DeeDSRConfig
from deedsr.models.resolver import DIFFUSERS_LAYOUT, resolve

ADAPTER, ENCODER, PART = "adapter.safetensors", "encoder.safetensors", "diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler_config.json"
SYSTEM = "deedsr"


def write_part(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """A stock module as diffusers writes it: ``config.json``, then its safetensors, so that these mark it as whole."""
    _write_json(folder / "config.json", config)
    weights.save(folder / PART, tensors)


def write_scheduler(base: Path, config: Mapping[str, Any]) -> None:
    """``scheduler/scheduler_config.json`` of the base in `base`."""
    _write_json(base / "scheduler" / SCHEDULER, config)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Under a temporary name first: several ranks may write the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(dict(values), indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def load_part(folder: Path, **overrides: Any) -> nn.Module:
    """A stock module from ``folder/config.json`` and its safetensors, every tensor checked.

    With another ``cross_attention_dim`` among the overrides, every attn2.to_k and to_v keeps its fresh initialisation.
    """
    try:
        module = stock(read_config(folder), **overrides)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}: no part of a base ({error})") from None
    fresh: set[str] = set()
    if "cross_attention_dim" in overrides:
        fresh = {name for name in module.state_dict() if ".attn2.to_k." in name or ".attn2.to_v." in name}
    tensors = weights.load(folder / PART).tensors
    kept = {name: tensor.float() for name, tensor in tensors.items() if name not in fresh}
    weights.load_strict(module, kept, folder / PART, allow_missing=fresh)
    return module


def load_encoder(file: Path) -> DegradationEncoder:
    """The degradation encoder that stage 1 wrote."""
    stored = weights.load(file)
    if not stored.config:
        raise ValueError(f"{file}: its header has no configuration; it was not written by stage 1")
    try:
        encoder = DegradationEncoder(**stored.config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: its header does not describe an encoder of stage 1 ({error})") from None
    weights.load_strict(encoder, _cast(stored.tensors, torch.float32), file)
    return encoder


def assemble(
    base: Path, encoder: DegradationEncoder, adapter: AdapterConfig, sft_hidden: int, defaults: Mapping[str, Any]
) -> DeeDSR:
    """A DeeDSR on the base in `base`, its trained parts fresh; the base's scheduler says what the U-Net predicts."""
    return DeeDSR(
        load_part(base / "unet", cross_attention_dim=adapter.context),
        load_part(base / "vae"),
        Process.from_config(read_config(base / "scheduler", SCHEDULER)),
        encoder,
        adapter,
        sft_hidden,
        Settings.from_dict(defaults),
    )


@dataclass(frozen=True)
class Header:
    """What ``adapter.safetensors`` says of itself. base: a folder or a hub id. defaults: arguments of `Settings`."""

    base: str
    adapter: AdapterConfig
    sft_hidden: int
    defaults: dict[str, Any]

    @classmethod
    def of(cls, file: Path, config: Mapping[str, Any]) -> Header:
        """From the configuration in `file`; ValueError that names it for one that stage 2 did not write."""
        if config.get("system") != SYSTEM:
            raise ValueError(f"{file}: its header says nothing of a {SYSTEM} adapter; it was not written by stage 2")
        try:
            header = cls(
                str(config["base"]), AdapterConfig(**config["adapter"]), int(config["sft_hidden"]), config["defaults"]
            )
            Settings.from_dict(header.defaults)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: the configuration in its header is damaged ({error})") from None
        return header

    def base_folder(self, folder: Path) -> Path:
        """Where the base of the model in `folder` lies."""
        return resolve(self.base, folder, DIFFUSERS_LAYOUT)


def skeleton(folder: Path) -> DeeDSR:
    """The DeeDSR in `folder` on the meta device: its shapes, without its weights."""
    header = Header.of(folder / ADAPTER, weights.header(folder / ADAPTER))
    base = header.base_folder(folder)
    config = DeeDSRConfig(
        folder.name,
        read_config(base / "unet"),
        read_config(base / "vae"),
        read_config(base / "scheduler", SCHEDULER),
        weights.header(folder / ENCODER),
        header.adapter,
        header.sft_hidden,
        header.defaults,
    )
    with torch.device("meta"):
        return build(config)


def load_folder(folder: Path) -> DeeDSR:
    """The DeeDSR in `folder`; ValueError that names the file for anything missing, surplus or of another size."""
    file = folder / ADAPTER
    stored = weights.load(file)
    header = Header.of(file, stored.config)
    encoder = load_encoder(folder / ENCODER)
    if encoder.dimension != header.adapter.vector:
        given, taken = encoder.dimension, header.adapter.vector
        raise ValueError(f"{folder / ENCODER}: gives {given} numbers, but the adapter beside it takes {taken}")
    model = assemble(header.base_folder(folder), encoder, header.adapter, header.sft_hidden, header.defaults)
    model.load_trained(_cast(stored.tensors, torch.float32), file)
    return model


def save_adapter(
    file: Path, model: DeeDSR, tensors: Mapping[str, Tensor], base: str, defaults: Mapping[str, Any], sft_hidden: int
) -> None:
    """Write the trained `tensors` with all that `load_folder` needs to know."""
    adapter = asdict(model.adapter.config)
    config = {"system": SYSTEM, "base": base, "adapter": adapter, "sft_hidden": sft_hidden, "defaults": dict(defaults)}
    weights.save(file, tensors, config)


def export(source: Path, target: Path, with_base: bool, dtype: torch.dtype | None = None) -> None:
    """Write the DeeDSR in `source` to the folder `target`, its floating-point tensors in `dtype` if one is given.

    With the base, `target` needs nothing else; without it, it points to the base that `source` uses.
    Raises ValueError where `source` is damaged or `target` exists.
    """
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise ValueError(f"{target}: is not an empty folder; choose a new one")
    load_folder(source)
    stored = weights.load(source / ADAPTER)
    base = Header.of(source / ADAPTER, stored.config).base_folder(source)
    config = {**stored.config, "base": "base" if with_base else _pointer(stored.config["base"], base)}
    weights.save(target / ADAPTER, _cast(stored.tensors, dtype), config)
    encoder = weights.load(source / ENCODER)
    weights.save(target / ENCODER, _cast(encoder.tensors, dtype), encoder.config)
    if with_base:
        for part in ("unet", "vae"):
            tensors = weights.load(base / part / PART).tensors
            write_part(target / "base" / part, _cast(tensors, dtype), read_config(base / part))
        write_scheduler(target / "base", read_config(base / "scheduler", SCHEDULER))


def _pointer(reference: str, base: Path) -> str:
    return str(base.resolve()) if base.is_dir() and "snapshots" not in base.parts else reference


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    return {
        name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def placed(model: DeeDSR, device: str | torch.device, dtype: torch.dtype) -> DeeDSR:
    """`model` on `device` in `dtype`, ready for inference."""
    return model.to(device, dtype).requires_grad_(False)

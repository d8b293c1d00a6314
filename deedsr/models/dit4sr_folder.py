"""DiT4SR as a folder: ``adapter.safetensors`` (the LR stream), ``texts.safetensors`` if it has texts, and a base.

The header of ``adapter.safetensors`` holds the numbers of `LRStream`, the sampling defaults, and `base`, a folder in
diffusers' layout (transformer/, vae/, scheduler/), relative to the model's own or a path, or a hub id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from deedsr import weights
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.models.dit4sr import DiT4SR, DiT4SRConfig, build
from deedsr.models.dit4sr_stream import LRStream
from deedsr.models.dit4sr_transformer import DiT4SRTransformer
from deedsr.models.folder import ADAPTER
from deedsr.models.parts import PART, load_part, read_part
from deedsr.models.resolver import resolve
from deedsr.models.sd3 import SD3Restoration, Text

SYSTEM = "dit4sr"
TEXTS = "texts.safetensors"
LAYOUT = [
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
]


@dataclass(frozen=True)
class Header:
    """What ``adapter.safetensors`` says of itself. base: a folder or a hub id. defaults: arguments of `Settings`."""

    base: str
    stream: LRStream
    defaults: dict[str, Any]

    @classmethod
    def of(cls, file: Path, config: Mapping[str, Any]) -> Header:
        """From the configuration in `file`; ValueError that names it for one that is not a DiT4SR's."""
        if config.get("system") != SYSTEM:
            raise ValueError(f"{file}: its header says nothing of a {SYSTEM} adapter")
        try:
            header = cls(str(config["base"]), LRStream(**config["stream"]), config["defaults"])
            Settings.from_dict(header.defaults)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: the configuration in its header is damaged ({error})") from None
        return header

    def config(self) -> dict[str, Any]:
        """What `of` reads."""
        return {"system": SYSTEM, "base": self.base, "stream": asdict(self.stream), "defaults": self.defaults}

    def base_folder(self, folder: Path) -> Path:
        """Where the base of the model in `folder` lies."""
        return resolve(self.base, folder, LAYOUT)


def load_transformer(folder: Path) -> SD3Transformer2DModel:
    """The stock transformer in `folder`, in the dtype of its file; ValueError for what does not fit, by name."""
    config = read_part(folder)
    if config.get("_class_name") != SD3Transformer2DModel.__name__:
        raise ValueError(f"{folder}: holds a {config.get('_class_name')}, not a {SD3Transformer2DModel.__name__}")
    with torch.device("meta"):
        transformer = SD3Transformer2DModel.from_config(config)
    tensors = weights.load(folder / PART).tensors
    weights.load_strict(transformer, tensors, folder / PART, assign=True)
    return transformer.eval()


def assemble(base: Path, stream: LRStream, defaults: Mapping[str, Any]) -> DiT4SR:
    """A DiT4SR on the base in `base`, its LR stream fresh."""
    return DiT4SR(
        DiT4SRTransformer.from_transformer(load_transformer(base / "transformer"), stream),
        load_part(base / "vae"),
        Process.from_config(read_part(base / "scheduler")),
        Settings.from_dict(defaults),
    )


def skeleton(folder: Path) -> DiT4SR:
    """The DiT4SR in `folder` on the meta device: its shapes, without its weights."""
    header = Header.of(folder / ADAPTER, weights.header(folder / ADAPTER))
    base = header.base_folder(folder)
    configs = (read_part(base / part) for part in ("transformer", "vae", "scheduler"))
    with torch.device("meta"):
        return build(DiT4SRConfig(folder.name, *configs, header.stream, header.defaults))


def load_folder(folder: Path) -> DiT4SR:
    """The DiT4SR in `folder`; ValueError that names the file for anything missing, surplus or of another size."""
    file = folder / ADAPTER
    stored = weights.load(file)
    header = Header.of(file, stored.config)
    model = assemble(header.base_folder(folder), header.stream, header.defaults)
    model.load_trained(stored.tensors, file)
    if (folder / TEXTS).is_file():
        load_texts(folder / TEXTS, model)
    return model


def save_adapter(file: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write the trained `tensors` with all that `load_folder` needs to know."""
    weights.save(file, tensors, header.config())


def save_texts(file: Path, positive: Text, negative: Text) -> None:
    """Write what every image is told and what guidance leads away from."""
    named = {"positive": positive, "negative": negative}
    weights.save(file, {f"{name}.{part}": value for name, text in named.items() for part, value in vars(text).items()})


def load_texts(file: Path, model: SD3Restoration) -> None:
    """Give `model` the texts in `file`; ValueError that names it where they are not of the model's width."""
    tensors = weights.load(file).tensors
    config = model.transformer.config
    widths = {"tokens": config.joint_attention_dim, "pooled": config.pooled_projection_dim}
    for name in ("positive", "negative"):
        for part, width in widths.items():
            found = tensors.get(f"{name}.{part}")
            if found is None or found.shape[-1] != width or len(found) != 1:
                shape = "missing" if found is None else tuple(found.shape)
                raise ValueError(f"{file}: {name}.{part} should be one text of width {width}; it is {shape}")
    texts = [Text(tensors[f"{name}.tokens"], tensors[f"{name}.pooled"]) for name in ("positive", "negative")]
    model.set_texts(*texts)

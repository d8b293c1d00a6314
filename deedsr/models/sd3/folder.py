"""Models on Stable Diffusion 3 as folders: ``adapter.safetensors``, if they have texts ``texts.safetensors``, a base.

The header of ``adapter.safetensors`` holds the numbers of what is trained beside the base, the sampling defaults, and
`base`, a folder in diffusers' layout (transformer/, vae/, scheduler/), relative to the model's own or a path, or a hub
id. A checkpoint of stage 2 holds the same; its texts are looked for in ``model/`` beside it, then beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from deedsr import weights
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.files import new_folder
from deedsr.models.contract import Text
from deedsr.models.frozen.parts import PART, load_part, part_tensors, read_part, write_part, write_scheduler
from deedsr.models.frozen.stock import stock
from deedsr.models.resolver import reference, resolve
from deedsr.models.sd3.controlnet import Branch, SD3ControlNet
from deedsr.models.sd3.dit4sr import SD35, SMALL, DiT4SR, DiT4SRConfig, build
from deedsr.models.sd3.lr_stream import LRStream
from deedsr.models.sd3.model import SD3Restoration
from deedsr.models.sd3.model import counts as counts
from deedsr.models.trained import ADAPTER, Fresh, beside, cast, file_of, header_of, pointer, tensors_of

TEXTS = "texts.safetensors"
KINDS = {"dit4sr": (DiT4SR, LRStream), "sd3_controlnet": (SD3ControlNet, Branch)}
"""System → its class, and the numbers of what is trained beside the base."""
SIZES = {
    SD35.name: partial(build, SD35),
    SMALL.name: partial(build, SMALL),
    "sd3_controlnet": lambda: _with(SD35, SD3ControlNet, Branch()),
}
SAMPLING = {size.name: size.defaults for size in (SD35, SMALL)}
"""Size → how to sample, as arguments of `Settings`."""
WORDS = ("base", "beside", "defaults", "size", "texts")
LAYOUT = [
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
]


@dataclass(frozen=True)
class Header:
    """What a trained part says of itself. base: a folder or a hub id. defaults: arguments of `Settings`."""

    base: str
    beside: LRStream | Branch
    defaults: dict[str, Any]

    @property
    def system(self) -> str:
        return next(name for name, (_, numbers) in KINDS.items() if isinstance(self.beside, numbers))

    @classmethod
    def of(cls, file: Path, config: Mapping[str, Any]) -> Header:
        """From the configuration in `file`; ValueError that names it for one that is not of such a model."""
        if config.get("system") not in KINDS:
            raise ValueError(f"{file}: its header says nothing of a model on Stable Diffusion 3")
        try:
            numbers = KINDS[config["system"]][1]
            header = cls(str(config["base"]), numbers(**config["beside"]), config["defaults"])
            Settings.from_dict(header.defaults)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: the configuration in its header is damaged ({error})") from None
        return header

    def config(self) -> dict[str, Any]:
        """What `of` reads."""
        return {"system": self.system, "base": self.base, "beside": asdict(self.beside), "defaults": self.defaults}

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


def assemble(base: Path, numbers: LRStream | Branch, defaults: Mapping[str, Any]) -> SD3Restoration:
    """A model on the base in `base`, what is trained fresh."""
    kind = next(kind for kind, wanted in KINDS.values() if isinstance(numbers, wanted))
    process = Process.from_config(read_part(base / "scheduler"))
    transformer, vae = load_transformer(base / "transformer"), load_part(base / "vae")
    return kind.on(transformer, numbers, vae, process, Settings.from_dict(defaults))


def skeleton(place: Path) -> SD3Restoration:
    """The model in the folder or checkpoint `place` on the meta device: its shapes, without its weights."""
    header = Header.of(file_of(place), header_of(place))
    base = header.base_folder(file_of(place).parent)
    configs = (read_part(base / part) for part in ("transformer", "vae", "scheduler"))
    with torch.device("meta"):
        config = DiT4SRConfig(place.name, *configs, defaults=header.defaults)
        return _with(config, KINDS[header.system][0], header.beside)


def _with(config: DiT4SRConfig, kind: type[SD3Restoration], numbers: LRStream | Branch) -> SD3Restoration:
    process, defaults = Process.from_config(config.scheduler), Settings.from_dict(config.defaults)
    return kind.on(stock(config.transformer), numbers, stock(config.vae), process, defaults)


def load(place: Path) -> SD3Restoration:
    """The model in the folder or checkpoint `place`.

    Raises ValueError that names the file for anything missing, surplus or of another size.
    """
    file = file_of(place)
    header = Header.of(file, header_of(place))
    model = assemble(header.base_folder(file.parent), header.beside, header.defaults)
    model.load_trained(tensors_of(place), file)
    for texts in beside(place, TEXTS):
        if texts.is_file():
            load_texts(texts, model)
            break
    return model


def save_adapter(file: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write the trained `tensors` with all that `load` needs to know."""
    weights.save(file, tensors, header.config())


def export(source: Path, target: Path, with_base: bool, dtype: torch.dtype | None = None) -> None:
    """See `deedsr.models.export`."""
    with new_folder(target) as folder:
        load(source)
        header, place = Header.of(file_of(source), header_of(source)), file_of(source).parent
        base = header.base_folder(place)
        header = replace(header, base="base" if with_base else pointer(header.base, base, place))
        save_adapter(folder / ADAPTER, cast(tensors_of(source), dtype), header)
        texts = next((file for file in beside(source, TEXTS) if file.is_file()), None)
        if texts is not None:
            weights.save(folder / TEXTS, cast(weights.load(texts).tensors, dtype))
        if with_base:
            for part in ("transformer", "vae"):
                write_part(folder / "base" / part, cast(part_tensors(base / part), dtype), read_part(base / part))
            write_scheduler(folder / "base", read_part(base / "scheduler"))


def fresh(config: Mapping[str, Any], seed: int) -> Fresh:
    """A model to train, in float32: on `base`, with the numbers `beside`.

    size: the name of one whose sampling defaults it takes, with other numbers where there are `defaults`.
    texts: of the configuration, a folder with ``texts.safetensors``, or None. seed: of what is not read from files.
    """
    numbers = KINDS[config["system"]][1](**config["beside"])
    if config["size"] not in SAMPLING:
        raise ValueError(f"unknown model.size {config['size']!r}; there are: {', '.join(SAMPLING)}")
    header = Header(reference(config["base"]), numbers, {**SAMPLING[config["size"]], **config.get("defaults", {})})
    base = resolve(config["base"], files=LAYOUT)
    torch.manual_seed(seed)
    model = assemble(base, numbers, header.defaults).float()
    texts = config.get("texts")
    if texts is not None:
        load_texts(Path(texts) / TEXTS, model)

    def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
        if texts is not None:
            save_texts(folder / TEXTS, model.text("positive"), model.text("negative"))
        save_adapter(folder / ADAPTER, tensors, header)

    return Fresh(model, header.config(), save)


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

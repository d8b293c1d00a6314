"""Models on Stable Diffusion 3 as folders: ``adapter.safetensors``, if they have texts ``texts.safetensors``, a base.

The header of ``adapter.safetensors`` holds the numbers of what is trained, under ``beside``. The texts of a checkpoint
of stage 2 are looked for in ``model/`` beside it, then beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from deedsr import weights
from deedsr.diffusion.sampler import Settings
from deedsr.models.contract import Text
from deedsr.models.frozen.base import Base
from deedsr.models.resolver import reference
from deedsr.models.sd3.controlnet import Branch, SD3ControlNet
from deedsr.models.sd3.dit4sr import SD35, SMALL, DiT4SR, DiT4SRConfig, random_model
from deedsr.models.sd3.lr_stream import LRStream
from deedsr.models.sd3.model import SD3Restoration
from deedsr.models.sd3.prompts import TEXTS
from deedsr.models.system import Header, System, TrainableModel, companion_places, load_trained

SIZES = {size.name: size for size in (SD35, SMALL)}


@dataclass(frozen=True)
class SD3System(System[SD3Restoration, LRStream | Branch]):
    """A system on Stable Diffusion 3. kind: of its models. trained: the class of the numbers of what is trained."""

    name: str
    kind: type[SD3Restoration]
    trained: type[LRStream | Branch]
    sizes: Mapping[str, Callable[[], SD3Restoration]]
    denoiser: str = "transformer"
    companion: str = TEXTS
    words: tuple[str, ...] = ("base", "beside", "defaults", "size", "texts")

    def load(self, place: Path) -> SD3Restoration:
        trained = self.open(place)
        model = self.model_on_base(trained.base, trained.header)
        model.base = trained.header.base, trained.file.parent
        load_trained(model, trained.tensors(), trained.file)
        if trained.companion is not None:
            load_texts(trained.companion, model)
        return model

    def skeleton(self, place: Path) -> SD3Restoration:
        trained = self.open(place)
        transformer, vae, scheduler = map(trained.base.config, ("transformer", "vae", "scheduler"))
        with torch.device("meta"):
            config = DiT4SRConfig(place.name, transformer, vae, scheduler, defaults=trained.header.defaults)
            return random_model(config, self.kind, trained.header.numbers)

    def numbers(self, config: Mapping[str, Any]) -> LRStream | Branch:
        return self.trained(**config["beside"])

    def plain(self, numbers: LRStream | Branch) -> dict[str, Any]:
        return {"beside": asdict(numbers)}

    def with_lora(self, numbers: LRStream | Branch, rank: int) -> LRStream | Branch:
        assert isinstance(numbers, LRStream)
        return replace(numbers, lora_rank=rank)

    def merged(self, numbers: LRStream | Branch) -> LRStream | Branch:
        return self.with_lora(numbers, 0) if isinstance(numbers, LRStream) else numbers

    def find_companion(self, place: Path, config: Mapping[str, Any]) -> Path | None:
        return next((file for file in companion_places(place, TEXTS) if file.is_file()), None)

    def trainable(self, words: Mapping[str, Any], seed: int) -> TrainableModel:
        """words: on `base`, with the numbers `beside`, and a folder with `texts` or None.

        size: the name of one whose sampling defaults it takes, with other numbers where there are `defaults`.
        """
        size, numbers, texts = self.size(words), self.numbers(words), words.get("texts")
        header = Header(reference(words["base"]), numbers, size.defaults)
        base = Base.find(words["base"], self.denoiser)
        torch.manual_seed(seed)
        model = self.model_on_base(base, header).float()
        if texts is not None:
            load_texts(Path(texts) / TEXTS, model)

        def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
            if texts is not None:
                save_texts(folder / TEXTS, model.text("positive"), model.text("negative"))
            self.save(folder, tensors, header)

        return TrainableModel(model, self.config(header), save)

    def untrained(self, words: Mapping[str, Any]) -> SD3Restoration:
        return random_model(self.size(words), self.kind, self.numbers(words))

    def size(self, words: Mapping[str, Any]) -> DiT4SRConfig:
        """The size that `words` name, with their sampling defaults. ValueError for a name or a number it hasn't."""
        name, takes = words["size"], [field.name for field in fields(self.trained)]
        if name not in SIZES:
            raise ValueError(f"unknown model.size {name!r}; there are: {', '.join(SIZES)}")
        if strange := sorted(words["beside"].keys() - set(takes)):
            raise ValueError(f"model.beside of {self.name} has no {strange[0]!r}; there are: {', '.join(takes)}")
        return replace(SIZES[name], defaults={**SIZES[name].defaults, **words.get("defaults", {})})

    def model_on_base(self, base: Base, header: Header[LRStream | Branch]) -> SD3Restoration:
        """A model on a frozen base, its trainable parameters fresh, all but the autoencoder in the base's dtype."""
        name, wanted = base.config("transformer").get("_class_name"), SD3Transformer2DModel.__name__
        if name != wanted:
            raise ValueError(f"{base.place}: its transformer is a {name}, not a {wanted}")
        transformer, vae = base.load("transformer", dtype=None), base.load("vae")
        return self.kind.on(transformer, header.numbers, vae, base.process(), Settings.from_dict(header.defaults))


def save_texts(file: Path, positive: Text, negative: Text) -> None:
    """Write the text of every image, and the one that guidance leads away from."""
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


DIT4SR = SD3System("dit4sr", DiT4SR, LRStream, {name: partial(random_model, size) for name, size in SIZES.items()})
SD3_CONTROLNET = SD3System(
    "sd3_controlnet", SD3ControlNet, Branch, {"sd3_controlnet": partial(random_model, SD35, SD3ControlNet, Branch())}
)

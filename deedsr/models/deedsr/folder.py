"""DeeDSR as a folder: ``adapter.safetensors`` (all that stage 2 trains), ``encoder.safetensors``, and a base.

The header of ``adapter.safetensors`` holds the adapter's numbers. That of a checkpoint of stage 2 also says where the
encoder was; it is looked for in ``model/`` beside the checkpoint, then beside it, then there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deedsr import weights
from deedsr.diffusion.sampler import Settings
from deedsr.models.deedsr.adapter_config import AdapterConfig
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.graphs import OnnxDeeDSR, write_graphs
from deedsr.models.deedsr.head import DIAGNOSIS, ENCODER
from deedsr.models.deedsr.model import DeeDSR, Kind, described, random_model
from deedsr.models.deedsr.sizes import SIZES, DeeDSRConfig, model_size
from deedsr.models.frozen.base import Base
from deedsr.models.resolver import reference
from deedsr.models.system import GONE, Header, System, TrainableModel, companion_places, header_of, load_trained

TRAINABLE = ("adapter", "sft_hidden", "defaults")
"""Parts of a size that may be overridden where a model is trained: the base and the encoder have theirs already."""


@dataclass(frozen=True)
class DeeDSRNumbers:
    """The numbers of what is trained: of the adapter, and the width inside the modulation layers."""

    adapter: AdapterConfig
    sft_hidden: int


class DeeDSRSystem(System[DeeDSR, DeeDSRNumbers]):
    """DeeDSR on a latent-diffusion U-Net."""

    name, denoiser, companion = "deedsr", "unet", ENCODER
    words = ("base", "encoder", "overrides", "size")
    sizes = {name: partial(random_model, size) for name, size in SIZES.items()}

    def load(self, place: Path) -> DeeDSR:
        trained = self.open(place)
        assert trained.companion is not None
        encoder, taken = load_encoder(trained.companion), trained.header.numbers.adapter.vector
        if (given := encoder.dimension) != taken:
            raise ValueError(f"{trained.companion}: gives {given} numbers, but the adapter beside it takes {taken}")
        model = model_on_base(trained.base, encoder, trained.header, device="meta")
        load_trained(model, weights.cast(trained.tensors(), torch.float32), trained.file, assign=True)
        return model

    def skeleton(self, place: Path) -> DeeDSR:
        return self._skeleton(place, DeeDSR)

    def _skeleton(self, place: Path, kind: type[Kind]) -> Kind:
        trained = self.open(place)
        assert trained.companion is not None
        unet, vae, scheduler = map(trained.base.config, ("unet", "vae", "scheduler"))
        encoder, header = weights.header(trained.companion), trained.header
        size = DeeDSRConfig(place.name, unet, vae, scheduler, encoder, **vars(header.numbers), defaults=header.defaults)
        with torch.device("meta"):
            return described(kind, size)

    def load_onnx(self, place: Path) -> OnnxDeeDSR:
        trained = self.open(place)
        assert trained.companion is not None
        model = self._skeleton(place, OnnxDeeDSR)
        model.process = trained.base.process()  # the skeleton's is on the meta device
        model.take_graphs(place, trained.tensors().get("adapter.null"))
        return model

    def write_onnx(self, place: Path) -> None:
        write_graphs(self.load(place), place)

    def numbers(self, config: Mapping[str, Any]) -> DeeDSRNumbers:
        adapter = dict(config["adapter"])
        adapter.pop(GONE, None)
        return DeeDSRNumbers(AdapterConfig(**adapter), int(config["sft_hidden"]))

    def plain(self, numbers: DeeDSRNumbers) -> dict[str, Any]:
        return asdict(numbers)

    def with_lora(self, numbers: DeeDSRNumbers, rank: int) -> DeeDSRNumbers:
        return replace(numbers, adapter=replace(numbers.adapter, lora_rank=rank))

    def merged(self, numbers: DeeDSRNumbers) -> DeeDSRNumbers:
        return replace(numbers, adapter=replace(numbers.adapter, lora_rank=0, decoder=False))

    def find_companion(self, place: Path, config: Mapping[str, Any]) -> Path:
        if not place.is_file():
            return place / ENCODER
        places = [*companion_places(place, ENCODER), Path(config.get("encoder", ENCODER))]
        encoder = next((file for file in places if file.is_file()), None)
        if encoder is None:
            tried = ", ".join(str(file) for file in places)
            raise ValueError(f"{place}: its encoder is nowhere ({tried}); put {ENCODER} beside the checkpoint")
        return encoder

    def copy_companion(self, companion: Path, folder: Path, dtype: torch.dtype | None) -> None:
        super().copy_companion(companion, folder, dtype)
        _copy_head(companion, folder)

    def trainable(self, words: Mapping[str, Any], seed: int) -> TrainableModel:
        """words: `size`, its name, with `overrides` of its numbers, on `base`, with the file `encoder` of stage 1."""
        size = model_size(words["size"], words["overrides"], TRAINABLE)
        file = Path(words["encoder"])
        base, encoder = Base.find(words["base"], self.denoiser), load_encoder(file)
        adapter = replace(size.adapter, vector=encoder.dimension)
        header = Header(reference(words["base"]), DeeDSRNumbers(adapter, size.sft_hidden), size.defaults)
        torch.manual_seed(seed)
        model = model_on_base(base, encoder, header)

        def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
            weights.save(folder / ENCODER, encoder.state_dict(), encoder.config())
            _copy_head(file, folder)
            self.save(folder, tensors, header)

        return TrainableModel(model, {**self.config(header), "encoder": str(file.resolve())}, save)

    def untrained(self, words: Mapping[str, Any]) -> DeeDSR:
        return random_model(model_size(words["size"], words["overrides"], TRAINABLE))


def load_encoder(file: Path) -> DegradationEncoder:
    """The degradation encoder that stage 1 wrote, in float32."""
    stored = weights.load(file)
    if not stored.config:
        raise ValueError(f"{file}: its header has no configuration; it was not written by stage 1")
    try:
        with torch.device("meta"):
            encoder = DegradationEncoder(**stored.config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: its header does not describe an encoder of stage 1 ({error})") from None
    weights.load_strict(encoder, weights.cast(stored.tensors, torch.float32), file, assign=True)
    return encoder


def encoder_of(place: Path) -> Path:
    """The encoder's file of the model folder or checkpoint `place`. Raises ValueError where there is none."""
    config = header_of(place) if place.is_file() else {"system": DEEDSR.name}
    file = DEEDSR.find_companion(place, config) if config.get("system") == DEEDSR.name else place
    if file == place or not file.is_file():
        raise ValueError(f"{place}: has no {ENCODER}: it is no DeeDSR, or not a whole one")
    return file


def model_on_base(
    base: Base, encoder: DegradationEncoder, header: Header[DeeDSRNumbers], device: str = "cpu"
) -> DeeDSR:
    """A DeeDSR on a frozen base, its trainable parameters fresh.

    device: of the trainable parameters outside the U-Net; ``meta`` where weights for them are about to be read.
    """
    unet, vae = base.load("unet", **header.numbers.adapter.unet_changes), base.load("vae")
    process, defaults = base.process(), Settings.from_dict(header.defaults)
    with torch.device(device):
        return DeeDSR(unet, vae, process, encoder, **vars(header.numbers), defaults=defaults)


def _copy_head(encoder: Path, folder: Path) -> None:
    if (head := encoder.with_name(DIAGNOSIS)).is_file():
        stored = weights.load(head)
        weights.save(folder / DIAGNOSIS, stored.tensors, stored.config)


DEEDSR = DeeDSRSystem()

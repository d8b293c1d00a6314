"""DeeDSR as a folder: ``adapter.safetensors`` (all that stage 2 trains), ``encoder.safetensors``, and a base.

The header of ``adapter.safetensors`` holds the configuration: the adapter's numbers, the sampling defaults, and `base`,
a folder or file (see `parts`; relative to the model's own, or a path) or a hub id. A checkpoint of stage 2 holds the
same and where the encoder was; it is looked for in ``model/`` beside the checkpoint, then beside it, then there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deedsr import weights
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings
from deedsr.files import new_folder
from deedsr.models.deedsr.adapter_config import AdapterConfig
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.models.deedsr.model import DeeDSR, build, unet_changes
from deedsr.models.deedsr.model import counts as counts
from deedsr.models.deedsr.sizes import PRESETS, DeeDSRConfig, preset
from deedsr.models.frozen.parts import load_part, part_tensors, read_part, write_part, write_scheduler
from deedsr.models.resolver import DIFFUSERS_LAYOUT, reference, resolve
from deedsr.models.trained import ADAPTER, Fresh, beside, cast, file_of, header_of, pointer, tensors_of

SYSTEM, ENCODER = "deedsr", "encoder.safetensors"
DIAGNOSIS = "diagnosis.safetensors"
"""The head that reads the encoder beside it for ``deedsr diagnose``; a model may lack it."""
SIZES = {name: partial(build, config) for name, config in PRESETS.items()}
WORDS = ("base", "encoder", "overrides", "size")


def load_encoder(file: Path) -> DegradationEncoder:
    """The degradation encoder that stage 1 wrote."""
    stored = weights.load(file)
    if not stored.config:
        raise ValueError(f"{file}: its header has no configuration; it was not written by stage 1")
    try:
        encoder = DegradationEncoder(**stored.config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: its header does not describe an encoder of stage 1 ({error})") from None
    weights.load_strict(encoder, cast(stored.tensors, torch.float32), file)
    return encoder


def assemble(
    base: Path,
    encoder: DegradationEncoder,
    adapter: AdapterConfig,
    sft_hidden: int,
    defaults: Mapping[str, Any],
    trained: str = "cpu",
) -> DeeDSR:
    """A DeeDSR on the base in `base`, its trained parts fresh; the base's scheduler says what the U-Net predicts.

    trained: device of the trained parts outside the U-Net; ``meta`` where weights for them are about to be read.
    """
    unet = load_part(base / "unet", **unet_changes(adapter))
    vae, process = load_part(base / "vae"), Process.from_config(read_part(base / "scheduler"))
    with torch.device(trained):
        return DeeDSR(unet, vae, process, encoder, adapter, sft_hidden, Settings.from_dict(defaults))


@dataclass(frozen=True)
class Header:
    """What a trained part says of itself. base: a folder, a file or a hub id. defaults: arguments of `Settings`."""

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

    def config(self) -> dict[str, Any]:
        """What `of` reads."""
        return {"system": SYSTEM, **asdict(self)}


@dataclass(frozen=True)
class Trained:
    """What stage 2 has written: a model folder or a checkpoint, `place`. encoder: the encoder's file."""

    place: Path
    header: Header
    encoder: Path

    @classmethod
    def find(cls, place: Path) -> Trained:
        """In the model folder or the checkpoint `place`; ValueError that names what is missing or damaged."""
        config = header_of(place)
        header, places = Header.of(file_of(place), config), beside(place, ENCODER)
        if not place.is_file():
            return cls(place, header, places[0])
        places.append(Path(config.get("encoder", ENCODER)))
        encoder = next((file for file in places if file.is_file()), None)
        if encoder is None:
            tried = ", ".join(str(file) for file in places)
            raise ValueError(f"{place}: its encoder is nowhere ({tried}); put {ENCODER} beside the checkpoint")
        return cls(place, header, encoder)

    def base(self) -> Path:
        """Where the base lies."""
        return resolve(self.header.base, file_of(self.place).parent, DIFFUSERS_LAYOUT)


def skeleton(place: Path) -> DeeDSR:
    """The DeeDSR in the folder or checkpoint `place` on the meta device: its shapes, without its weights."""
    trained = Trained.find(place)
    header, base = trained.header, trained.base()
    configs = (read_part(base / part) for part in ("unet", "vae", "scheduler"))
    encoder = weights.header(trained.encoder)
    with torch.device("meta"):
        return build(DeeDSRConfig(place.name, *configs, encoder, header.adapter, header.sft_hidden, header.defaults))


def load(place: Path) -> DeeDSR:
    """The DeeDSR in the folder or checkpoint `place`.

    Raises ValueError that names the file for anything missing, surplus or of another size.
    """
    trained = Trained.find(place)
    header, encoder = trained.header, load_encoder(trained.encoder)
    if encoder.dimension != header.adapter.vector:
        given, taken = encoder.dimension, header.adapter.vector
        raise ValueError(f"{trained.encoder}: gives {given} numbers, but the adapter beside it takes {taken}")
    model = assemble(trained.base(), encoder, header.adapter, header.sft_hidden, header.defaults, "meta")
    model.load_trained(cast(tensors_of(place), torch.float32), file_of(place), assign=True)
    assert not any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers()))
    return model


def save_adapter(file: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write the trained `tensors` with all that `load` needs to know."""
    weights.save(file, tensors, header.config())


def export(source: Path, target: Path, with_base: bool, dtype: torch.dtype | None = None) -> None:
    """Write the DeeDSR in `source` to the folder `target`, its floating-point tensors in `dtype` if one is given.

    source: a model folder or a checkpoint. With the base, `target` needs nothing else; without it, it points to the
    base that `source` uses. Raises ValueError where `source` is damaged or `target` exists.
    """
    with new_folder(target) as folder:
        load(source)
        trained = Trained.find(source)
        base = trained.base()
        place = file_of(source).parent
        header = replace(trained.header, base="base" if with_base else pointer(trained.header.base, base, place))
        _copy_head(trained.encoder, folder)
        save_adapter(folder / ADAPTER, cast(tensors_of(source), dtype), header)
        encoder = weights.load(trained.encoder)
        weights.save(folder / ENCODER, cast(encoder.tensors, dtype), encoder.config)
        if with_base:
            for part in ("unet", "vae"):
                write_part(folder / "base" / part, cast(part_tensors(base / part), dtype), read_part(base / part))
            write_scheduler(folder / "base", read_part(base / "scheduler"))


def _copy_head(encoder: Path, folder: Path) -> None:
    if (head := encoder.with_name(DIAGNOSIS)).is_file():
        stored = weights.load(head)
        weights.save(folder / DIAGNOSIS, stored.tensors, stored.config)


def fresh(config: Mapping[str, Any], seed: int) -> Fresh:
    """A DeeDSR to train: `size`, the name of a preset, with `overrides` of its numbers, on `base`, with `encoder`.

    base: as in a header. encoder: the file that stage 1 wrote. seed: of what is not read from files.
    """
    size = preset(config["size"], config["overrides"], ("adapter", "sft_hidden", "defaults"))
    encoder_file = Path(config["encoder"])
    encoder = load_encoder(encoder_file)
    base = resolve(config["base"], files=DIFFUSERS_LAYOUT)
    header = Header(reference(config["base"]), size.adapter, size.sft_hidden, size.defaults)
    torch.manual_seed(seed)
    model = assemble(base, encoder, size.adapter, size.sft_hidden, size.defaults)

    def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
        weights.save(folder / ENCODER, encoder.state_dict(), encoder.config())
        _copy_head(encoder_file, folder)
        save_adapter(folder / ADAPTER, tensors, header)

    return Fresh(model, {**header.config(), "encoder": str(encoder_file.resolve())}, save)

"""A restoration system: how its models come from the disk, get there, and are made ready to train.

Stage 2 writes ``adapter.safetensors`` in a model folder, and checkpoints. Both hold what is trained, and say in a
header what they are: the `system`, its base, the numbers of what is trained, and how to sample.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from deedsr import weights
from deedsr.diffusion.sampler import Settings
from deedsr.files import new_folder
from deedsr.models import card
from deedsr.models.apart import Apart, apart
from deedsr.models.contract import RestorationModel
from deedsr.models.frozen import lora
from deedsr.models.frozen.base import Base
from deedsr.models.resolver import ADAPTER, INSIDE

HEADER = "model"  # key of a checkpoint
GONE = "dials"  # of adapters from before dials did without a network: at 1 they had no say, and so they are left out

Model = TypeVar("Model", bound=RestorationModel)
Numbers = TypeVar("Numbers")


@dataclass(frozen=True)
class Header(Generic[Numbers]):
    """What files say of a trained model.

    base: its frozen backbone, a path (also relative to the model's folder) or a hub id. numbers: of what is trained on
    it. defaults: how to sample, arguments of `Settings`.
    """

    base: str
    numbers: Numbers
    defaults: dict[str, Any]


@dataclass(frozen=True)
class Trained(Generic[Numbers]):
    """A trained model on the disk.

    place: its folder or a checkpoint. file: what of it holds the trained tensors. companion: another file, if any.
    """

    place: Path
    file: Path
    header: Header[Numbers]
    base: Base
    companion: Path | None

    def tensors(self) -> dict[str, Tensor]:
        """All that is trained, by name; of a checkpoint, the averaged values."""
        return trained_tensors(self.place)

    def pointer(self, folder: Path) -> str:
        """What the model in `folder` is to call its base: a hub id, or the way there from that folder."""
        place = self.base.place.resolve()
        return Path(os.path.relpath(place, folder.resolve())).as_posix() if self.local else self.header.base

    def made(self, system: str, inside: bool) -> card.Made:
        """What a card is to say of it, when it is handed on with the base in the folder or not."""
        stored = weights.load_checkpoint(self.place) if self.place.is_file() else {}
        steps = stored.get("global_step")
        rows = stored.get("callbacks", {}).get("Validation", {}).get("rows", [])
        return card.Made(
            system,
            card.base_name(self.base.place, None if self.local else self.header.base),
            inside,
            sum(tensor.numel() for tensor in self.tensors().values()),
            self.header.defaults,
            steps,
            next((row["metrics"] for row in rows if row["step"] == steps), {}),
            card.record_of(self.place, stored),
        )

    @property
    def local(self) -> bool:
        """Whether its base is on the disk by itself, not in the hub's cache."""
        called = self.header.base
        found = (self.file.parent / called).exists() or Path(called).exists()
        return found or "snapshots" not in self.base.place.parts


@dataclass(frozen=True)
class TrainableModel:
    """A model to train. header: what its files say of it. save: (folder, trained tensors) → a model folder.

    before: how it sampled before, where it is one that is trained further.
    """

    model: RestorationModel
    header: dict[str, Any]
    save: Callable[[Path, Mapping[str, Tensor]], None]
    before: dict[str, Any] | None = None


class System(ABC, Generic[Model, Numbers]):
    """One kind of restoration model on one kind of base.

    name: in headers and configurations. denoiser: the part of the base that predicts, ``unet`` or ``transformer``.
    companion: the name of the other file of a model folder. words: what a configuration says of a model to train.
    sizes: by name, what makes a model with random weights.
    """

    name: str
    denoiser: str
    companion: str
    words: tuple[str, ...]
    sizes: Mapping[str, Callable[[], Model]]

    @abstractmethod
    def load(self, place: Path) -> Model:
        """The model in the folder or checkpoint `place`.

        Raises ValueError that names the file for anything missing, surplus or of another size.
        """

    @abstractmethod
    def skeleton(self, place: Path) -> Model:
        """The model in the folder or checkpoint `place` on the meta device: its shapes, without its weights."""

    def load_onnx(self, place: Path) -> Model:
        """The model in the folder `place`, as its ONNX graphs compute it. ValueError where it has none."""
        raise ValueError(f"{self.name} models can't run as ONNX, only those of DeeDSR: choose `runtime='torch'`")

    def write_onnx(self, place: Path) -> None:
        """Write the ONNX graphs of the model in the folder `place` into it. ValueError where it can't have any."""
        raise ValueError(f"{self.name} models can't become ONNX, only those of DeeDSR: leave `onnx` out")

    @abstractmethod
    def numbers(self, config: Mapping[str, Any]) -> Numbers:
        """The numbers of what is trained, of a header."""

    @abstractmethod
    def plain(self, numbers: Numbers) -> dict[str, Any]:
        """Inverse of `numbers`, as JSON holds it."""

    @abstractmethod
    def with_lora(self, numbers: Numbers, rank: int) -> Numbers:
        """`numbers` of the model with LoRA of another rank, 0 for none."""

    @abstractmethod
    def merged(self, numbers: Numbers) -> Numbers:
        """`numbers` of the model whose LoRA and decoder are part of its base."""

    @abstractmethod
    def find_companion(self, place: Path, config: Mapping[str, Any]) -> Path | None:
        """The companion of the model in `place`, whose header is `config`; None where it has none."""

    @abstractmethod
    def trainable(self, words: Mapping[str, Any], seed: int) -> TrainableModel:
        """A model to train, in float32, as a configuration says. seed: of what is not read from files."""

    @abstractmethod
    def untrained(self, words: Mapping[str, Any]) -> Model:
        """The model that `trainable` makes, with random weights in place of those of files: for measuring."""

    def open(self, place: Path) -> Trained[Numbers]:
        """What lies in the folder or checkpoint `place`; ValueError that names what is missing or damaged."""
        file, config = place if place.is_file() else place / ADAPTER, header_of(place)
        if config.get("system") != self.name:
            raise ValueError(f"{file}: its header says nothing of a {self.name} adapter; it was not written by stage 2")
        try:
            header = Header(str(config["base"]), self.numbers(config), config["defaults"])
            Settings.from_dict(header.defaults)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: the configuration in its header is damaged ({error})") from None
        companion = self.find_companion(place, config)
        return Trained(place, file, header, Base.find(header.base, self.denoiser, file.parent), companion)

    def further(self, place: Path, defaults: Mapping[str, Any], lora_rank: int = 0, seed: int = 0) -> TrainableModel:
        """The model in the folder or checkpoint `place`, to train further; `defaults`: where it is to sample otherwise.

        lora_rank: of LoRA that it gets in addition, fresh from `seed`; 0 for none. Raises ValueError for a place that
        holds no such model, for defaults that there are not, and for LoRA that it has already or can't have.
        """
        trained = self.open(place)
        base = str(trained.base.place.resolve()) if trained.local else trained.header.base
        header = replace(trained.header, base=base, defaults={**trained.header.defaults, **defaults})
        try:
            settings = Settings.from_dict(header.defaults)
        except TypeError as error:
            raise ValueError(f"model.defaults={dict(defaults)} can't be had: {error}") from None
        model = self.load(place).float()
        model.defaults = settings
        lora.check(lora_rank)
        if lora_rank:
            if any(lora.is_lora(name) for name, _ in model.trainable()):
                raise ValueError(f"{place}: has LoRA already, which is trained further: leave model.lora_rank out")
            torch.manual_seed(seed)
            lora.attach(model.attentions(), lora_rank)
            model.freeze()
            header = replace(header, numbers=self.with_lora(header.numbers, lora_rank))

        def save(folder: Path, tensors: Mapping[str, Tensor]) -> None:
            self.write(folder, trained, header, Apart(dict(tensors)))

        return TrainableModel(model, self.config(header), save, trained.header.defaults)

    def config(self, header: Header[Numbers]) -> dict[str, Any]:
        """A header as files hold it."""
        return {"system": self.name, "base": header.base, **self.plain(header.numbers), "defaults": header.defaults}

    def save(self, folder: Path, tensors: Mapping[str, Tensor], header: Header[Numbers]) -> None:
        """Write the trained `tensors` to a model folder, with all that `load` needs to know."""
        weights.save(folder / ADAPTER, tensors, self.config(header))

    def export(
        self,
        source: Path,
        target: Path,
        with_base: bool,
        dtype: torch.dtype | None = None,
        merge: bool = False,
        licence: str | None = None,
        anywhere: bool = False,
        onnx: bool = False,
    ) -> None:
        """See `deedsr.models.export`."""
        if merge and not with_base:
            raise ValueError("merging changes the base, so it goes into the folder as well: add `with_base`")
        with new_folder(target) as folder:
            self.load(source)
            trained = self.open(source)
            if anywhere and trained.local and not with_base:
                raise ValueError(f"{trained.base.place}: the base is on this machine alone: add `with_base`")
            header = replace(trained.header, base=INSIDE if with_base else trained.pointer(target))
            parts = Apart(trained.tensors())
            if merge:
                parts, header = apart(parts.beside), replace(header, numbers=self.merged(header.numbers))
                if not parts.added and not parts.instead:
                    raise ValueError(f"{source}: has neither LoRA nor a decoder to merge: leave `merge` out")
            self.write(folder, trained, header, parts, dtype)
            if onnx:
                self.write_onnx(folder)
            made = trained.made(self.name, with_base)
            card.complete(folder, target.resolve().name, made, source / card.CARD, licence)

    def write(
        self, folder: Path, trained: Trained, header: Header, parts: Apart, dtype: torch.dtype | None = None
    ) -> None:
        """Write a model folder with the companion of `trained`, and with its base where `header` says `INSIDE`."""
        self.save(folder, weights.cast(parts.beside, dtype), header)
        if trained.companion is not None:
            self.copy_companion(trained.companion, folder, dtype)
        if header.base == INSIDE:
            trained.base.copy(folder / INSIDE, (self.denoiser, "vae"), dtype, parts.added, parts.instead)

    def copy_companion(self, companion: Path, folder: Path, dtype: torch.dtype | None) -> None:
        """Write the file `companion` to a model folder, its floating-point tensors in `dtype` if one is given."""
        stored = weights.load(companion)
        weights.save(folder / self.companion, weights.cast(stored.tensors, dtype), stored.config)


def trained_tensors(place: Path) -> dict[str, Tensor]:
    """All that is trained of the model folder or checkpoint `place`, by name; of a checkpoint, the averaged values."""
    if not place.is_file():
        return {name: part for name, part in weights.load(place / ADAPTER).tensors.items() if f".{GONE}." not in name}
    averages = weights.load_checkpoint(place).get("average", {}).get("tensors", {})
    return {name: part.clone() for name, part in averages.items() if f".{GONE}." not in name}


def header_of(place: Path) -> dict[str, Any]:
    """What the model folder or the checkpoint `place` says of itself; ValueError for one that is missing or damaged."""
    return weights.load_checkpoint(place).get(HEADER, {}) if place.is_file() else weights.header(place / ADAPTER)


def companion_places(place: Path, name: str) -> list[Path]:
    """Where the file `name` of a model folder or checkpoint may lie."""
    return [place.parent / "model" / name, place.parent / name] if place.is_file() else [place / name]


def load_trained(
    model: RestorationModel,
    tensors: Mapping[str, Tensor],
    source: str | Path,
    assign: bool = False,
    fresh: Collection[str] = (),
) -> None:
    """Copy in the trained tensors that `source` holds, these and no others; the frozen parts stay as they are.

    assign: make them the model's own instead. fresh: those that may be missing, and stay as they are. Raises ValueError
    that names `source` and the first names that are missing, surplus or of another size.
    """
    trained, names = {name for name, _ in model.trainable()}, model.state_dict().keys()
    surplus = sorted(tensors.keys() & names - trained)
    if surplus:
        raise ValueError(f"{source}: holds {surplus[0]}, which is not trained in stage 2")
    weights.load_strict(model, tensors, source, allow_missing=(names - trained) | set(fresh), assign=assign)

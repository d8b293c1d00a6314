"""A model that is the mean of several, as legs of training that start from one another are often better together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deedsr import weights
from deedsr.files import new_folder
from deedsr.models.apart import Apart, apart
from deedsr.models.contract import DECODING
from deedsr.models.frozen.base import Base
from deedsr.models.system import System, Trained


def write_mean(system: System[Any, Any], places: Sequence[Path], shares: Sequence[float], target: Path) -> None:
    """See `deedsr.models.mix`. places: the folders or checkpoints of the models."""
    with new_folder(target) as folder:
        models = [system.open(place) for place in places]
        first = models[0]
        numbers = system.merged(first.header.numbers)
        for other in models[1:]:
            if system.merged(other.header.numbers) != numbers:
                raise ValueError(f"{other.file}: is built otherwise than {first.file}; mix models of one configuration")
            _check_companion(first, other)
            _check_base(system, first, other)
        mean = _mean(models, shares)
        rebased = bool(mean.added or mean.instead)
        header = replace(first.header, base="base" if rebased else first.pointer(target), numbers=numbers)
        system.save(folder, mean.beside, header)
        if first.companion is not None:
            system.copy_companion(first.companion, folder, None)
        if rebased:
            first.base.copy(folder / "base", (system.denoiser, "vae"), None, mean.added, mean.instead)
        system.load(folder)


def check_shares(models: Sequence[str], shares: Sequence[float]) -> None:
    """ValueError where `shares` of `models` make no mean."""
    if len(models) < 2:
        raise ValueError(f"models={[*models]} has nothing to mix: name two or more")
    if not all(isinstance(share, (int, float)) and math.isfinite(share) for share in shares):
        raise ValueError(f"shares={[*shares]} must be numbers, as [0.6,0.4]")
    if len(shares) != len(models):
        raise ValueError(f"shares={[*shares]} has {len(shares)} for {len(models)} models: give one for each")
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"shares={[*shares]} are {sum(shares):g} together, not 1")


def _check_companion(first: Trained, other: Trained) -> None:
    """Whether both have the same encoder or the same texts."""
    files = [model.companion for model in (first, other)]
    found = [{} if file is None else weights.load(file).tensors for file in files]
    if not _same(*found):
        mine, others = (file or model.place for file, model in zip(files, (first, other), strict=True))
        raise ValueError(f"{others}: is not that of {mine}; mix models that were trained with the same")


def _check_base(system: System[Any, Any], first: Trained, other: Trained) -> None:
    """Whether both have the same base, whatever they have for a decoder."""
    if first.base.place.resolve() == other.base.place.resolve():
        return
    for part in (system.denoiser, "vae"):
        kept = [
            {name: tensor for name, tensor in base.tensors(part).items() if part != "vae" or not _decodes(name)}
            for base in (first.base, other.base)
        ]
        if first.base.config(part) != other.base.config(part) or not _same(*kept):
            raise ValueError(f"{other.base.place / part}: is not that of {first.base.place}; mix models of one base")


def _mean(models: Sequence[Trained], shares: Sequence[float]) -> Apart:
    """The mean of what is trained, float32; `instead` has the decoder, unless it is the first base's in all."""
    mean, decoder, own = Apart(), _decoder(models[0].base), False
    for model, share in zip(models, shares, strict=True):
        parts = apart(model.tensors())
        decodes = _decoder(model.base) | parts.instead
        own = own or not _same(decoder, decodes)
        if odd := sorted(mean.beside.keys() ^ parts.beside.keys()) if mean.beside else []:
            raise ValueError(f"{model.file}: of it and {models[0].file} one alone has {odd[0]}; mix models of one kind")
        for total, tensors in ((mean.beside, parts.beside), (mean.added, parts.added), (mean.instead, decodes)):
            for name, tensor in tensors.items():
                total[name] = total.get(name, torch.zeros(())) + share * tensor.float()
    return mean if own else replace(mean, instead={})


def _decoder(base: Base) -> dict[str, Tensor]:
    return {f"vae.{name}": tensor for name, tensor in base.tensors("vae").items() if _decodes(name)}


def _decodes(name: str) -> bool:
    return name.partition(".")[0] in DECODING


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name].float(), other[name].float()) for name in one)

"""A model that is the mean of several, as legs of training that start from one another are often better together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deedsr import weights
from deedsr.diffusion.process import Process, numbers_of
from deedsr.files import new_folder
from deedsr.models import card
from deedsr.models.apart import Apart, apart
from deedsr.models.contract import DECODING
from deedsr.models.frozen.base import Base, stock
from deedsr.models.resolver import INSIDE
from deedsr.models.system import System, Trained

NEARLY = 2e-3
"""How far shares may be from 1 together: three thirds of three digits are."""


def shares_of(models: Sequence[str], shares: Sequence[float]) -> list[float]:
    """`shares` of `models`, so that they are 1 together to the last digit. ValueError where they make no mean."""
    if len(models) < 2:
        raise ValueError(f"models={[*models]} has nothing to mix: name two or more")
    if not all(isinstance(share, int | float) and not isinstance(share, bool) for share in shares):
        raise ValueError(f"shares={[*shares]} must be numbers, as [0.6,0.4]")
    if len(shares) != len(models):
        raise ValueError(f"shares={[*shares]} has {len(shares)} for {len(models)} models: give one for each")
    if not abs((total := sum(shares)) - 1) < NEARLY:
        raise ValueError(f"shares={[*shares]} are {total:g} together, not 1")
    return [share / total for share in shares]


def write_mean(system: System[Any, Any], places: Sequence[Path], shares: Sequence[float], target: Path) -> None:
    """See `deedsr.models.mix`. places: the folders or checkpoints of the models. shares: 1 together."""
    with new_folder(target) as folder:
        models = [system.open(place) for place in places]
        first, *others = models
        numbers = system.merged(first.header.numbers)
        for other in others:
            if system.merged(other.header.numbers) != numbers:
                raise ValueError(f"{other.file}: is built otherwise than {first.file}; mix models of one configuration")
            _check_companion(system, first, other)
            _check_base(system, first.base, other.base)
        mean = _mean(system, models, shares)
        rebased = bool(mean.added or mean.instead)
        header = replace(first.header, base=INSIDE if rebased else first.pointer(target), numbers=numbers)
        system.write(folder, first, header, mean)
        system.load(folder)
        mixed = tuple(zip(shares, map(str, places), strict=True))
        made = replace(first.made(system.name, rebased), steps=None, metrics={}, run={}, mixed=mixed)
        card.complete(folder, target.resolve().name, made, folder / card.CARD, card.licence_of(first.place))


def _whole(system: System[Any, Any], model: Trained) -> dict[str, Tensor]:
    """The trained tensors of `model`: all that its header says, and no other."""
    tensors = model.tensors()
    wanted = {name: parameter.shape for name, parameter in system.skeleton(model.place).trainable()}
    if faults := weights.misfits({name: tensor.shape for name, tensor in tensors.items()}, wanted):
        raise ValueError(f"{model.file}: {faults}; is it whole?")
    return tensors


def _check_companion(system: System[Any, Any], first: Trained, other: Trained) -> None:
    """Whether both have the same encoder or the same texts."""
    files = [model.companion for model in (first, other)]
    found = [{} if file is None else weights.load(file).tensors for file in files]
    if not _same(*found):
        mine, others = (
            str(file or f"{model.place} without") for file, model in zip(files, (first, other), strict=True)
        )
        raise ValueError(
            f"{others}: has not the {system.companion} of {mine}; mix models that were trained with the same"
        )


def _check_base(system: System[Any, Any], first: Base, other: Base) -> None:
    """Whether both are the same base, whatever they have for a decoder."""
    if first.place.resolve() == other.place.resolve():
        return
    if not _alike(first.process(), other.process()):
        raise ValueError(f"{other.place}: has another diffusion than {first.place}; mix models of one base")
    for part in (system.denoiser, "vae"):
        kept = [
            {name: tensor for name, tensor in base.tensors(part).items() if part != "vae" or not _decodes(name)}
            for base in (first, other)
        ]
        if _written_out(first.config(part)) != _written_out(other.config(part)) or not _same(*kept):
            raise ValueError(f"{other.file(part)}: is not that of {first.place}; mix models of one base")


def _alike(one: Process, other: Process) -> bool:
    """Whether two diffusions are the same, however their configurations say it."""
    if one.alphas is None or other.alphas is None:
        return numbers_of(one.config) == numbers_of(other.config)
    return one.prediction == other.prediction and torch.equal(one.alphas, other.alphas)


def _written_out(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a part of a base with all its defaults, and nothing of how it came about."""
    with torch.device("meta"):
        return numbers_of(stock(config).config)


def _mean(system: System[Any, Any], models: Sequence[Trained], shares: Sequence[float]) -> Apart:
    """The mean of what is trained, float32; `instead` has the decoder, unless it is the first base's in all."""
    mean, decoder, own = Apart(), _decoder(models[0].base), False
    for model, share in zip(models, shares, strict=True):
        parts = apart(_whole(system, model))
        decodes = _decoder(model.base) | parts.instead
        own = own or not _same(decoder, decodes)
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

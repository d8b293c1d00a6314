"""Restoration models: the contract, the systems, and where weights come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from deedsr.models.contract import RestorationModel
from deedsr.models.deedsr.folder import DEEDSR
from deedsr.models.mixing import shares_of, write_mean
from deedsr.models.resolver import BUILT_IN, BUILT_IN_DIT, model_place
from deedsr.models.sd3.folder import DIT4SR, SD3_CONTROLNET
from deedsr.models.system import System, TrainableModel, header_of
from deedsr.options import AUTO_OR_DTYPES, RUNTIMES, one_of

__all__ = [
    "RestorationModel",
    "TrainableModel",
    "describe",
    "export",
    "further",
    "load_model",
    "mix",
    "pick_dtype",
    "random_model",
    "skeleton",
    "trainable_model",
    "untrained_model",
]

SYSTEMS: tuple[System[Any, Any], ...] = (DEEDSR, DIT4SR, SD3_CONTROLNET)
BY_NAME = {system.name: system for system in SYSTEMS}
SIZES = {name: size for system in SYSTEMS for name, size in system.sizes.items()}
LARGE = 200e6
"""Parameters from which on a model keeps a GPU at work."""


def load_model(
    name: str | Path = BUILT_IN,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    runtime: str = "torch",
) -> RestorationModel:
    """The model called `name`, ready for inference: ``built-in``, a model folder, a checkpoint of stage 2, or a hub id.

    runtime: ``torch``, or ``onnx`` for a model folder with ONNX graphs, on the CPU in float32. Raises ValueError, with
    the way out, for a model that does not exist, has no weights or no graphs, or is damaged.
    """
    if str(name) in SIZES and not Path(name).exists():
        raise ValueError(
            f"{name} is a size, and no trained part of it is published with this package; train one with `python -m "
            "stage2.train` (conf/experiment/ has one of each size), then give the folder that stage 2 wrote"
        )
    place = model_place(name)
    if one_of("runtime", runtime, RUNTIMES) == "onnx":
        if torch.device(device).type != "cpu" or dtype != torch.float32:
            raise ValueError("ONNX graphs run on the CPU and in float32: choose `device='cpu'` and `dtype='float32'`")
        return _system(place).load_onnx(place)
    at_once = torch.device(device).type == "cuda"  # else it would wait for each of hundreds of tensors
    return _system(place).load(place).to(device, dtype, non_blocking=at_once).requires_grad_(False)


def pick_dtype(dtype: str, name: str | Path, device: torch.device) -> torch.dtype:
    """The dtype that a word means for the model called `name`, see `load_model`, on a device.

    ``auto`` is bfloat16 for large models on GPUs that compute in it: no difference that can be seen, half the memory.
    Else it is float32: small models wait for the CPU there, and are no faster in bfloat16, and nor are CPUs. Raises
    ValueError for an unknown word.
    """
    if one_of("dtype", dtype, AUTO_OR_DTYPES) != "auto":
        return getattr(torch, dtype)
    if device.type != "cuda" or not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float32
    place = model_place(name)
    parameters = sum(parameter.numel() for parameter in _system(place).skeleton(place).parameters())
    return torch.bfloat16 if parameters >= LARGE else torch.float32


def describe(name: str = BUILT_IN) -> dict[str, int]:
    """Parameters by part of a built-in model, a model folder, a checkpoint, or a size (see `random_model`)."""
    return skeleton(name).counts()


def skeleton(name: str = BUILT_IN) -> RestorationModel:
    """A built-in model, a model folder, a checkpoint or a size on the meta device: its shapes, without its weights."""
    if name in (BUILT_IN, BUILT_IN_DIT) or Path(name).exists():
        place = model_place(name)
        return _system(place).skeleton(place)
    with torch.device("meta"):
        return random_model(name)


def random_model(size: str) -> RestorationModel:
    """The model of a size, ``small``, ``sd21``, ``dit4sr`` …, with random weights. ValueError for an unknown size."""
    if size not in SIZES:
        raise ValueError(f"unknown model size {size!r}; there are: {', '.join(SIZES)}")
    return SIZES[size]()


def trainable_model(config: Mapping[str, Any], seed: int) -> TrainableModel:
    """A model to train, from plain words: its `system`, and the words that this system takes.

    seed: of what is not read from files. Raises ValueError for an unknown system and for words that it doesn't take.
    """
    return _named(config).trainable(config, seed)


def untrained_model(config: Mapping[str, Any]) -> RestorationModel:
    """What `trainable_model` makes, with random weights in place of those of files: for measuring."""
    return _named(config).untrained(config)


def _named(config: Mapping[str, Any]) -> System[Any, Any]:
    """The system of plain words."""
    name = config["system"]
    if name not in BY_NAME:
        raise ValueError(f"unknown model.system {name!r}; there are: {', '.join(BY_NAME)}")
    system = BY_NAME[name]
    if strange := sorted(config.keys() - {"system", *system.words}):
        raise ValueError(
            f"model.{strange[0]} means nothing to the system {name}, which takes {', '.join(system.words)}: choose "
            "model=… and experiment=… of one system"
        )
    return system


def further(name: str | Path, defaults: Mapping[str, Any], lora_rank: int = 0, seed: int = 0) -> TrainableModel:
    """The model called `name`, see `load_model`, to train further; `defaults`: where it is to sample otherwise.

    lora_rank, seed: of LoRA that it gets in addition, 0 for none.
    """
    place = model_place(name)
    return _system(place).further(place, defaults, lora_rank, seed)


def export(
    source: str | Path,
    target: Path,
    with_base: bool,
    dtype: torch.dtype | None = None,
    merge: bool = False,
    licence: str | None = None,
    anywhere: bool = False,
    onnx: bool = False,
) -> None:
    """Write the model `source` to the folder `target`, its floating-point tensors in `dtype` if one is given.

    source: see `load_model`. The folder gets a card, see `deedsr.models.card`, and is a pipeline of diffusers. With the
    base, `target` needs nothing else; without it, it points to the base that `source` uses, by its hub id, or by the
    way from `target` to its folder. merge: whether its LoRA and its decoder become part of that base. licence: what its
    card is to name. anywhere: whether it must not point to a base on the disk. onnx: whether ONNX graphs of its
    networks, checked against torch, go into it. Raises ValueError where `source` is damaged, has nothing to merge or
    can't become ONNX, and where `target` exists.
    """
    place = model_place(source)
    _system(place).export(place, target, with_base, dtype, merge, licence, anywhere, onnx)


def mix(models: Sequence[str | Path], shares: Sequence[float], target: Path) -> None:
    """Write the mean of `models`, see `load_model`, each with its share, to the new model folder `target`.

    shares: a negative one leads away from its model, and together they are 1. The models are of one configuration, and
    were trained on one base, with one encoder; the first says how the mean samples, and has its head for diagnosing, if
    any. Where LoRA or a decoder was trained, the mean of what that does is part of a base in `target`. A card says what
    was mixed. Raises ValueError, with the place and what differs, for models that have no mean, and where `target`
    exists.
    """
    parts = shares_of([*map(str, models)], shares)
    places = [model_place(name) for name in models]
    if len({header_of(place).get("system") for place in places} & BY_NAME.keys()) > 1:
        raise ValueError(f"models={[*map(str, models)]} are not of one system: mix models of one configuration")
    write_mean(_system(places[0]), places, parts, target)


def _system(place: Path) -> System[Any, Any]:
    """The system of a folder or checkpoint; for an unknown one DeeDSR, which says what is wrong with it."""
    return BY_NAME.get(header_of(place).get("system", ""), DEEDSR)

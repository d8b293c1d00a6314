"""Reading and writing weights: safetensors only, with the configuration in the file's header; nothing is unpickled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from deedsr.files import replacing


@dataclass(frozen=True)
class Stored:
    """What a weight file holds: tensors by name, and the configuration of the module that they belong to."""

    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)


def save(path: str | Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Path:
    """Write `tensors` and `config` to `path` (safetensors), whole or not at all; the same content gives the same bytes.

    config: kept as JSON under the header key ``config``. Raises OSError where `path` can't be written.
    """
    path = Path(path)
    metadata = {"config": json.dumps(dict(config))} if config else {"format": "pt"}  # one key: several have no order
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with replacing(path) as part:
            part.touch()
            mode = part.stat().st_mode  # what the umask grants; safetensors grants the owner alone
            save_file(plain, part, metadata=metadata)
            part.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"{path}: can't be written ({error})") from None
    return path


def load(path: str | Path, device: str | torch.device = "cpu", prefix: str = "") -> Stored:
    """Read a safetensors file, of its tensors those whose names begin with `prefix`.

    Raises ValueError, with the file's name and the way out, for a file that is missing, is a pickle or another format,
    or is cut off.
    """
    return _read(Path(path), str(device), prefix)


def header(path: str | Path) -> dict[str, Any]:
    """The configuration in a safetensors file's header, without reading the tensors; errors as `load`."""
    return _read(Path(path), "cpu", None).config


def _read(path: Path, device: str, prefix: str | None) -> Stored:
    """prefix: of the tensors to read; None for none."""
    if not path.is_file():
        raise ValueError(f"{path}: no such weight file")
    try:
        with safe_open(path, framework="pt", device=device) as stored:
            config = json.loads((stored.metadata() or {}).get("config", "{}"))
            if not isinstance(config, dict):
                raise ValueError("the configuration in its header is not a table")
            names = [] if prefix is None else [name for name in stored.keys() if name.startswith(prefix)]  # noqa: SIM118
            # cloned, since sums differ in their last bits by where a tensor lies in memory, here in its file
            return Stored({name: stored.get_tensor(name).clone() for name in names}, config)
    except (SafetensorError, ValueError) as error:
        if _is_pickle(path):
            raise ValueError(f"{path}: a pickle, which is not read; convert it to safetensors first") from None
        raise ValueError(f"{path}: not a whole safetensors file ({error}); get it again") from None


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as those of torch.save and pickle do."""
    with open(path, "rb") as stream:
        start = stream.read(9)
    bare = start[:1] == b"\x80" and start[8:] != b"{"  # safetensors: the header's length (8 bytes), then its JSON
    return bare or start.startswith(b"PK\x03\x04")  # torch.save writes a zip file


def _found(path: Path) -> str:
    """What a file is that torch can't read."""
    if not path.stat().st_size:
        return "an empty file"
    if not _is_pickle(path):
        return "no checkpoint"
    with open(path, "rb") as stream:
        cut_off = stream.read(2) == b"PK" and not zipfile.is_zipfile(path)
    return "a file that is cut off" if cut_off else "damaged, or a pickle of other things, which is not run"


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Floating-point tensors in `dtype`, if there is one; all others as they are."""
    return {
        name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a Lightning checkpoint with ``weights_only=True``: tensors and plain values, no code is run.

    A tensor is read from the disk when it is used. Raises ValueError for a file that is missing or broken, or that
    would need free unpickling.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        mapped = zipfile.is_zipfile(path)  # the older format can't be
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception:  # torch raises half a dozen unrelated types here, and its hint is to run what the file holds
        raise ValueError(
            f"{path}: {_found(path)}; what is wanted is a whole checkpoint of plain tensors, such as last.ckpt of a run"
        ) from None
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: holds a {type(checkpoint).__name__}, so it is no checkpoint")
    return checkpoint


def load_strict(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str | Path,
    allow_missing: Collection[str] = (),
    assign: bool = False,
) -> None:
    """Copy `tensors` into `module`; every name and shape must fit, but for the names in `allow_missing`.

    assign: put them in place of the module's instead, also where it is on the meta device. Raises ValueError that names
    `source` and the first names that are missing, unexpected or of another shape.
    """
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    wanted = {name: shape for name, shape in shapes.items() if name in tensors or name not in allow_missing}
    faults = misfits({name: tensor.shape for name, tensor in tensors.items()}, wanted)
    if faults:
        raise ValueError(f"{source}: does not fit {type(module).__name__}: {faults}")
    module.load_state_dict(tensors, strict=False, assign=assign)  # only names in `allow_missing` can be missing by now


def misfits(given: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]], listed: int = 3) -> str:
    """What is wrong with tensors of the shapes `given` where `wanted` are: the first names of each fault, or ""."""
    shapes = [
        f"{name} is {tuple(given[name])}, not {tuple(wanted[name])}"
        for name in given.keys() & wanted.keys()
        if tuple(given[name]) != tuple(wanted[name])
    ]
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:listed])}{', …' if len(names) > listed else ''})"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another size", sorted(shapes)))
        if names
    )

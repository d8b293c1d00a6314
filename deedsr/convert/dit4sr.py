"""The DiT4SR authors' checkpoints as model folders of ours (arXiv 2503.23580; key names of their commit 7ec9e5e)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from deedsr import weights
from deedsr.files import new_folder
from deedsr.models.sd3.dit4sr import SD35, DiT4SRConfig, random_model
from deedsr.models.sd3.folder import DIT4SR
from deedsr.models.sd3.lr_stream import LRStream
from deedsr.models.sd3.transformer import DiT4SRTransformer
from deedsr.models.system import Header

BASE = "stabilityai/stable-diffusion-3.5-medium"
CONV_SCALE = 1.2  # the authors' at inference
STREAMS = {
    name: LRStream(conv_scale=CONV_SCALE, legacy_noise_keys=name != "dit4sr_r1")
    for name in ("dit4sr_q", "dit4sr_f", "dit4sr_r1")
}
PROJECTION = re.compile(r"\.processor\.to_(q|k|v|out)\.")
# tensors of theirs that compute nothing: text projections of attn2, which sees no text, and a constant of the class
DEAD = re.compile(r"\.attn2\.(add_[qkv]_proj|to_add_out|norm_added_[qk])\.|^pos_embed\.pos_embed$")
LEGACY_KEYS = re.compile(r"\.to_k_control\.")


def their_name(name: str) -> str:
    """Name of a tensor of our transformer → of theirs."""
    return PROJECTION.sub(r".to_\1_control.", name).replace(".ff.net.1.", ".ff.control_conv.")


def fold(outer: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Of y = W_c (W x + b) + b_c, the weight W_c·W, or with their `bias` b_c the bias W_c·b + b_c.

    outer: W_c. weight: W, or b where the bias is asked for.
    """
    kind = torch.promote_types(outer.dtype, torch.float32)
    product = outer.double() @ weight.double()
    return (product if bias is None else product + bias.double()).to(kind)


def ours(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The tensor that is called `name` in our transformer, made of theirs: q, k and v of the LR stream are folded."""
    found = tensors[their_name(name)]
    projection = PROJECTION.search(name)
    if projection is None or projection[1] == "out":
        return found
    stock, kind = name.replace(".processor.", ".").rsplit(".", 1)
    if kind == "weight":
        return fold(found, tensors[f"{stock}.weight"])
    return fold(tensors[their_name(f"{name.rsplit('.', 1)[0]}.weight")], tensors[f"{stock}.bias"], found)


def check(shapes: Mapping[str, tuple[int, ...]], transformer: DiT4SRTransformer, source: str | Path) -> None:
    """Raises ValueError that lists which of their names are missing, have no place in ours, or have another shape."""
    wanted = {their_name(name): tuple(value.shape) for name, value in transformer.state_dict().items()}
    dead = {name for name in shapes if DEAD.search(name)}
    if transformer.stream.legacy_noise_keys:
        dead |= {name for name in shapes if LEGACY_KEYS.search(name)}
    live = wanted.keys() - {name for name in wanted if DEAD.search(name)}
    faults = {
        "missing": sorted(live - shapes.keys()),
        "without a place": sorted(shapes.keys() - wanted.keys() - dead),
        "of another size": sorted(name for name in live & shapes.keys() if wanted[name] != shapes[name]),
    }
    found = "; ".join(f"{len(names)} {fault}: {', '.join(names)}" for fault, names in faults.items() if names)
    if found:
        raise ValueError(f"{source}: not a checkpoint of DiT4SR's authors ({found})")


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a safetensors file, or of all such files in a folder (or its ``transformer``), read on demand.

    Raises ValueError that names what is missing, broken, a pickle, or given twice.
    """

    def __init__(self, source: Path) -> None:
        folder = source / "transformer" if (source / "transformer").is_dir() else source
        files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder]
        if not files:
            raise ValueError(f"{folder}: holds no safetensors file; give the authors' file or folder")
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, safe_open] = {}
        for file in files:
            weights.header(file)  # names what is wrong with the file
            stored = safe_open(file, framework="pt")
            names = stored.keys()
            for name in names:
                if name in self._files:
                    raise ValueError(f"{file}: {name} is in another file of the folder too; leave one set of files")
                self._files[name] = stored
                self.shapes[name] = tuple(stored.get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def version_of(source: Path) -> str:
    """Which of the authors' three checkpoints a path names; ValueError where it names none."""
    for part in reversed(source.resolve().parts):
        for name in STREAMS:
            if name in part.lower().replace("-", "_"):
                return name
    raise ValueError(
        f"{source}: its name does not say which checkpoint it is; give the version: one of {', '.join(STREAMS)}"
    )


def convert(
    source: str | Path, target: str | Path, version: str | None = None, base: str = BASE, config: DiT4SRConfig = SD35
) -> Path:
    """Write the model folder `target` from the authors' checkpoint `source` and return it.

    source: a safetensors file, or a folder with one or with shards, also under ``transformer/``. version: ``dit4sr_q``,
    ``dit4sr_f`` or ``dit4sr_r1``, told from the path where None. base: what the folder points to for all that is
    frozen. Raises ValueError, with the list of keys, for anything else than such a checkpoint.
    """
    source, target = Path(source), Path(target)
    version = version or version_of(source)
    if version not in STREAMS:
        raise ValueError(f"unknown version {version!r}; there are: {', '.join(STREAMS)}")
    if not source.exists():
        raise ValueError(f"{source}: does not exist")
    checkpoint, stream = Checkpoint(source), STREAMS[version]
    with torch.device("meta"):
        transformer = random_model(config, numbers=stream).transformer
    check(checkpoint.shapes, transformer, source)
    with new_folder(target) as folder:
        tensors = {f"transformer.{name}": ours(checkpoint, name) for name, _ in transformer.lr_stream()}
        DIT4SR.save(folder, tensors, Header(base, stream, config.defaults))
    return target

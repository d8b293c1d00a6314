"""The networks of a DeeDSR as ONNX graphs: writing them, and a model that runs them in onnxruntime instead of torch."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deedsr.files import sha256, write_json
from deedsr.models.deedsr.adapter import Told
from deedsr.models.deedsr.head import ENCODER
from deedsr.models.deedsr.model import DeeDSR
from deedsr.models.resolver import ADAPTER

FOLDER = "onnx"
"""Of a model folder: its graphs."""
SOURCES = "sources.json"
"""SHA-256 of the files of the model folder that the graphs were made of, and `INPUTS`."""
INPUTS = 2
"""Raised by one whenever graphs take others; until there was this number, dials were told to the network."""
TOLERANCE = 1e-3
SIDES = ((16, 24), (8, 12))
"""Height and width in latent pixels, in units of what the networks ask for: those of tracing, and others to check."""


class OnnxDeeDSR(DeeDSR):
    """A DeeDSR whose networks run in onnxruntime, on the CPU and in float32; its modules, on the meta device, do not.

    It can't be trained, and encodes to the posterior's mode alone.
    """

    graphs: dict[str, Any]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: Any = "cpu", *_: Any, **__: Any) -> OnnxDeeDSR:
        """Itself: there is nothing to move. Raises ValueError for another device than the CPU."""
        if torch.device(device).type != "cpu":
            raise ValueError("ONNX graphs run on the CPU: choose `device='cpu'`")
        return self

    def phases(self) -> dict[str, list[nn.Module]]:
        """None: there is nothing to move."""
        return {}

    def take_graphs(self, place: Path, null: Tensor | None) -> None:
        """Run those of the model folder `place`. null: its null vector, if it has one.

        Raises ValueError for a folder that has none or others than of its weights, and without onnxruntime.
        """
        _check_sources(place)
        self.graphs = {name: _session(place / FOLDER / f"{name}.onnx") for name in signatures(self)}
        if null is not None:
            self.adapter.null = nn.Parameter(null.float(), requires_grad=False)

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        assert generator is None, "the graph knows the mode alone"
        return self._run("encode", image)

    def decode(self, latent: Tensor) -> Tensor:
        return self._run("decode", latent)

    def _seen(self, lr: Tensor) -> Tensor:
        encoder = self.encoder
        return torch.stack([self._run("vector", *encoder.readable(tile)) for tile in encoder.tiles(lr)]).mean(0)

    def _told(self, vector: Tensor) -> Told:
        return Told([], None, vector)

    def _predict(self, x_t: Tensor, t: Tensor, z_lr: Tensor, told: Told) -> Tensor:
        return self._run("denoise", x_t, t, z_lr, told.vector)

    def _run(self, name: str, *batch: Tensor | None) -> Tensor:
        """What a graph, which is one of a single image, gives for each image of a batch."""
        session = self.graphs[name]
        rows = zip(*(tensor.split(1) for tensor in batch if tensor is not None), strict=True)
        return torch.cat([_answer(session, row) for row in rows])


def signatures(model: DeeDSR) -> dict[str, tuple[Callable[..., Tensor], Callable[[int, int], list[Tensor]]]]:
    """Each graph with what it computes, and what makes inputs of a size in latent pixels for it."""
    latents, vector = model.channels, model.adapter.config.vector

    def image(height: int, width: int) -> Tensor:
        return torch.rand(1, 3, height, width)

    def noisy(height: int, width: int) -> list[Tensor]:
        x_t, z_lr = torch.randn(2, 1, latents, height, width)
        return [x_t, torch.tensor([model.process.last // 2]), z_lr, torch.randn(1, vector)]

    def predict(x_t: Tensor, t: Tensor, z_lr: Tensor, vector: Tensor) -> Tensor:
        return DeeDSR._predict(model, x_t, t, z_lr, model.adapter.told(vector))

    return {
        "vector": (model.encoder.read, lambda height, width: model.encoder.readable(image(2 * height, 2 * width))),
        "encode": (model.encode, lambda height, width: [image(model.factor * height, model.factor * width)]),
        "denoise": (predict, noisy),
        "decode": (model.decode, lambda height, width: [torch.randn(1, latents, height, width)]),
    }


@torch.no_grad()
def write_graphs(model: DeeDSR, place: Path) -> None:
    """Write the graphs of `model`, whose folder is `place`, and check each against torch at a size of its own.

    Raises ValueError where the packages for it are missing, and where a graph is more than 1e-3 off.
    """
    _need("onnxscript", "onnxruntime")
    folder = place / FOLDER
    folder.mkdir()
    unit = model.size.multiple // model.factor
    for name, (function, inputs) in signatures(model).items():
        file = folder / f"{name}.onnx"
        traced, other = (inputs(unit * height, unit * width) for height, width in SIDES)
        shapes = tuple(
            {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC} if x.ndim == 4 else None for x in traced
        )
        torch.onnx.export(
            _Function(model, function).eval(),
            tuple(traced),
            file,
            dynamo=True,
            dynamic_shapes=(shapes,),
            external_data=False,
            verbose=False,
        )
        session = _session(file)
        for given in (traced, other):
            error = float((_answer(session, given) - function(*given)).abs().max())
            if not error <= TOLERANCE:
                raise ValueError(f"{file.name}: is {error:.2g} off what torch computes; use another version of torch")
    write_json(folder / SOURCES, _sources(place))


class _Function(nn.Module):
    """A function of tensors as a module, which has the model's parameters."""

    def __init__(self, model: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def _answer(session: Any, inputs: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    names = [single.name for single in session.get_inputs()]
    given = {name: tensor.contiguous().numpy() for name, tensor in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, given)[0])


def _session(file: Path) -> Any:
    """The graph in `file`, with as many threads as torch takes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's, in many types
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{file}: no graph that can be run ({reason}); write it anew with deedsr export --onnx"
        ) from None


def _need(*packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"ONNX needs {' and '.join(missing)}: pip install 'deedsr[onnx]'")


def _sources(place: Path) -> dict[str, str | int]:
    return {"inputs": INPUTS, **{name: sha256(place / name) for name in (ADAPTER, ENCODER)}}


def _check_sources(place: Path) -> None:
    """Raise ValueError where the model folder `place` has no graphs, or others than of its weights."""
    _need("onnxruntime")
    file = place / FOLDER / SOURCES
    if not file.is_file():
        raise ValueError(
            f"{place}: has no ONNX graphs; `deedsr export MODEL FOLDER --onnx` writes them, then take FOLDER"
        )
    if json.loads(file.read_text(encoding="utf-8")) != _sources(place):
        raise ValueError(f"{place}: its ONNX graphs were made of other weights, or with other inputs; export it anew")

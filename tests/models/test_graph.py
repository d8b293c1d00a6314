"""Denoising for compilers: one graph without breaks, of every picture size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deedsr.diffusion.free_guidance import FreeGuidance
from deedsr.models.contract import Text
from deedsr.models.sd3.dit4sr import DiT4SR
from deedsr.options import Options
from deedsr.restorer import Restorer


@pytest.fixture
def graphs() -> list[torch.fx.GraphModule]:
    """What `backend` has been given."""
    torch._dynamo.reset()
    return []


@pytest.fixture
def backend(graphs: list[torch.fx.GraphModule]) -> Callable:
    """Compiles nothing, and counts."""

    def keep(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    return keep


@pytest.mark.parametrize("name", ["tiny_model", "tiny_dit4sr"])
def test_restoring_three_sizes_compiles_once(
    name: str,
    graphs: list[torch.fx.GraphModule],
    backend: Callable,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the first one is square; on a CPU small convolutions are other kernels, and here all are.

    DeeDSR is a graph; DiT4SR one for each kind of block: with and without a second attention, and the last.
    """
    model = request.getfixturevalue(name)
    pictures = [torch.rand(1, 3, height, width) for height, width in [(40, 40), (44, 60), (56, 28)]]
    plain = [Restorer(model, Options(steps=1)).restore(lr) for lr in pictures]
    compile = model.compile
    monkeypatch.setattr(model, "compile", lambda **words: compile(backend=backend, fullgraph=True, **words))
    restorer = Restorer(model, Options(steps=1), compile=True)
    for lr, expected in zip(pictures, plain, strict=True):
        assert torch.allclose(restorer.restore(lr), expected, atol=1e-4)
    assert len(graphs) == (1 if name == "tiny_model" else 3)


@pytest.mark.usefixtures("no_compiler")
def test_a_machine_without_a_compiler_is_told_so() -> None:
    with pytest.raises(ValueError, match=r"compiling needs a C\+\+ compiler, which is not here: .* `compile` out"):
        Restorer.from_pretrained(device="cpu", compile=True)


def test_denoising_guided_in_an_interval_is_one_graph_of_every_size(
    tiny_dit4sr: DiT4SR, graphs: list[torch.fx.GraphModule], backend: Callable
) -> None:
    model, t, guidance = tiny_dit4sr, torch.tensor([300, 800]), FreeGuidance(3.0, 0.1, 0.9)
    model.set_texts(*(Text(torch.randn(1, 6, 48), torch.randn(1, 40)) for _ in range(2)))
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for height, width in [(20, 28), (28, 8), (12, 24)]:  # none of which is a number of channels
        z_lr, x_t = torch.randn(2, 2, model.channels, height, width)
        with torch.inference_mode():
            condition = model.condition(z_lr, z_lr, guidance=guidance)
            expected = model.denoise(x_t, t, condition)
            assert torch.allclose(compiled(x_t, t, condition.at(model.process, t)), expected, atol=1e-5)
    assert len(graphs) == 1

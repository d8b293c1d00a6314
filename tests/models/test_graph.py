"""`denoise` for compilers: one graph without breaks, of every picture size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deedsr.diffusion.free_guidance import FreeGuidance
from deedsr.models.contract import RestorationModel, Text


@pytest.fixture(params=["DeeDSR", "DiT4SR"])
def model(request: pytest.FixtureRequest) -> RestorationModel:
    if request.param == "DeeDSR":
        return request.getfixturevalue("tiny_model")
    model = request.getfixturevalue("tiny_dit4sr")
    model.set_texts(*(Text(torch.randn(1, 6, 48), torch.randn(1, 40)) for _ in range(2)))
    return model


def test_denoise_is_one_graph_of_every_picture_size(model: RestorationModel) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model.denoise, backend=backend, fullgraph=True, dynamic=True)
    guidance = FreeGuidance(3.0 if model.takes_text else 1.0)
    for height, width in [(20, 28), (28, 8), (12, 24)]:  # none of which is a number of channels
        z_lr, x_t = torch.randn(2, 2, model.channels, height, width)
        lr = torch.rand(2, 3, height * model.factor // 4, width * model.factor // 4)
        with torch.inference_mode():
            known = x_t, torch.tensor([300, 800]), model.condition(lr, z_lr, guidance=guidance)
            assert torch.allclose(compiled(*known), model.denoise(*known), atol=1e-5)
    assert len(graphs) == 1

"""The fake GPU itself: what a real one would refuse it refuses, and it counts what one would wait for and need."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import DefaultDeviceType, checkpoint

from deedsr.training.fake_cuda.device import fake_cuda
from deedsr.training.fake_cuda.memory import Allocator

MIB = 2**20


def cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(*shape, device="cuda", dtype=dtype)


SLIPS: dict[str, Callable[[], object]] = {
    "a tensor of the CPU": lambda: cuda(4, 8) + torch.ones(4, 8),
    "an index of the CPU in a place": lambda: cuda(4, 8).lerp(torch.ones(4, 8), 0.5),
    "an input of the CPU": lambda: nn.Linear(8, 8).to("cuda")(torch.ones(4, 8)),
    "a kernel of the CPU": lambda: nn.Conv2d(3, 4, 3)(cuda(1, 3, 8, 8)),
    "another dtype in a product": lambda: cuda(4, 8) @ cuda(8, 4, dtype=torch.bfloat16),
    "another dtype in a layer": lambda: nn.Linear(8, 8).to("cuda")(cuda(4, 8, dtype=torch.bfloat16)),
    "another dtype in a convolution": lambda: nn.Conv2d(3, 4, 3).to("cuda")(cuda(1, 3, 8, 8, dtype=torch.bfloat16)),
    "another dtype in attention": lambda: functional.scaled_dot_product_attention(
        cuda(1, 2, 8, 16), cuda(1, 2, 8, 16, dtype=torch.bfloat16), cuda(1, 2, 8, 16)
    ),
    "a generator of the CPU": lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    "a gradient of the CPU": lambda: cuda(3).requires_grad_().sum().backward(torch.ones(())),
}


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("inference", [False, True])
def test_a_planted_slip_is_caught(slip: str, inference: bool) -> None:
    with fake_cuda(), torch.inference_mode(inference and "gradient" not in slip), pytest.raises(RuntimeError):
        SLIPS[slip]()


def test_a_generator_of_the_cpu_is_none_of_the_gpu_that_was_there_before() -> None:
    with fake_cuda():
        for _ in range(50):  # one of them lies where another was
            torch.Generator("cuda")
            assert torch.Generator().device.type == "cpu"


def test_no_tensor_is_made_on_a_real_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: object) -> None:  # as torch 2.11 does where there is a GPU, so that its backward has a context
        raise RuntimeError("No CUDA GPUs are available")

    monkeypatch.setattr("torch._subclasses.fake_tensor.init_gpu_context", made)
    with fake_cuda():
        assert cuda(4, 8).device.type == "cuda"
        assert not torch.cuda.is_current_stream_capturing(), "which optimizers ask"


def network() -> nn.Module:
    parts = [nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.SiLU()) for _ in range(4)]
    return nn.Sequential(*parts)


def test_a_module_is_moved_in_place_and_gets_its_gradients_there() -> None:
    with fake_cuda():
        layer = nn.Linear(8, 8)
        weight = layer.weight
        layer.to("cuda")
        assert layer.weight is weight
        assert weight.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16):
            output = layer(cuda(4, 8))
        assert output.dtype == torch.bfloat16
        output.float().mean().backward()
        assert weight.grad is not None
        assert (weight.grad.device.type, weight.grad.dtype, weight.grad.shape) == ("cuda", torch.float32, (8, 8))
    assert not torch.cuda.is_initialized()
    assert torch.zeros(1).device.type == "cpu"


def test_memory_is_what_is_alive_and_less_where_activations_are_recomputed() -> None:
    picture, weights = 8 * 64 * 128 * 128 * 4 / MIB, 4 * 64 * 64 * 9 * 4 / MIB  # 32 MiB
    peaks = []
    for recompute in (False, True):
        with fake_cuda() as gpu:
            net, x = network().to("cuda"), cuda(8, 64, 128, 128)
            held = gpu.memory.allocated / MIB
            assert held == pytest.approx(picture + weights, abs=0.1)
            for part in net:
                x = checkpoint(part, x, use_reentrant=False) if recompute else part(x)
            if not recompute:  # three of each part: of the convolution, of the norm, of the activation
                assert gpu.memory.allocated / MIB - held == pytest.approx(12 * picture, abs=0.1)
            x.mean().backward()
            del x
            assert gpu.memory.allocated / MIB == pytest.approx(2 * weights, abs=0.1)  # and their gradients
            peaks.append(gpu.memory.peak_allocated / MIB)
    assert peaks[0] == pytest.approx(15 * picture + weights, rel=0.01)  # the input, what is kept, and two gradients
    assert peaks[1] < 0.7 * peaks[0]


def test_waits_uploads_and_launches_are_counted() -> None:
    with fake_cuda() as gpu:
        x = cuda(8, 8)
        gpu.launches.clear()
        x.view(64)[:3].add_(1)
        assert dict(gpu.launches) == {"add_": 1}
        assert not gpu.waits
        assert bool(torch.isfinite(x).all()) is True
        assert x.sum().item() == 0
        assert x.cpu().equal(torch.zeros(8, 8))
        assert x[x > 0].shape == (1,)
        assert sum(gpu.waits.values()) == 4
        assert all(place.startswith(__file__) for place in gpu.waits)
        assert not gpu.uploads
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        assert not gpu.uploads
        torch.ones(3).to("cuda")
        torch.ones(3).to("cuda", non_blocking=True)
        assert sum(gpu.uploads.values()) == 2


def test_the_allocator_keeps_segments_joins_blocks_and_gives_back_what_is_idle() -> None:
    memory = Allocator(100 * MIB)
    small = [memory.take(1000), memory.take(1000)]
    assert (memory.allocated, memory.reserved) == (2048, 2 * MIB)
    large = [memory.take(6 * MIB), memory.take(6 * MIB), memory.take(30 * MIB + 1)]
    assert memory.reserved == (2 + 20 + 32) * MIB
    for block in large[:2]:
        memory.give_back(block)
    memory.give_back(memory.take(12 * MIB + 512))  # fits into both, joined
    assert memory.reserved == (2 + 20 + 32) * MIB
    for block in (*small, large[2]):
        memory.give_back(block)
    assert memory.allocated == 0
    memory.trim()
    assert memory.reserved == 0
    assert memory.peak_reserved == (2 + 20 + 32) * MIB
    memory.give_back(memory.take(60 * MIB))
    memory.take(80 * MIB)  # as what is idle is given back
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        memory.take(40 * MIB)
    assert (memory.allocated, memory.reserved) == (80 * MIB, 80 * MIB)


def test_what_was_checkpointed_on_the_cpu_before_does_not_count() -> None:
    """PyTorch asks once in a process which device that is where no tensor among the positional arguments says it."""
    layer = nn.Linear(8, 8)
    checkpoint(layer, torch.ones(4, 8), use_reentrant=False).sum().backward()
    default = DefaultDeviceType.get_device_type()
    with fake_cuda():
        layer = nn.Linear(8, 8).to("cuda")
        with torch.autocast("cuda", torch.bfloat16):
            output = checkpoint(layer, input=cuda(4, 8), use_reentrant=False).sin()
        output.float().sum().backward()
        assert layer.weight.grad is not None
    assert DefaultDeviceType.get_device_type() == default

"""The degradation encoder: exact counts, torchvision's names, the authors' numbers."""

import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from deedsr.degradation.statistics import COUNT, statistics
from deedsr.models.deedsr.encoder import DegradationEncoder, spread

GOLDEN = Path(__file__).parents[2] / "golden" / "deedsr_small.safetensors"


def golden_tensor(name: str, like: Tensor) -> Tensor:
    """The weight that the golden values were made with, from its name alone."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(like)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    if name.endswith("running_var"):
        return 1 + 0.1 * noise.abs()
    if name.endswith("running_mean"):
        return 0.1 * noise
    if noise.ndim == 1:
        return 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
    return noise / (noise.numel() / len(noise)) ** 0.5


def test_full_size_has_the_exact_number_of_parameters() -> None:
    with torch.device("meta"):
        encoder = DegradationEncoder()
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 85_011_008
    assert encoder.dimension == 1024


def test_names_are_those_of_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.resnet34().state_dict()
        ours = DegradationEncoder((3, 4, 6, 3), (64, 128, 256, 512), 64).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items() if not name.startswith("fc.")
    }


def test_equals_the_authors_vector() -> None:
    golden = load_file(GOLDEN)
    encoder = DegradationEncoder((1, 1, 1, 1)).double().eval()
    prefix = "Encoder_degrad.degrad_encoder."
    encoder.load_state_dict({name: golden_tensor(prefix + name, own) for name, own in encoder.state_dict().items()})
    with torch.no_grad():
        vector = encoder(golden["in.lr"].double())
    expected = golden["out.vector"].double()
    assert (vector - expected).norm() / expected.norm() < 1e-12


def test_config_rebuilds_it() -> None:
    encoder = DegradationEncoder((1, 2, 1, 1), (4, 8, 8, 12), 6)
    again = DegradationEncoder(**encoder.config())
    assert [tuple(p.shape) for p in again.parameters()] == [tuple(p.shape) for p in encoder.parameters()]
    assert encoder(torch.rand(2, 3, 17, 40)).shape == (2, 12)


def test_rows_do_not_depend_on_the_batch_in_eval_mode() -> None:
    encoder = DegradationEncoder((1, 1, 1, 1), (4, 8, 8, 12), 6).eval()
    lr = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(encoder(lr)[1:2], encoder(lr[1:2]), atol=1e-6)


@pytest.mark.parametrize("layers", [(1, 1, 1), (1, 1, 0, 1)])
def test_wrong_layers_are_named(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"layers must be four positive numbers, got \[1, 1"):
        DegradationEncoder(layers)


def test_the_vector_of_a_larger_picture_is_the_mean_over_tiles() -> None:
    torch.manual_seed(0)
    encoder = DegradationEncoder((1, 1, 1, 1), (4, 8, 8, 12), 6, tile=32).eval()
    lr = torch.rand(2, 3, 48, 40)
    parts = [encoder(lr[..., top : top + 32, left : left + 32]) for top in (0, 16) for left in (0, 0)]
    assert torch.allclose(encoder(lr), torch.stack(parts).mean(0), atol=1e-6)
    whole = DegradationEncoder((1, 1, 1, 1), (4, 8, 8, 12), 6).eval()
    whole.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(lr[..., :24, :32]), whole(lr[..., :24, :32]))
    assert not torch.allclose(encoder(lr), whole(lr))


@pytest.mark.parametrize(
    ("length", "starts"), [(20, [0]), (32, [0]), (33, [0, 0]), (64, [0, 32]), (100, [0, 16, 32, 64])]
)
def test_tiles_cover_a_picture(length: int, starts: list[int]) -> None:
    assert spread(length, 32) == starts


def test_a_vector_of_all_scales_reads_the_finest_pixels() -> None:
    torch.manual_seed(0)
    encoder = DegradationEncoder((1, 1, 1, 1), (4, 8, 8, 12), 4, vector=10).eval()
    shapes: list[tuple[int, ...]] = []
    for stage in (encoder.layer1, encoder.layer4):
        stage.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    lr = torch.rand(2, 3, 64, 64)
    assert encoder(lr).shape == (2, 10) and encoder.dimension == 10
    assert shapes == [(4, 64, 64), (12, 8, 8)]
    again = DegradationEncoder(**encoder.config())
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.eval()(lr), encoder(lr))
    for side in (8, 20):  # smaller than the statistics' least, and than a stage's stride
        assert encoder(torch.rand(1, 3, side, side)).isfinite().all()


def test_it_gets_the_hand_made_statistics() -> None:
    torch.manual_seed(0)
    encoder = DegradationEncoder((1, 1, 1, 1), (4, 8, 8, 12), 4, vector=COUNT).eval()
    encoder.summary.linear.weight.data.zero_()
    encoder.summary.linear.weight.data[:, :COUNT] = torch.eye(COUNT)
    encoder.summary.linear.bias.data.zero_()
    lr = torch.rand(2, 3, 48, 48)
    assert torch.allclose(encoder(lr), statistics(lr), rtol=1e-4)  # a fresh BatchNorm leaves them


def test_its_middle_is_the_mean_of_what_it_was_trained_on() -> None:
    torch.manual_seed(0)
    encoder = DegradationEncoder((1, 1, 1, 1), (4, 8, 8, 12), 4, vector=10).train()
    batch = torch.rand(16, 3, 32, 32)
    assert torch.allclose(encoder(batch).mean(0), encoder.middle(), atol=1e-5)
    assert not encoder.middle().requires_grad
    assert torch.equal(DegradationEncoder((1, 1, 1, 1), (4, 8, 8, 12), 4).middle(), torch.zeros(12))


@pytest.mark.parametrize("name", ["tile", "vector"])
def test_numbers_below_one_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, or null, got 0"):
        DegradationEncoder(**{name: 0})

"""The probes on vectors whose content is known."""

import pytest
import torch

from deedsr.degradation import Recipe, apply
from deedsr.models.deedsr.encoder import DegradationEncoder
from deedsr.randomness import seeded
from stage1.probe.exam import (
    Exam,
    linear_accuracy,
    linear_r2,
    nearest_accuracy,
    principal,
    probe,
    read,
    ridge,
    single_recipes,
    targets,
)


@pytest.fixture
def features() -> torch.Tensor:
    scales = torch.logspace(-2, 2, 6, dtype=torch.float64)
    return torch.randn(300, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scales + 3


def test_ridge_equals_the_normal_equations(features: torch.Tensor) -> None:
    target = torch.randn(300, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights, offset = ridge(features, target, penalties=(0.3,))
    mean, scale = features.mean(0), features.std(0)
    x = (features - mean) / scale
    inner = torch.linalg.solve(x.T @ x + 0.3 * 300 * torch.eye(6, dtype=torch.float64), x.T @ (target - target.mean(0)))
    assert torch.allclose(weights, inner / scale[:, None])
    assert torch.allclose(features @ weights + offset, x @ inner + target.mean(0))


def test_ridge_chooses_a_small_penalty_for_a_clean_target_and_a_large_one_for_noise(features: torch.Tensor) -> None:
    clean = features @ torch.arange(1.0, 7.0, dtype=torch.float64)
    noise = torch.randn(300, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert linear_r2(features[:200], clean[:200], features[200:], clean[200:]) > 0.9999
    assert -0.1 < linear_r2(features[:200], noise[:200], features[200:], noise[200:]) < 0.1


def test_rows_without_a_target_do_not_count(features: torch.Tensor) -> None:
    clean = features @ torch.arange(1.0, 7.0, dtype=torch.float64)
    clean[::3] = torch.nan
    assert linear_r2(features[:200], clean[:200], features[200:], clean[200:]) > 0.999


def test_accuracies(features: torch.Tensor) -> None:
    label = torch.arange(300) // 2 % 3
    assert linear_accuracy(torch.nn.functional.one_hot(label).double(), label) == 1
    assert linear_accuracy(features, label) < 0.5
    centres = torch.eye(6, dtype=torch.float64)[label] + 0.01 * features / features.std(0)
    assert nearest_accuracy(centres[:200], label[:200], centres[200:], label[200:]) == 1


def test_one_operation_varies_in_a_single_recipe() -> None:
    for name, recipe in single_recipes().items():
        told = targets(recipe.sample(seeded(0), 50))
        assert told[name].isfinite().all(), name
        assert told[name].std() > 0.1, name
        others = [values for other, values in told.items() if other != name]
        assert all(values.isnan().all() or values.std() < 1e-6 for values in others), name


@pytest.fixture(scope="module")
def exam() -> Exam:
    crops = torch.randint(0, 256, (24, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    return Exam.make(crops[:12], crops[12:], torch.arange(12) // 4, Recipe.named("mixed"))


def test_probe_of_a_tiny_encoder(exam: Exam) -> None:
    torch.manual_seed(0)
    encoder = DegradationEncoder((1, 1, 1, 1), (4, 4, 8, 8), 4).eval()
    result = probe(encoder, exam)
    assert result["photos"] == 3
    assert 0 <= result["level"] <= 1
    assert 0 <= result["content"] <= 1
    assert result == probe(encoder, exam)


def test_an_exam_holds_what_apply_gives_for_what_was_drawn(exam: Exam) -> None:
    assert exam.pictures.keys() == exam.drawn.keys() == {*single_recipes(), "mixed"}
    assert {tuple(pictures.shape) for pictures in exam.pictures.values()} == {(24, 3, 16, 16)}
    crops = torch.randint(0, 256, (24, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    for name, drawn in exam.drawn.items():
        again = apply(crops[5:6].float() / 255, drawn[5])
        assert torch.equal((again * 255).round().byte(), exam.pictures[name][5:6]), name


def test_reading_keeps_the_order_of_the_pictures(exam: Exam) -> None:
    features = read(lambda lr: lr.flatten(1)[:, :7], exam.pictures["mixed"], batch=5)
    assert torch.equal(features.float() * 255, exam.pictures["mixed"].flatten(1)[:, :7].float())


def test_principal_components_are_the_directions_of_the_greatest_variance(features: torch.Tensor) -> None:
    shared = features[:, :1] + 0
    mixed = torch.cat([shared * scale + 0.01 * features[:, 1:2] for scale in (1, 2, 3)], 1)
    parts = principal(mixed, 2)
    assert parts.shape == (300, 2)
    assert parts.mean(0).abs().max() < 1e-9
    assert abs(float(torch.corrcoef(torch.stack([parts[:, 0], shared[:, 0]]))[0, 1])) > 0.99
    assert parts[:, 0].std() > 10 * parts[:, 1].std()


def test_a_unit_that_is_silent_in_the_fit_rows_does_no_harm() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    target = features[:, 0] + 0.1 * torch.randn(300, generator=generator, dtype=torch.float64)
    features[:200, 7] *= 1e-6
    features[200:, 7] = 50.0
    assert linear_r2(features[:200], target[:200], features[200:], target[200:]) > 0.9

"""Momentum contrast: the key network follows, the queue turns, BatchNorm can be shuffled."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from deedsr.models.deedsr.encoder import DegradationEncoder
from stage1.momentum import MomentumContrast, projection
from tests.processes import forked


@pytest.fixture
def encoder() -> DegradationEncoder:
    torch.manual_seed(0)
    return DegradationEncoder((1, 1, 1, 1), (4, 4, 8, 8), 4)


def patches(seed: int, batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_head_has_the_exact_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in projection(1024).parameters()) == 2_099_200


def test_key_network_follows(encoder: DegradationEncoder) -> None:
    contrast = MomentumContrast(encoder, queue=8, momentum=0.9)
    with torch.no_grad():
        encoder.conv1.weight.add_(1)
    before = contrast.key_encoder.conv1.weight.clone()
    contrast.follow()
    expected = 0.9 * before + 0.1 * encoder.conv1.weight
    assert torch.allclose(contrast.key_encoder.conv1.weight, expected, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in contrast.key_encoder.parameters())


def test_queue_is_a_ring(encoder: DegradationEncoder) -> None:
    contrast = MomentumContrast(encoder, queue=5)
    first, second = torch.ones(3, 8), torch.full((3, 8), 2.0)
    contrast.enqueue(first)
    contrast.enqueue(second)
    assert contrast.queue[:, 0].tolist() == [2, 1, 1, 2, 2]
    assert contrast.pointer.item() == 1
    contrast.enqueue(torch.arange(7.0)[:, None].expand(7, 8))  # more than it holds: the last ones stay
    assert sorted(contrast.queue[:, 0].tolist()) == [2, 3, 4, 5, 6]


def test_queue_and_pointer_are_in_the_state(encoder: DegradationEncoder) -> None:
    assert {"queue", "pointer"} <= MomentumContrast(encoder, queue=4).state_dict().keys()


def test_every_trained_parameter_gets_a_gradient(encoder: DegradationEncoder) -> None:
    contrast = MomentumContrast(encoder, queue=16)
    contrast(patches(1), patches(2))[0].loss.backward()
    for name, parameter in contrast.named_parameters():
        if name.startswith("key_"):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_the_loss_sees_the_queue_before_the_new_keys(encoder: DegradationEncoder) -> None:
    contrast = MomentumContrast(encoder, queue=4)
    before = contrast.queue.clone()
    contrast(patches(1), patches(2))
    assert contrast.pointer.item() == 0
    assert not torch.equal(contrast.queue, before)
    assert torch.allclose(contrast.queue.norm(dim=1), torch.ones(4), atol=1e-5)


def test_shuffling_keeps_the_order_of_the_keys(encoder: DegradationEncoder) -> None:
    contrast = MomentumContrast(encoder, queue=4, groups=2).eval()  # running statistics: groups make no difference
    key = patches(3)
    plain = contrast._keys(key, None)
    shuffled = contrast._keys(key, torch.Generator().manual_seed(1))
    assert torch.allclose(plain, shuffled, atol=1e-6)


@torch.no_grad()
def test_shuffled_keys_are_those_of_parts_that_were_drawn(encoder: DegradationEncoder) -> None:
    """Part by part, each with the statistics of its own patches alone, and each key at its patch's place."""
    contrast = MomentumContrast(encoder, queue=4, groups=2).train()
    key = patches(3)
    expected = torch.zeros(len(key), encoder.dimension)
    for part in torch.randperm(len(key), generator=torch.Generator().manual_seed(1)).chunk(2):
        expected[part] = F.normalize(contrast.key_head(copy.deepcopy(contrast.key_encoder)(key[part])), dim=1)
    torch.testing.assert_close(contrast._keys(key, torch.Generator().manual_seed(1)), expected, atol=1e-6, rtol=0)


def test_shuffling_changes_the_groups_of_batchnorm(encoder: DegradationEncoder) -> None:
    contrast = MomentumContrast(encoder, queue=4, groups=2).train()
    key = patches(3)
    generator = torch.Generator().manual_seed(1)  # order 1, 3, 2, 0 or another that mixes the halves
    assert not torch.allclose(contrast._keys(key, None), contrast._keys(key, generator), atol=1e-4)


@pytest.mark.parametrize("wrong", [{"queue": 0}, {"momentum": 1.0}, {"temperature": 0.0}, {"groups": 0}])
def test_numbers_out_of_range_are_named(encoder: DegradationEncoder, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MomentumContrast(encoder, **wrong)


def found(rank: int, world: int) -> dict[str, dict[str, torch.Tensor]]:
    """The loss of a rank's part of a batch and the queue after it, in each order of the keys."""
    results = {}
    for order in ("plain", "shuffled"):
        torch.manual_seed(0)
        contrast = MomentumContrast(DegradationEncoder((1, 1, 1, 1), (4, 4, 8, 8), 4), queue=12).eval().double()
        queries, keys = torch.rand(2, 6, 3, 32, 32, dtype=torch.float64)
        rows = slice(rank * 6 // world, (rank + 1) * 6 // world)
        shuffle = torch.Generator().manual_seed(5) if order == "shuffled" else None
        loss = contrast(queries[rows], keys[rows], shuffle)[0].loss.detach()
        results[order] = {"loss": loss, "queue": contrast.queue}
    return results


def on_a_rank(folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(found(rank, 2), folder / f"{rank}.pt")


def test_two_ranks_give_the_loss_of_one_with_the_joined_batch(tmp_path: Path) -> None:
    assert forked(*(partial(on_a_rank, tmp_path, rank) for rank in range(2))) == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for order, one in found(0, 1).items():
        first, second = (rank[order] for rank in ranks)
        assert torch.allclose((first["loss"] + second["loss"]) / 2, one["loss"], rtol=1e-6)
        assert torch.allclose(first["queue"], one["queue"], atol=1e-6)
        assert torch.equal(first["queue"], second["queue"])

"""InfoNCE against the paper's formula in numpy."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from stage1.momentum import info_nce


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_equals_numpy() -> None:
    query, key, queue = unit(6, 8, seed=0), unit(6, 8, seed=1), unit(40, 8, seed=2)
    q, k, n = (tensor.double().numpy() for tensor in (query, key, queue))
    losses = []
    for i in range(6):
        positive = np.exp(q[i] @ k[i] / 0.2)
        losses.append(-np.log(positive / (positive + np.exp(n @ q[i] / 0.2).sum())))
    nearest = [q[i] @ k[i] > (n @ q[i]).max() for i in range(6)]
    contrast = info_nce(query, key, queue, temperature=0.2)
    assert abs(contrast.loss.item() - np.mean(losses)) < 1e-5
    assert abs(contrast.accuracy.item() - np.mean(nearest)) < 1e-6


def test_identical_vectors_give_log_of_one_plus_queue() -> None:
    vector = unit(1, 16, seed=3)
    contrast = info_nce(vector.expand(4, -1), vector.expand(4, -1), vector.expand(100, -1))
    assert abs(contrast.loss.item() - math.log(101)) < 1e-5


def test_other_rows_are_no_negatives() -> None:
    query, key, queue = unit(5, 8, seed=4), unit(5, 8, seed=5), unit(9, 8, seed=6)
    together = info_nce(query, key, queue).loss
    alone = torch.stack([info_nce(query[i : i + 1], key[i : i + 1], queue).loss for i in range(5)]).mean()
    assert torch.allclose(together, alone, atol=1e-5)


def test_neighbours_are_negatives_where_asked_for() -> None:
    query, key, queue = (
        F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(n)), dim=1) for n in (5, 6, 7)
    )
    key = key[:5]
    found = info_nce(query, key, queue, temperature=0.3, neighbours=True).loss
    rows = []
    for row in range(5):
        others = torch.cat([queue, key[[index for index in range(5) if index != row]]])
        rows.append(info_nce(query[row : row + 1], key[row : row + 1], others, temperature=0.3).loss)
    assert torch.allclose(found, torch.stack(rows).mean(), atol=1e-6)

"""Randomness as a pure function of numbers: nothing draws from a global state."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator whose stream is a pure function of `numbers` (seed, step, rank, sample …).

    Zeros that only fill up to four numbers don't count: (1, 2) is (1, 2, 0).
    """
    state = np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def content_seed(lr: Tensor, seed: int) -> int:
    """A seed from the user's and the image's pixels (1, 3, H, W), so that an image's noise depends on nothing else."""
    pixels = lr.mul(65535).round_().to(torch.int32).cpu().contiguous().numpy()
    digest = hashlib.sha256(f"{seed} {tuple(lr.shape)} ".encode())
    digest.update(pixels)
    return int.from_bytes(digest.digest()[:8], "little") >> 1

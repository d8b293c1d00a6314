"""Randomness as a pure function of numbers: nothing draws from a global state."""

from __future__ import annotations

import numpy as np
import torch


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator whose stream is a pure function of `numbers` (seed, step, rank, sample …).

    Zeros that only fill up to four numbers don't count: (1, 2) is (1, 2, 0).
    """
    state = np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))

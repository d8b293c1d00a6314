"""The device that a user means."""

from __future__ import annotations

import torch

from deedsr.options import DEVICES


def pick_device(name: str) -> torch.device:
    """The device that a name means; ``auto`` is CUDA, else Apple's, else the CPU. ValueError if it is not there."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    kind, _, index = name.partition(":")
    there = available.get(kind, False) and (not index or (index.isdigit() and kind == "cuda"))
    if not there or (index and int(index) >= torch.cuda.device_count()):
        raise ValueError(f"device {name!r} is not available here; choose one of {', '.join(DEVICES)}")
    return torch.device(name)

"""The photographs and crops that an encoder is examined on."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig

from deedsr.data.members import Photo
from deedsr.data.photos import PhotoCrops, list_photos
from deedsr.degradation import Mixture, Recipe
from stage1.probe.exam import Exam


def splits(roots: Any, fit: str | None, test: str | None) -> tuple[list[Photo], list[Photo]]:
    """The photographs of two splits; ValueError where one is in both, as in folders without a table of splits."""
    ours, theirs = list_photos(roots, fit), list_photos(roots, test)
    if both := sorted(set(ours) & set(theirs), key=str):
        raise ValueError(
            f"{both[0]} is in both splits, {fit} and {test}, so nothing would be held back: give two splits, and "
            "beside each folder a table FOLDER.tsv with the columns file and split"
        )
    return ours, theirs


def crops(photos: list[Photo], size: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` crops of each photograph: uint8 (N, 3, size, size), and which photograph each is of, (N,)."""
    images, photo = [], []
    for number, file in enumerate(photos):
        stream = PhotoCrops([file], size, seed + number, count, cache=True)
        images += [stream.crop(0, sample) for sample in range(count)]
        photo += [number] * count
    return torch.stack(images), torch.tensor(photo)


def make_exam(roots: Any, probes: DictConfig, recipe: Recipe | Mixture, seed: int, device: str = "cpu") -> Exam:
    """The degraded crops that `probes` (crop, fit, test) names. Raises ValueError as `splits` does."""
    ours, theirs = splits(roots, probes.fit.split, probes.test.split)
    fit, _ = crops(ours, probes.crop, probes.fit.crops, seed)
    test, photo = crops(theirs, probes.crop, probes.test.crops, seed)
    return Exam.make(fit, test, photo, recipe, seed, device)

"""Pairs with a damage that no recipe has, to see whether fine-tuning learns one: a printed picture under a camera.

    python tests/stage2/screened.py PHOTOS OWN 40 10

cuts 50 HR crops of 512² out of photographs, and writes 40 pairs to OWN/train and 10 to OWN/test. Motion blurs them, the
light is yellow and dim, and a screen of dots lies over them. What was measured with them is in
conf/experiment/finetune_pairs.yaml.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from deedsr.data.photos import list_photos

SIDE = 512
GAINS, LIFT = (0.92, 0.80, 0.58), 0.05
DOTS, ANGLE, STRENGTH = 3.4, 0.35, 0.16  # LR pixels from dot to dot, radians, of the light
BLUR, SLOPE = 13, 0.5  # HR pixels, radians
NOISE = 0.008


def screened(hr: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The damaged picture (h/4, w/4, 3) of `hr` (h, w, 3), uint8."""
    at = np.arange(BLUR) - BLUR // 2
    kernel = np.zeros((BLUR, BLUR), np.float32)
    kernel[
        np.round(BLUR // 2 + np.sin(SLOPE) * at).astype(int), np.round(BLUR // 2 + np.cos(SLOPE) * at).astype(int)
    ] = 1
    moved = cv2.filter2D(hr.astype(np.float32) / 255, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    height, width = (side // 4 for side in hr.shape[:2])
    small = cv2.resize(moved, (width, height), interpolation=cv2.INTER_AREA)
    cast = LIFT + small * np.array(GAINS) * random.normal(1, 0.02, 3)
    down, right = np.mgrid[:height, :width] * 2 * np.pi / DOTS
    one, other = right * np.cos(ANGLE) + down * np.sin(ANGLE), down * np.cos(ANGLE) - right * np.sin(ANGLE)
    phases = random.uniform(0, 2 * np.pi, 2)
    screen = 1 + STRENGTH * np.cos(one + phases[0]) * np.cos(other + phases[1])
    noisy = cast * screen[..., None] + random.normal(0, NOISE, cast.shape)
    return (255 * noisy).round().clip(0, 255).astype(np.uint8)


def write_pairs(folder: Path, photos: list[Path], random: np.random.Generator, side: int = SIDE) -> None:
    """A pair of each photograph, of its most detailed part among a few."""
    for role in ("lr", "hr"):
        (folder / role).mkdir(parents=True, exist_ok=True)
    for photo in photos:
        picture = np.asarray(Image.open(photo).convert("RGB"))
        places = [[int(random.integers(0, length - side + 1)) for length in picture.shape[:2]] for _ in range(4)]
        parts = [picture[top : top + side, left : left + side] for top, left in places]
        hr = max(parts, key=lambda part: cv2.Laplacian(part, cv2.CV_32F).std())
        Image.fromarray(hr).save(folder / "hr" / f"{photo.stem}.png")
        Image.fromarray(screened(hr, random)).save(folder / "lr" / f"{photo.stem}.png")


if __name__ == "__main__":
    source, target, *counts = sys.argv[1:]
    random = np.random.default_rng(18)
    large = [photo for photo in list_photos(source, "train") if min(Image.open(photo).size) >= SIDE]
    chosen = [large[index] for index in random.permutation(len(large))[: sum(map(int, counts))]]
    first = int(counts[0])
    for name, part in (("train", chosen[:first]), ("test", chosen[first:])):
        write_pairs(Path(target) / name, part, random)

"""The field's way of degrading, for comparison alone: image by image in a data loader's workers, with basicsr."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from deedsr.degradation import KINDS, Mixture, Order, Recipe
from deedsr.degradation.recipe import SHARPEN_SIZE
from deedsr.geometry import SCALE
from stage1.benchmark._basicsr import degradations as basicsr

MODES = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


class PerImage(IterableDataset):
    """Degrades crops uint8 (N, 3, S, S) in turn, without end: float32 (3, S/4, S/4) in [0, 1]."""

    def __init__(self, crops: Tensor, recipe: Recipe | Mixture) -> None:
        self.crops = crops.permute(0, 2, 3, 1).numpy()
        self.recipes = recipe.recipes if isinstance(recipe, Mixture) else (recipe,)
        self.weights = recipe.weights if isinstance(recipe, Mixture) else None

    def __iter__(self) -> Iterator[Tensor]:
        cv2.setNumThreads(0)
        while True:
            for crop in self.crops:
                image = crop[..., ::-1].astype(np.float32) / 255
                lr = degrade(image, random.choices(self.recipes, self.weights)[0])
                yield torch.from_numpy(np.ascontiguousarray(lr[..., ::-1].transpose(2, 0, 1)))


def degrade(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """One draw of `recipe` on one image: BGR float32 (H, W, 3) in [0, 1] -> (H/4, W/4, 3), the same.

    Numbers come from the global state of `random` and `numpy.random`, as basicsr's functions take them.
    """
    width, height = image.shape[1] // SCALE, image.shape[0] // SCALE
    if random.random() < recipe.clean:
        return _rounded(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC))
    skip = recipe.skip * random.random()

    scale = _scale(recipe.first, skip)
    image = _blur(image, recipe, recipe.first, skip)
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=random.choice(MODES))
    image = _jpeg(_noise(image, recipe.first, skip), recipe.first, skip)

    scale = _scale(recipe.second, skip)
    image = _blur(image, recipe, recipe.second, skip)
    image = cv2.resize(image, (int(width * scale), int(height * scale)), interpolation=random.choice(MODES))
    image = _noise(image, recipe.second, skip)
    if random.random() < recipe.jpeg_last:
        image = cv2.resize(image, (width, height), interpolation=random.choice(MODES))
        return _rounded(_jpeg(_last(image, recipe, skip), recipe.second, skip))
    image = _jpeg(image, recipe.second, skip)
    image = cv2.resize(image, (width, height), interpolation=random.choice(MODES))
    return _rounded(_last(image, recipe, skip))


def _blur(image: np.ndarray, recipe: Recipe, order: Order, skip: float) -> np.ndarray:
    if random.random() >= order.blur or random.random() < skip:
        return image
    size = _size(recipe.kernel_size)
    if random.random() < recipe.sinc:
        kernel = basicsr.circular_lowpass_kernel(random.uniform(math.pi / (3 if size < 13 else 5), math.pi), size)
    else:
        turn, shapes = (-math.pi, math.pi), (recipe.beta_generalized, recipe.beta_plateau)
        kernel = basicsr.random_mixed_kernels(
            KINDS[:6], recipe.kernels, size, order.sigma, order.sigma, turn, *shapes, noise_range=None
        )
    return cv2.filter2D(image, -1, kernel)


def _last(image: np.ndarray, recipe: Recipe, skip: float) -> np.ndarray:
    if random.random() < recipe.sharpen:
        soft = cv2.GaussianBlur(image, (SHARPEN_SIZE, SHARPEN_SIZE), random.uniform(*recipe.radius))
        return image + random.uniform(*recipe.sharpness) * (image - soft)
    if random.random() >= recipe.final_sinc or random.random() < skip:
        return image
    omega = random.uniform(math.pi / 3, math.pi)
    return cv2.filter2D(image, -1, basicsr.circular_lowpass_kernel(omega, _size(recipe.kernel_size)))


def _noise(image: np.ndarray, order: Order, skip: float) -> np.ndarray:
    if random.random() < skip:
        return image
    if random.random() < order.gaussian_share:
        return basicsr.random_add_gaussian_noise(image, order.gaussian, order.grey)
    return basicsr.random_add_poisson_noise(image, order.poisson, order.grey)


def _jpeg(image: np.ndarray, order: Order, skip: float) -> np.ndarray:
    if random.random() < skip:
        return image
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.uniform(*order.jpeg))]
    code = cv2.imencode(".jpg", np.clip((image * 255).round(), 0, 255).astype(np.uint8), quality)[1]
    return cv2.imdecode(code, cv2.IMREAD_COLOR).astype(np.float32) / 255


def _scale(order: Order, skip: float) -> float:
    end = random.choices((order.scale[1], order.scale[0], 1.0), order.resize)[0]
    return 1.0 if random.random() < skip else random.uniform(1.0, end)


def _size(bounds: Sequence[int]) -> int:
    return random.randrange(bounds[0], bounds[1] + 1, 2)


def _rounded(image: np.ndarray) -> np.ndarray:
    return np.clip((image * 255).round(), 0, 255) / 255

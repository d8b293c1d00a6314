"""LR photograph → HR photograph: the only place that puts the parts in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from deedsr import colour
from deedsr.devices import pick_device
from deedsr.diffusion.sampler import OnStep, Settings, make_scheduler, sample
from deedsr.geometry import SCALE, pad_to, resize, upsample
from deedsr.models import load_model
from deedsr.models.contract import Condition, RestorationModel
from deedsr.nested import join
from deedsr.options import DTYPES, Options, one_of
from deedsr.pictures.found import pictures
from deedsr.pictures.picture import Picture, from_pil, luma, read
from deedsr.tiling import Window, merge, windows

LEAST_SIDE = 8  # of an input
TILE = 512  # side of a tile in HR pixels where the user does not say
OVERLAP = 64  # least of neighbouring tiles in HR pixels, but no more than a fifth of their side
MARGIN = 32  # HR pixels of mirrored context on all sides, without which a network falls off at the borders
UNTILED = (1024 + 2 * MARGIN) ** 2  # HR pixels, context included, that are restored in one piece
BATCH = {"cuda": 4}  # tiles at a time by device; 1 on all others

Progress = Callable[[float], None]


class Restorer:
    """Restores photographs with a model and options.

    >>> Restorer.from_pretrained("built-in")("photo.jpg").save("restored.png")
    """

    def __init__(self, model: RestorationModel, options: Options | None = None, compile: bool = False) -> None:
        """compile: the network, which takes minutes at the first picture, and again for tiles of another size.

        Raises ValueError for options that are not of this model.
        """
        self.model = model.eval()
        self.options = options or Options()
        self.device, self.dtype = model.device, model.dtype
        if self.dtype != torch.float32 and not any(parameter.requires_grad for parameter in model.parameters()):
            model.to(memory_format=torch.channels_last)  # faster, but not in float32; in training it stays as it is
        self.predict = torch.compile(model.denoise) if compile else model.denoise
        self.settings = _settings(model, self.options)
        make_scheduler(model.process, self.settings)  # refuses what doesn't fit
        if self.settings.text.scale != 1 and not model.takes_text:
            raise ValueError("this model takes no text, so it can't be guided by one either: leave text guidance at 1")
        if self.settings.degradation.scale != 1 and not model.guided_by_degradation:
            raise ValueError(
                "this model has no null vector for guidance by the degradation to lead away from: leave it at 1, or "
                "train with vector.dropout"
            )
        self.reference = self._mean_vector(self.options.references) if self.options.references else None
        self.vector(torch.zeros(1, 3, LEAST_SIDE, LEAST_SIDE, device=self.device))  # refuses what doesn't fit

    @classmethod
    def from_pretrained(
        cls,
        name: str = "built-in",
        options: Options | None = None,
        device: str = "auto",
        dtype: str = "float32",
        compile: bool = False,
    ) -> Restorer:
        """A restorer with weights: ``built-in``, ``built-in-dit``, a model folder, a checkpoint or a hub id.

        device: ``auto``, ``cpu``, ``cuda`` (also ``cuda:1``) or ``mps``. dtype: ``float32``, ``bfloat16`` or
        ``float16``. Raises ValueError for a name, a device or a dtype that can't be had.
        """
        kind = getattr(torch, one_of("dtype", dtype, DTYPES))
        return cls(load_model(name, pick_device(device), kind), options, compile)

    def __call__(self, image: Picture | Image.Image | str | Path, progress: Progress | None = None) -> Picture:
        """Restore a picture, a Pillow image or a file; the result keeps all else that the file says of it.

        What lies under wholly transparent pixels has no say, and a picture without colour gets none. The output's sides
        are the input's times ``outscale``, rounded to the nearest, or as `Options` say. progress: called with the
        fraction done. Raises ValueError for an input smaller than 8 pixels a side and where a network gives NaN.
        """
        if isinstance(image, (str, Path)):
            image = read(image)
        elif isinstance(image, Image.Image):
            image = from_pil(image)
        size = self.options.output_size(*image.size)
        rgb = self.restore(image.visible, progress)
        if image.colourless:
            rgb = luma(rgb).expand_as(rgb).contiguous()
        alpha = None if image.alpha is None else resize(image.alpha, size)
        density = image.density and image.density.times(size[1] / image.size[1], size[0] / image.size[0])
        return replace(image, rgb=rgb, alpha=alpha, density=density)

    @torch.inference_mode()
    def restore(self, lr: Tensor, progress: Progress | None = None, on_step: OnStep | None = None) -> Tensor:
        """Restore one image (1, 3, H, W) in [0, 1] to (1, 3, round(H·outscale), round(W·outscale)), on the CPU.

        on_step: called at every step with t and x̂0, the clean latent (1, C, h, w) as it is estimated there; of an
        ensemble, for the picture as it is.
        """
        check_size(lr)
        generator = torch.Generator().manual_seed(content_seed(lr, self.options.seed))
        lr = lr.to(self.device, torch.float32)
        counter = _Counter(progress)
        restored = self._restore_view(lr, generator, counter, on_step)
        for view in range(1, self.settings.ensemble):
            restored += _turned_back(self._restore_view(_turned(lr, view), generator, counter), view)
        restored /= self.settings.ensemble
        matched = colour.match(restored, upsample(lr, SCALE), self.settings.colour)
        del restored
        return resize(matched, self.options.output_size(*lr.shape[-2:])).cpu()

    @torch.inference_mode()
    def vector(self, lr: Tensor) -> Tensor | None:
        """What takes the place of the degradation vector of `lr` (1, 3, H, W): (1, D), or None where nothing does.

        Raises ValueError for dials of a model that has none.
        """
        if self.options.dials.neutral:
            return self.reference
        vector = self._own_vector(lr) if self.reference is None else self.reference
        return self.model.turned(vector, self.options.dials.tensor())

    def _own_vector(self, lr: Tensor) -> Tensor:
        vector = self.model.vector(lr.to(self.device, self.dtype))
        if vector is None or not self.model.knows_degradation:
            raise ValueError(
                "this model knows no degradation vector: leave denoise, deblur and dejpeg at 1, and degradation-of out"
            )
        return vector

    @torch.inference_mode()
    def _mean_vector(self, places: list[Path]) -> Tensor:
        """The mean of the vectors (1, D) of pictures, files and folders of them; errors as `read`."""
        vectors = []
        for file in pictures(places):
            rgb = read(file).visible
            try:
                check_size(rgb)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from None
            vectors.append(self._own_vector(rgb))
        return torch.stack(vectors).float().mean(0).to(self.dtype)

    def _restore_view(
        self, lr: Tensor, generator: torch.Generator, counter: _Counter, on_step: OnStep | None = None
    ) -> Tensor:
        """LR (1, 3, H, W) → (1, 3, 4H, 4W) through encoder, sampler and decoder, tile by tile where it is large."""
        factor, settings, process = self.model.factor, self.settings, self.model.process
        padded = pad_to(upsample(lr, SCALE), self.model.size, MARGIN)
        height, width = padded.shape[-2] // factor, padded.shape[-1] // factor
        tiles = self.tiles(height, width)
        counter.total = settings.ensemble * len(tiles) * (settings.asked + 2)

        def blended(function: Callable[[list[Window]], Tensor], scale: int = 1) -> Tensor:
            return merge(self._pieces(function, tiles, counter), height, width, scale)

        z_lr = blended(lambda group: self.model.encode(self._cut(padded, [w.scaled(factor) for w in group])))
        guidance, vector = self.model.guidance(settings), self.vector(lr)
        condition = self.model.condition(lr.to(self.dtype), z_lr.to(self.dtype), guidance=guidance, vector=vector)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return blended(lambda group: self._denoise(x_t, t, condition, group))

        noise = torch.randn(z_lr.shape, generator=generator).to(self.device)
        latent = sample(denoise, process, z_lr, settings, noise, generator, on_step)
        decoded = blended(lambda group: self.model.decode(self._cut(latent, group)), factor)
        return decoded[Window(MARGIN, MARGIN, SCALE * lr.shape[-2], SCALE * lr.shape[-1]).slices]

    def _denoise(self, x_t: Tensor, t: Tensor, condition: Condition, group: list[Window]) -> Tensor:
        """The network's prediction (N, C, h, w) for windows of x_t (1, C, H, W) at time t (1,)."""
        part = join([condition.crop(window) for window in group])
        return self.predict(self._cut(x_t, group), t.expand(len(group)), part)

    def _cut(self, image: Tensor, group: list[Window]) -> Tensor:
        """Windows of one image (1, C, H, W) as a batch (N, C, h, w) in the network's dtype."""
        return torch.cat([image[window.slices] for window in group]).to(self.dtype)

    def _pieces(
        self, function: Callable[[list[Window]], Tensor], tiles: list[Window], counter: _Counter
    ) -> Iterator[tuple[Window, Tensor]]:
        """Each tile with what the function gives for it, computed a batch at a time. Raises ValueError for NaN."""
        remaining = iter(tiles)
        batch = self.options.batch or BATCH.get(self.device.type, 1)
        while group := list(islice(remaining, batch)):
            output = function(group)
            if not torch.isfinite(output).all():
                out = "its weights may be broken" if self.dtype == torch.float32 else "choose `dtype='float32'`"
                raise ValueError(f"the network gave NaN or inf in {str(self.dtype).removeprefix('torch.')}; {out}")
            yield from zip(group, output.split(1), strict=True)
            counter.add(len(group))

    @property
    def noisy(self) -> bool:
        """Whether noise has a part in what comes out, so that another seed gives another picture."""
        return self.settings.noise > 0 or self.settings.eta > 0

    @property
    def tile(self) -> int | None:
        """Side of a tile as the user or else the model says; 0: never, None: where a picture is large."""
        return self.settings.tile if self.options.tile is None else self.options.tile

    def tiles(self, height: int, width: int) -> list[Window]:
        """Windows over a latent (height, width); a single one where nothing needs tiling."""
        factor, tile = self.model.factor, self.tile
        if tile is None:
            tile = TILE if height * width * factor**2 > UNTILED else 0
        limit = self.model.limit
        if limit is not None and (tile > limit or (tile == 0 and factor * max(height, width) > limit)):
            tile = limit
        largest = factor * max(height, width)
        if tile == 0 or largest <= min(tile + 2 * MARGIN, limit or largest):  # its context alone splits no picture
            return [Window(0, 0, height, width)]
        side = self.model.size.fit(tile, tile)[0] // factor
        overlap = min(OVERLAP // factor, side // 5)
        if self.options.overlap is not None:
            overlap = self.options.overlap // factor
            if overlap >= side:
                raise ValueError(
                    f"overlap is {self.options.overlap}; it must be less than a tile, {side * factor} pixels"
                )
        return windows(height, width, side, overlap, self.model.size.multiple // factor)


class _Counter:
    """Calls a progress function with the fraction of the tiles done."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.done, self.total = progress, 0, 1

    def add(self, tiles: int) -> None:
        self.done += tiles
        if self.progress is not None:
            self.progress(min(self.done / self.total, 1.0))


def check_size(image: Tensor) -> None:
    """Raise ValueError for an image (1, 3, H, W) with a side of fewer than 8 pixels."""
    height, width = image.shape[-2:]
    if min(height, width) < LEAST_SIDE:
        raise ValueError(f"the picture is {width}x{height} pixels; each side must be at least {LEAST_SIDE}")


def _turned(image: Tensor, view: int) -> Tensor:
    """One of the eight views of (1, C, H, W): turned by 0, 90, 180 or 270 degrees, each as it is and mirrored."""
    image = image.rot90(view // 2, (-2, -1))
    return image.flip(-1) if view % 2 else image


def _turned_back(image: Tensor, view: int) -> Tensor:
    """Inverse of `_turned`."""
    return (image.flip(-1) if view % 2 else image).rot90(-(view // 2), (-2, -1))


def content_seed(lr: Tensor, seed: int) -> int:
    """A seed from the user's and the image's pixels (1, 3, H, W), so that an image's noise depends on nothing else."""
    pixels = lr.mul(65535).round_().to(torch.int32).cpu().contiguous().numpy()
    digest = hashlib.sha256(f"{seed} {tuple(lr.shape)} ".encode())
    digest.update(pixels)
    return int.from_bytes(digest.digest()[:8], "little") >> 1


def _settings(model: RestorationModel, options: Options) -> Settings:
    """The sampling preset that `options` names, or the model's defaults, with the user's changes."""
    if options.preset is None:
        return model.defaults.chosen(options)
    return model.presets[one_of("preset", options.preset, model.presets)].chosen(options)

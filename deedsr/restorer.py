"""LR photograph → HR photograph: the only place that puts the parts in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from deedsr import colour
from deedsr.devices import pick_device, upload
from deedsr.diffusion.sampler import OnStep, sample
from deedsr.geometry import LEAST_SIDE, SCALE, check_size, enlarged, pad_to, resize, resize_8bit, turned, turned_back
from deedsr.models import load_model
from deedsr.models.contract import Condition, RestorationModel, Text
from deedsr.models.frozen.latents import unsigned
from deedsr.nested import join
from deedsr.options import DTYPES, Options, one_of
from deedsr.pictures.found import pictures
from deedsr.pictures.picture import Picture, from_pil, luma, read
from deedsr.randomness import content_seed
from deedsr.tiling import SIGMAS, Window, merge, windows

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

    def __init__(
        self,
        model: RestorationModel,
        options: Options | None = None,
        compile: bool = False,
        device: torch.device | None = None,
    ) -> None:
        """compile: the network, which takes minutes at the first picture, and again for tiles of another size.

        device: to move the model to, once the encoders of texts are gone from there; its own where None. Raises
        ValueError for options that are not of this model.
        """
        self.model = model.eval()
        self.options = options or Options()
        self.device, self.dtype = device or model.device, model.dtype
        self.settings = model.settings(self.options)
        self.texts = model.texts(self.options, self.settings, self.device)
        self.note = model.untold(self.options, self.settings)
        model.to(self.device)
        if self.dtype != torch.float32 and not any(parameter.requires_grad for parameter in model.parameters()):
            model.to(memory_format=torch.channels_last)  # faster, but not in float32; in training it stays as it is
        self.predict = torch.compile(model.denoise) if compile else model.denoise
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
        runtime: str = "torch",
    ) -> Restorer:
        """A restorer with weights: ``built-in``, ``built-in-dit``, a model folder, a checkpoint or a hub id.

        device, dtype, runtime: of those in `deedsr.options`, also ``cuda:1``. Raises ValueError for what can't be had.
        """
        kind = getattr(torch, one_of("dtype", dtype, DTYPES))
        return cls(load_model(name, dtype=kind, runtime=runtime), options, compile, pick_device(device))

    def __call__(
        self,
        image: Picture | Image.Image | str | Path,
        progress: Progress | None = None,
        name: str | Path | None = None,
    ) -> Picture:
        """Restore a picture, a Pillow image or a file; the result keeps all else that the file says of it.

        What lies under wholly transparent pixels has no say, and a picture without colour gets none. The output's sides
        are the input's times ``outscale``, rounded to the nearest, or as `Options` say. progress: called with the
        fraction done. name: by which the picture's text is found; a file's own where None. Raises ValueError for an
        input smaller than 8 pixels a side, for one that has no text where others have, and where a network gives NaN.
        """
        if isinstance(image, (str, Path)):
            name, image = name or image, read(image)
        elif isinstance(image, Image.Image):
            image = from_pil(image)
        size = self.options.output_size(*image.size)
        rgb = self.restore(image.visible, progress, name=name)
        if image.colourless:
            rgb = luma(rgb).expand_as(rgb).contiguous()
        alpha = None if image.alpha is None else resize(image.alpha, size)
        density = image.density and image.density.times(size[1] / image.size[1], size[0] / image.size[0])
        return replace(image, rgb=rgb, alpha=alpha, density=density)

    @torch.inference_mode()
    def restore(
        self,
        lr: Tensor,
        progress: Progress | None = None,
        on_step: OnStep | None = None,
        name: str | Path | None = None,
    ) -> Tensor:
        """Restore one image (1, 3, H, W) in [0, 1] to (1, 3, round(H·outscale), round(W·outscale)), on the CPU.

        on_step: called at every step with t and x̂0, the clean latent (1, C, h, w) as it is estimated there; of an
        ensemble, for the picture as it is. name: of the picture, by which its text is found.
        """
        check_size(lr)
        generator = torch.Generator().manual_seed(content_seed(lr, self.options.seed))
        lr = upload(lr, self.device).float()
        run = _Run(generator, progress, *((None, None) if self.texts is None else self.texts(name)))
        restored = self._restore_view(lr, run, on_step)
        for view in range(1, self.settings.ensemble):
            restored += turned_back(self._restore_view(turned(lr, view), run), view)
        restored /= self.settings.ensemble
        return resize(self._finished(restored, lr), self.options.output_size(*lr.shape[-2:])).cpu()

    def _finished(self, restored: Tensor, lr: Tensor) -> Tensor:
        """What the network made of LR (1, 3, H, W), with its colours, rounded, (1, 3, 4H, 4W)."""
        settings, reference = self.settings, enlarged(lr, self.settings.lr).clamp_(0, 1)
        if settings.lr == "dit4sr":
            restored = resize_8bit(restored, restored.shape[-2:])
        matched = colour.match(restored, reference, settings.colour)
        if settings.rounding == "down":
            matched = (255 * matched).floor() / 255
        if settings.lr == "dit4sr":
            matched = resize_8bit(matched, [SCALE * side for side in lr.shape[-2:]])
        return matched

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

    def _restore_view(self, lr: Tensor, run: _Run, on_step: OnStep | None = None) -> Tensor:
        """LR (1, 3, H, W) → as large as `enlarged` makes it, through the network, tile by tile where it is large."""
        factor, settings = self.model.factor, self.settings
        large = enlarged(lr, settings.lr)
        image = pad_to(large, self.model.size, self.margin, more=settings.lr == "deedsr")
        height, width = image.shape[-2] // factor, image.shape[-1] // factor
        tiles = self.tiles(height, width)
        coded = 1 if settings.tiles == "dit4sr" else len(tiles)
        run.total = settings.ensemble * (len(tiles) * settings.asked + 2 * coded)
        if settings.tiles == "deedsr":
            pieces = ((tile, self._alone(image, lr, tile, run)) for tile in tiles)
            decoded = merge(pieces, height, width, factor, SIGMAS["deedsr"]).clamp_(0, 1)
        else:
            decoded = self._sampled(image, lr, tiles, run, on_step)
        return decoded[Window(self.margin, self.margin, large.shape[-2], large.shape[-1]).slices]

    def _alone(self, image: Tensor, lr: Tensor, tile: Window, run: _Run) -> Tensor:
        """One tile of an enlarged image, sampled by itself, and coloured by itself if it is not the whole."""
        part = image[tile.scaled(self.model.factor).slices]
        restored = self._sampled(part, lr, [Window(0, 0, tile.height, tile.width)], run)
        return restored if part.shape == image.shape else colour.adain(restored, part)

    def _sampled(
        self, image: Tensor, lr: Tensor, tiles: list[Window], run: _Run, on_step: OnStep | None = None
    ) -> Tensor:
        """An enlarged image (1, 3, H, W) through encoder, sampler and decoder, in `tiles` of its latent."""
        factor, settings, process = self.model.factor, self.settings, self.model.process
        height, width = image.shape[-2] // factor, image.shape[-1] // factor
        coded = [Window(0, 0, height, width)] if settings.tiles == "dit4sr" else tiles

        def blended(function: Callable[[list[Window]], Tensor], tiles: list[Window], scale: int = 1) -> Tensor:
            return merge(self._pieces(function, tiles, run), height, width, scale, SIGMAS[settings.tiles])

        seen = unsigned(image) if settings.lr == "deedsr" else image
        drawn = run.generator if settings.posterior == "sample" else None
        z_lr = blended(
            lambda group: self.model.encode(self._cut(seen, [w.scaled(factor) for w in group]), drawn), coded
        )
        known = lr.to(self.dtype), z_lr.to(self.dtype), run.text
        condition = self.model.condition(*known, self.model.guidance(settings), self.vector(lr), run.negative)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return blended(lambda group: self._denoise(x_t, t, condition, group), tiles)

        noise = upload(torch.randn(z_lr.shape, generator=run.generator), self.device)
        latent = sample(denoise, process, z_lr, settings, noise, run.generator, on_step)
        return blended(lambda group: self.model.decode(self._cut(latent, group)), coded, factor)

    def _denoise(self, x_t: Tensor, t: Tensor, condition: Condition, group: list[Window]) -> Tensor:
        """The network's prediction (N, C, h, w) for windows of x_t (1, C, H, W) at time t (1,)."""
        part = join([condition.crop(window) for window in group])
        return self.predict(self._cut(x_t, group), t.expand(len(group)), part)

    def _cut(self, image: Tensor, group: list[Window]) -> Tensor:
        """Windows of one image (1, C, H, W) as a batch (N, C, h, w) in the network's dtype."""
        return torch.cat([image[window.slices] for window in group]).to(self.dtype)

    def _pieces(
        self, function: Callable[[list[Window]], Tensor], tiles: list[Window], run: _Run
    ) -> Iterator[tuple[Window, Tensor]]:
        """Each tile with what the function gives for it, computed a batch at a time. Raises ValueError for NaN."""
        remaining = iter(tiles)
        most = self.options.batch or BATCH.get(self.device.type, 1)
        batch = -(-len(tiles) // -(-len(tiles) // most))  # alike, so that none is nearly empty
        while group := list(islice(remaining, batch)):
            output = function(group)
            if not torch.isfinite(output).all():
                out = "its weights may be broken" if self.dtype == torch.float32 else "choose `dtype='float32'`"
                raise ValueError(f"the network gave NaN or inf in {str(self.dtype).removeprefix('torch.')}; {out}")
            yield from zip(group, output.split(1), strict=True)
            run.add(len(group))

    @property
    def tile(self) -> int | None:
        """Side of a tile as the user or else the model says; 0: never, None: where a picture is large."""
        return self.settings.tile if self.options.tile is None else self.options.tile

    @property
    def margin(self) -> int:
        """HR pixels of mirrored context on all sides."""
        return MARGIN if self.settings.margin is None else self.settings.margin

    def tiles(self, height: int, width: int) -> list[Window]:
        """Windows over a latent (height, width); a single one where nothing needs tiling."""
        factor, tile, settings = self.model.factor, self.tile, self.settings
        if tile is None or (settings.untiled is not None and self.options.tile is None):
            most = UNTILED if settings.untiled is None else settings.untiled**2
            tile = (tile or TILE) if height * width * factor**2 > most else 0
        limit = self.model.limit
        if limit is not None and (tile > limit or (tile == 0 and factor * max(height, width) > limit)):
            tile = limit
        largest = factor * max(height, width)
        if tile == 0 or largest <= min(tile + 2 * self.margin, limit or largest):  # its context alone splits no picture
            return [Window(0, 0, height, width)]
        side = self.model.size.fit(tile, tile)[0] // factor
        side = min(side, height, width) if settings.tiles == "dit4sr" else side
        strided, overlap = settings.tiles != "even", self._overlap(side)
        return windows(height, width, side, overlap, self.model.size.multiple // factor, strided)

    def _overlap(self, side: int) -> int:
        """Of tiles with a `side`, both in latent pixels. Raises ValueError for one that leaves nothing of a tile."""
        factor, asked, usual = self.model.factor, self.options.overlap, self.settings.overlap
        if asked is None:
            return min(OVERLAP // factor, side // 5) if usual is None else min(usual // factor, side // 2)
        if asked // factor >= side:
            raise ValueError(f"overlap is {asked}; it must be less than a tile, {side * factor} pixels")
        return asked // factor


@dataclass
class _Run:
    """Of one picture: where its noise comes from, its texts, and who is told the fraction of the tiles done."""

    generator: torch.Generator
    progress: Progress | None
    text: Text | None
    negative: Text | None
    done: int = 0
    total: int = 1

    def add(self, tiles: int) -> None:
        self.done += tiles
        if self.progress is not None:
            self.progress(min(self.done / self.total, 1.0))

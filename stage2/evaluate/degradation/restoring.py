"""A model that restores with the degradation vectors it is handed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deedsr import colour
from deedsr.coherence import coherent
from deedsr.diffusion.sampler import Settings, sample
from deedsr.geometry import SCALE, pad_to, upsample
from deedsr.models import RestorationModel
from deedsr.options import Options
from deedsr.randomness import content_seed
from deedsr.restorer import Restorer
from deedsr.tiling import Window, merge


class Arm:
    """One of the models that are compared.

    Raises ValueError for options that are not of this model, for an ensemble, and for options that choose a vector.
    """

    def __init__(self, name: str, model: RestorationModel, options: Options) -> None:
        if not options.dials.neutral or options.references:
            raise ValueError(
                "vectors are what is compared: leave denoise, deblur, dejpeg and degradation_of of options"
            )
        self.name, self.model, self.options = name, model, options
        self.restorer = Restorer(model, options)
        self.settings = self.restorer.settings
        if self.settings.ensemble != 1:
            raise ValueError(f"options.ensemble={self.settings.ensemble}: single views are compared, choose 1")
        if any(getattr(self.settings, part) != getattr(Settings(), part) for part in ("lr", "posterior", "tiles")):
            raise ValueError(
                f"options.preset={options.preset}: pictures are prepared and tiled in our way, leave it out"
            )

    def vector(self, lr: Tensor) -> Tensor | None:
        """The degradation vector (B, D) of LR pictures (B, 3, h, w), on the CPU; None of a model that knows none."""
        with torch.no_grad():
            vector = self.model.vector(lr.to(self.restorer.device, self.restorer.dtype))
        return None if vector is None else vector.float().cpu()

    def restore(self, lr: Tensor, vectors: Tensor | None, tiled: bool = False) -> Tensor:
        """LR (1, 3, h, w) with each of V vectors (V, D) → (V, 3, 4h, 4w) on the CPU; V = 1 where `vectors` is None.

        tiled: as `Restorer` does it, with its tiles, its colours and its edges; else in one piece and as it comes out.
        The noise is the same for all vectors. Has a gradient in `vectors`.
        """
        model, settings, first = self.model, self.settings, next(self.model.parameters())
        lr = lr.to(first.device, torch.float32)
        count = 1 if vectors is None else len(vectors)
        margin = self.restorer.layout.margin if tiled else 0
        padded = pad_to(upsample(lr, SCALE), model.size, margin)
        height, width = padded.shape[-2] // model.factor, padded.shape[-1] // model.factor
        tiles = self.restorer.layout.tiles(height, width) if tiled else [Window(0, 0, height, width)]

        def blended(function: Callable[[Window], Tensor], scale: int = 1) -> Tensor:
            if len(tiles) == 1:
                return function(tiles[0]).float()
            return merge(((tile, function(tile)) for tile in tiles), height, width, scale)

        z_lr = blended(lambda tile: model.encode(padded[tile.scaled(model.factor).slices].to(first)))
        generator = torch.Generator().manual_seed(content_seed(lr.clone(), self.options.seed))
        noise = torch.randn(z_lr.shape, generator=generator).to(first.device)
        lrs, z_lr, noise = (part.expand(count, *part.shape[1:]) for part in (lr, z_lr, noise))
        vectors = None if vectors is None else vectors.to(first)
        condition = model.condition(lrs.to(first), z_lr.to(first), guidance=model.guidance(settings), vector=vectors)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return blended(lambda tile: model.denoise(x_t[tile.slices].to(first), t, condition.crop(tile)))

        latent = sample(denoise, model.process, z_lr, settings, noise, generator)
        decoded = blended(lambda tile: model.decode(latent[tile.slices].to(first)), model.factor)
        restored = decoded[Window(margin, margin, SCALE * lr.shape[-2], SCALE * lr.shape[-1]).slices]
        if tiled:
            restored = coherent(colour.match(restored, upsample(lrs, SCALE), settings.colour), settings.coherence)
        return restored.cpu()

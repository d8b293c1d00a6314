"""How a picture is cut into tiles: as the user says, or else the model, or else these numbers."""

from __future__ import annotations

from dataclasses import dataclass

from deedsr.diffusion.sampler import Settings
from deedsr.models.contract import RestorationModel
from deedsr.options import Options
from deedsr.tiling import Window, windows

TILE = 512  # side of a tile in HR pixels where the user does not say
OVERLAP = 64  # least of neighbouring tiles in HR pixels, but no more than a fifth of their side
MARGIN = 32  # HR pixels of mirrored context on all sides, without which a network falls off at the borders
UNTILED = (1024 + 2 * MARGIN) ** 2  # HR pixels, context included, that are restored in one piece


@dataclass(frozen=True)
class Layout:
    """Of the tiles of pictures that a model restores."""

    model: RestorationModel
    options: Options
    settings: Settings

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

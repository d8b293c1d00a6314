"""What `python -m stage2.evaluate.pairs` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from deedsr.data.photos import list_photos
from deedsr.degradation import Mixture, Recipe, apply
from deedsr.files import new_folder, write_json
from deedsr.geometry import SCALE
from deedsr.pictures.picture import Picture
from deedsr.training.command import listed, plain
from stage2.evaluate.degradation.pictures import Scenes
from stage2.evaluate.degradation.recipes import Fixed, recipe

KINDS = ("hr", "lr")


def pairs(cfg: DictConfig) -> str:
    """Write the new folder `cfg.output`, whole or not at all; how many pairs are in it, in a sentence.

    Pictures are PNG of 8 bits, named by the photograph's number and stem, the seed and the crop; ``settings.json``
    says what they were made with. Raises ValueError for a folder that holds anything, for settings that leave nothing
    to degrade, and for a photograph that is smaller than `cfg.crop` or can't be read.
    """
    if cfg.crop < SCALE or cfg.crop % SCALE:
        raise ValueError(f"crop={cfg.crop} must be a multiple of {SCALE}: the LR image has a quarter of its side")
    roots = [root if isinstance(root, str) else plain(root) for root in listed(cfg.data.roots)]
    files = list_photos(roots, cfg.data.split)[: cfg.photographs]
    scenes = Scenes(files, cfg.crop, cfg.crops, listed(cfg.seeds))
    digits = len(str(len(files)))
    with new_folder(cfg.output) as part:
        for kind in KINDS:
            (part / kind).mkdir()
        for index, pictures in enumerate(_degraded(scenes, recipe(str(cfg.recipe)))):
            seed, photo, crop = scenes.place(index)
            if scenes.flawed(index):
                side = f"{cfg.crop} x {cfg.crop}"
                raise ValueError(f"{files[photo]}: is smaller than {side}; give a smaller crop, or leave it out")
            name = f"{photo:0{digits}}_{files[photo].stem}_{seed}_{crop}.png"
            for kind, picture in zip(KINDS, pictures, strict=True):
                Picture(picture).save(part / kind / name)
        write_json(part / "settings.json", plain(cfg))
    return f"{Path(cfg.output)}: {len(scenes)} pairs\n"


def _degraded(scenes: Scenes, degradations: Recipe | Mixture | Fixed) -> Iterator[tuple[Tensor, Tensor]]:
    """Ground truth (1, 3, side, side) and LR image of each piece, in [0, 1]."""
    for index in range(len(scenes)):
        hr = scenes.hr(index)
        yield hr, apply(hr, scenes.drawn(index, degradations))

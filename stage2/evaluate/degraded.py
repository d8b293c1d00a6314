"""What `python -m stage2.evaluate.pairs` does."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from deedsr.data.photos import list_photos
from deedsr.degradation import apply
from deedsr.files import new_folder, write_json
from deedsr.geometry import SCALE
from deedsr.pictures.picture import Picture
from deedsr.training.command import listed, plain
from stage2.evaluate.degradation.pictures import Scenes
from stage2.evaluate.degradation.recipes import recipe


def pairs(cfg: DictConfig) -> str:
    """Write the new folder `cfg.output`, whole or not at all; how many pairs are in it, in a sentence.

    Pictures are PNG of 8 bits, named by the photograph's number and stem, the seed and the crop; ``settings.json``
    says what they were made with. Raises ValueError for a folder that holds anything, for settings that leave nothing
    to degrade, and for a photograph that is smaller than `cfg.crop` or can't be read.
    """
    if cfg.crop < SCALE or cfg.crop % SCALE:
        raise ValueError(f"crop={cfg.crop} must be a multiple of {SCALE}: the LR image has a quarter of its side")
    degradations = recipe(str(cfg.recipe))
    files = list_photos(cfg.data.roots, cfg.data.split)[: cfg.photographs]
    scenes = Scenes(files, cfg.crop, cfg.crops, listed(cfg.seeds))
    digits = len(str(len(files)))
    with new_folder(cfg.output) as part:
        for kind in ("hr", "lr"):
            (part / kind).mkdir()
        for index in range(len(scenes)):
            seed, photo, crop = scenes.place(index)
            hr = scenes.hr(index)
            name = f"{photo:0{digits}}_{files[photo].stem}_{seed}_{crop}.png"
            Picture(hr).save(part / "hr" / name)
            Picture(apply(hr, scenes.drawn(index, degradations))).save(part / "lr" / name)
        write_json(part / "settings.json", plain(cfg))
    return f"{Path(cfg.output)}: {len(scenes)} pairs\n"

"""Sheets for a blind study: people see outputs side by side under letters, and a key apart says whose they are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from deedsr.data.pairs import match, pictures
from deedsr.files import new_folder, write_json, write_text
from deedsr.metrics.evaluation import track
from deedsr.metrics.sheet import detailed
from deedsr.pictures.decoding import to_srgb
from deedsr.pictures.picture import Picture, from_pil, read, write
from deedsr.randomness import seeded

T = TypeVar("T")

VOTES = "votes.csv"
INPUT, TRUTH, TIE = "input", "ground truth", "tie"
_MOST_METHODS, _MOST_ZOOM = 8, 16
_LONGEST = 2000  # pixels of a sheet's longer side: what fits a screen, and what readers of pictures take unshrunk
_PLACES = 2
_LEAST = 384  # pixels of a panel's side, where the pictures are smaller
_GAP, _TEXT, _LETTER = 12, 20, 32
_BACKGROUND, _INK, _FRAME = (24, 24, 24), (230, 230, 230), (255, 196, 0)


@dataclass(frozen=True)
class Sheet:
    """What a sheet shows. picture: the stem. letters: the method behind each letter."""

    picture: str
    letters: dict[str, str]


@dataclass(frozen=True)
class Key:
    """Whose pictures are on the sheets of a study. methods: the folder of each. sheets: by the name of their file."""

    seed: int
    methods: dict[str, str]
    sheets: dict[str, Sheet]

    @classmethod
    def read(cls, path: Path) -> Key:
        """The key in a file. Raises ValueError, which names it, for anything else."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**found, "sheets": {name: Sheet(**sheet) for name, sheet in found["sheets"].items()}})
        except (TypeError, KeyError, AttributeError, ValueError):
            raise ValueError(f"{path}: is no key of blind sheets; name the .key.json beside their folder") from None


def make(
    methods: Mapping[str, Path],
    output: Path,
    input: Path | None = None,
    hr: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    zoom: int = 4,
    progress: bool = False,
) -> Path:
    """Write the folder `output` with sheets and a table for votes, and beside it the key, whose path is returned.

    A sheet shows the picture of `input`, enlarged, those of the methods' folders in a drawn order under letters, and
    that of `hr`: whole, and below it enlarged `zoom` times where they have most structure. count: so many pictures,
    drawn; by default all. Nothing on a sheet or in its file says whose picture is whose. Raises ValueError for folders
    that don't match, pictures of different sizes, an `output` or a key that is there already, and numbers out of range.
    """
    _check(methods, seed, zoom)
    folders = {name: folder for name, folder in ((INPUT, input), (TRUTH, hr)) if folder is not None} | {**methods}
    files = match({name: pictures(folder) for name, folder in folders.items()})
    if count is not None and not 1 <= count <= len(files):
        raise ValueError(f"count is {count}; choose 1 to {len(files)}, the number of pictures")
    place = Path(os.path.abspath(output))
    key_path = place.with_name(f"{place.name}.key.json")
    if key_path.exists():
        raise ValueError(f"{key_path}: exists already, the key of other sheets; choose another folder with `output`")
    key = _named(seed, methods, arrange(list(files), list(methods), count, seed))
    with new_folder(place) as folder:
        for name, sheet in track(key.sheets.items(), len(key.sheets), progress, "drawing"):
            write(folder / f"{name}.png", from_pil(_draw(name, sheet, _shown(files[sheet.picture]), zoom)))
        write_text(folder / VOTES, "\n".join(["sheet,choice", *(f"{name}," for name in key.sheets)]) + "\n")
        write_json(key_path, asdict(key))
    return key_path


def _check(methods: Mapping[str, Path], seed: int, zoom: int) -> None:
    """Raises ValueError for what no sheet can show."""
    if not 2 <= len(methods) <= _MOST_METHODS:
        raise ValueError(f"a blind sheet shows 2 to {_MOST_METHODS} folders of outputs, not {len(methods)}")
    if taken := {"", INPUT, TRUTH, TIE} & set(methods):
        raise ValueError(f"outputs can't be called {min(taken)!r} on blind sheets; name them otherwise, NAME=FOLDER")
    if not 1 <= zoom <= _MOST_ZOOM:
        raise ValueError(f"zoom is {zoom}; choose 1 to {_MOST_ZOOM}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; choose a whole number from 0 on")


def arrange(stems: Sequence[str], methods: Sequence[str], count: int | None = None, seed: int = 0) -> list[Sheet]:
    """Sheets of `count` drawn pictures in a drawn order; each method has each letter equally often, or once more."""
    generator = seeded(seed)
    chosen = _shuffled(stems, generator)[:count]
    orders: list[list[str]] = []
    while len(orders) < len(chosen):
        order = _shuffled(methods, generator)
        orders += [order[turn:] + order[:turn] for turn in range(len(order))]
    drawn = _shuffled(orders[: len(chosen)], generator)
    return [Sheet(stem, dict(zip("ABCDEFGH", order, strict=False))) for stem, order in zip(chosen, drawn, strict=True)]


def _shuffled(items: Sequence[T], generator: torch.Generator) -> list[T]:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]


def _named(seed: int, methods: Mapping[str, Path], sheets: Sequence[Sheet]) -> Key:
    """The key. Its sheets' names differ from another study's, so that votes are never counted with its key."""
    plain = {name: str(folder) for name, folder in methods.items()}
    content = json.dumps([seed, plain, [asdict(sheet) for sheet in sheets]])
    code = hashlib.sha256(content.encode()).hexdigest()[:4]
    return Key(seed, plain, {f"sheet-{code}-{number:03}": sheet for number, sheet in enumerate(sheets, 1)})


def _shown(files: Mapping[str, Path]) -> dict[str, Image.Image]:
    """The pictures of a stem as a screen shows them, by role; the input enlarged to the others' size."""
    images = {role: _image(path) for role, path in files.items()}
    first = next(role for role in files if role not in (INPUT, TRUTH))
    width, height = images[first].size
    for role, image in images.items():
        fits = image.size == (width, height)
        if role == INPUT:  # sides of outputs may be rounded
            wide, high = image.size
            fits = wide <= width and high <= height and 2 * abs(wide * height - high * width) <= wide + high
        if not fits:
            sizes = f"{image.width}×{image.height}, and {files[first]} {width}×{height}"
            raise ValueError(f"{files[role]}: is {sizes}; a sheet needs pictures that lie on one another")
    if INPUT in images:
        images[INPUT] = images[INPUT].resize((width, height), Image.Resampling.BICUBIC)
    return images


def _image(path: Path) -> Image.Image:
    """A picture as RGB in sRGB. Raises ValueError for one that a sheet can't show as it is."""
    picture = read(path)
    if picture.notes:
        raise ValueError(f"{path}: {picture.notes[0]}: a sheet shows single pictures; convert it first")
    if picture.transparent:
        raise ValueError(f"{path}: is transparent, and a sheet has a background of its own; lay it on one first")
    image = Picture(picture.rgb).to_pil()
    return (to_srgb(image, picture.icc) if picture.icc else None) or image


def _draw(name: str, sheet: Sheet, images: Mapping[str, Image.Image], zoom: int) -> Image.Image:
    """The sheet: a column for each picture, whole and then its crops; these are framed in the input and the truth."""
    candidates = {letter: images[method] for letter, method in sheet.letters.items()}
    columns = {INPUT: images.get(INPUT), **candidates, TRUTH: images.get(TRUTH)}
    panels = {label: image for label, image in columns.items() if image is not None}
    width, height = next(iter(candidates.values())).size
    top = 2 * _GAP + _TEXT + _LETTER + _GAP
    room = min((_LONGEST - _GAP) // len(panels), (_LONGEST - top) // (1 + _PLACES)) - _GAP
    panel = min(room, max(width, height, _LEAST))
    mean = np.mean([np.asarray(image, np.float32) for image in candidates.values()], axis=0)
    crops = detailed(torch.from_numpy(mean).permute(2, 0, 1)[None], max(1, panel // zoom), _PLACES)
    scale = panel / max(width, height) if panel < max(width, height) else panel // max(width, height)
    whole = max(1, round(width * scale)), max(1, round(height * scale))
    size = _GAP + len(panels) * (panel + _GAP), top + whole[1] + len(crops) * (crops[0][2] * zoom + _GAP) + _GAP
    canvas = Image.new("RGB", size, _BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    question = f"{name}   Which do you prefer? {', '.join(sheet.letters)} or {TIE}"
    pen.text((_GAP, _GAP), question, _INK, ImageFont.load_default(_TEXT))
    for i, (label, image) in enumerate(panels.items()):
        left = _GAP + i * (panel + _GAP)
        pen.text((left, top - _LETTER - _GAP), label, _INK, ImageFont.load_default(_LETTER - 4))
        method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
        canvas.paste(image.resize(whole, method), (left, top))
        for number, (y, x, side) in enumerate(crops):
            if label not in candidates:
                corners = [round(value * scale) for value in (x, y, x + side, y + side)]
                box = (left + corners[0], top + corners[1], left + corners[2] - 1, top + corners[3] - 1)
                pen.rectangle(box, outline=_FRAME, width=2)
            crop = image.crop((x, y, x + side, y + side)).resize((side * zoom, side * zoom), Image.Resampling.NEAREST)
            canvas.paste(crop, (left, top + whole[1] + _GAP + number * (side * zoom + _GAP)))
    return canvas

"""Pictures of what few photographs show: letters, bars, rings, bricks and shapes, on parts of photographs.

    python -m deedsr.data.graphics PHOTOS OUT --count 140 --fonts FONTS

A model that never saw letters and railings leaves their edges soft. Give OUT beside the photographs:
``data.roots=[PHOTOS,OUT]``.
"""

from __future__ import annotations

import math
import random
import string
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from deedsr.data.members import Photo
from deedsr.data.photos import Corrupt, decode, list_photos
from deedsr.files import new_folder

SIDE = 800
"""Of the pictures, pixels. They are drawn at twice that and made smaller."""
FACES = ("DejaVu*.ttf", "STIXGeneral*.ttf", "cmr10.ttf", "cmss10.ttf", "cmtt10.ttf")
"""Of the fonts that come with matplotlib."""

LATIN = string.ascii_lowercase, string.ascii_letters, string.ascii_uppercase + string.digits

Colour = tuple[int, int, int]
Drawing = Callable[[random.Random, ImageDraw.ImageDraw, tuple[int, int], Colour], None]


@dataclass(frozen=True)
class Face:
    """A font's file, and the alphabets to write in it."""

    path: str
    alphabets: tuple[str, ...] = LATIN


def faces(folder: str | Path | None = None) -> tuple[Face, ...]:
    """Of matplotlib, and those in `folder` (TrueType and OpenType, folders in it too), which write their own letters.

    Raises ValueError if the folder has none, or one of them can't be read.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError("letters are drawn with matplotlib's fonts: run `pip install -e '.[train]'`") from None
    shipped = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    known = tuple(Face(path) for path in sorted(str(path) for pattern in FACES for path in shipped.glob(pattern)))
    if folder is None:
        return known
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".ttf", ".ttc", ".otf"))
    if not paths:
        raise ValueError(f"{folder}: no .ttf, .ttc or .otf in it")
    return known + tuple(_face(path) for path in paths)


def _face(path: Path) -> Face:
    from matplotlib.ft2font import FT2Font

    try:
        own = "".join(filter(str.isalpha, map(chr, sorted(FT2Font(str(path)).get_charmap()))))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: not a font that can be read ({error}); remove it") from error
    if not own:
        raise ValueError(f"{path}: a font without letters; remove it")
    latin = LATIN if set(string.ascii_letters) <= set(own) else ()
    return Face(str(path), (*latin, *(own,) * 3))


def picture(photos: Sequence[Photo], seed: int, number: int, fonts: Sequence[Face]) -> Image.Image:
    """RGB, `SIDE` pixels wide and high; a pure function of the arguments and of the files' contents."""
    rng, side = random.Random(f"{seed} {number}"), 2 * SIDE
    ground = _ground(rng, photos, side)
    for _ in range(rng.randint(8, 14)):
        size = rng.randint(side // 5, side // 2), rng.randint(side // 6, side // 2)
        panel = _panel(rng, size, fonts).rotate(rng.gauss(0, 12), Image.Resampling.BICUBIC, expand=True)
        ground.paste(panel, tuple(rng.randrange(-length // 2, side - length // 2) for length in panel.size), panel)
    return ground.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _ground(rng: random.Random, photos: Sequence[Photo], side: int) -> Image.Image:
    photo = rng.choice(photos)
    try:
        ground = decode(photo.read_bytes())
    except Corrupt as error:
        raise ValueError(f"{photo}: corrupt ({error}); remove it") from error
    scale = side / min(ground.size) * rng.uniform(1, 1.5)
    ground = ground.resize([math.ceil(length * scale) for length in ground.size], Image.Resampling.BICUBIC)
    left, top = (rng.randrange(length - side + 1) for length in ground.size)
    return ground.crop((left, top, left + side, top + side))


def _panel(rng: random.Random, size: tuple[int, int], fonts: Sequence[Face]) -> Image.Image:
    """One kind of thing, RGBA: on a plain ground that may be darker at one side, or on none; some with a grain."""
    ink, paper = _colours(rng)
    panel = Image.new("RGBA", size, (*paper, rng.choice((255, 255, 0))))
    drawings: tuple[Drawing, ...] = (*(partial(_letters, fonts),) * 3, *KINDS)
    rng.choice(drawings)(rng, ImageDraw.Draw(panel), size, ink)
    shade = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize(size)
    shaded = Image.composite(panel, Image.blend(panel, Image.new("RGBA", size), rng.uniform(0, 0.4)), shade)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(128, rng.uniform(1, 24), size[::-1])
    grain = Image.fromarray(noise.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2)))
    grained = Image.blend(shaded.convert("RGB"), Image.merge("RGB", [grain] * 3), rng.uniform(0, 0.25))
    grained.putalpha(panel.getchannel("A"))
    return grained


def _colour(rng: random.Random) -> Colour:
    if rng.random() < 0.5:
        return rng.randrange(256), rng.randrange(256), rng.randrange(256)
    return (rng.choice((20, 60, 200, 245)),) * 3


def _colours(rng: random.Random) -> tuple[Colour, Colour]:
    """Of ink and paper; often near black and white, and never too near each other."""
    while True:
        ink, paper = _colour(rng), _colour(rng)
        if abs(sum(ink) - sum(paper)) > 120:
            return ink, paper


def _letters(
    fonts: Sequence[Face], rng: random.Random, draw: ImageDraw.ImageDraw, size: tuple[int, int], ink: Colour
) -> None:
    height = round(math.exp(rng.uniform(math.log(14), math.log(140))))
    face = rng.choice(fonts)
    font, alphabet = ImageFont.truetype(face.path, height), rng.choice(face.alphabets)
    for top in range(height // 3, size[1] - height, round(height * rng.uniform(1.1, 1.6))):
        words = ["".join(rng.choices(alphabet, k=rng.randint(1, 10))) for _ in range(1 + 2 * size[0] // height // 5)]
        draw.text((height // 3, top), " ".join(words), ink, font)


def _bars(rng: random.Random, draw: ImageDraw.ImageDraw, size: tuple[int, int], ink: Colour) -> None:
    step = rng.uniform(8, 60)
    width, slant = max(2, round(step * rng.uniform(0.2, 0.7))), rng.choice((0, 0, rng.uniform(-1, 1)))
    for number in range(round(2 * size[0] / step) + 1):
        x = number * step - size[0] / 2
        draw.line((x, 0, x + slant * size[1], size[1]), ink, width)
    for _ in range(rng.choice((0, 0, 1, 3))):
        y = rng.randrange(size[1])
        draw.line((0, y, size[0], y), ink, 2 * width)


def _rings(rng: random.Random, draw: ImageDraw.ImageDraw, size: tuple[int, int], ink: Colour) -> None:
    x, y, step = rng.randrange(size[0]), rng.randrange(size[1]), rng.uniform(10, 50)
    width = max(2, round(step * rng.uniform(0.2, 0.6)))
    for number in range(1, round(max(size) / step)):
        radius = number * step
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink, width=width)
    for turn in range(rng.choice((0, 12, 36))):
        end = x + max(size) * math.cos(turn * 0.524), y + max(size) * math.sin(turn * 0.524)
        draw.line((x, y, *end), ink, width)


def _bricks(rng: random.Random, draw: ImageDraw.ImageDraw, size: tuple[int, int], ink: Colour) -> None:
    width, height, gap = rng.randint(30, 160), rng.randint(16, 80), rng.randint(2, 10)
    for row in range(size[1] // height + 1):
        for column in range(-1, size[0] // width + 1):
            left, top = column * width + (row % 2) * width // 2, row * height
            shade = tuple(min(255, max(0, part + rng.randint(-20, 20))) for part in ink)
            draw.rectangle((left, top, left + width - gap, top + height - gap), shade)


def _shapes(rng: random.Random, draw: ImageDraw.ImageDraw, size: tuple[int, int], ink: Colour) -> None:
    for _ in range(rng.randint(3, 20)):
        left, top = rng.randrange(size[0]), rng.randrange(size[1])
        box = left, top, left + rng.randint(10, 200), top + rng.randint(10, 200)
        colour = rng.choice((ink, _colours(rng)[0]))
        line = {"outline": colour, "width": rng.randint(2, 14)}
        how = rng.choice(({"fill": colour}, line))
        if rng.random() < 0.3:
            corners = [(rng.uniform(box[0], box[2]), rng.uniform(box[1], box[3])) for _ in range(rng.randint(3, 6))]
            draw.polygon(corners, **how)
        else:
            rng.choice((draw.ellipse, draw.rectangle))(box, **how)


KINDS: tuple[Drawing, ...] = (_bars, _rings, _bricks, _shapes)


def make(
    photos: Sequence[Photo], folder: str | Path, count: int, seed: int = 0, fonts: str | Path | None = None
) -> None:
    """Write `count` pictures to ``folder/0000.jpg`` and so on; the folder appears when all of them are written.

    fonts: a folder of more fonts than matplotlib's. Raises ValueError if `folder` isn't empty, a photograph can't be
    decoded or a font can't be read, and OSError if a file can't be read or written.
    """
    known = faces(fonts)
    with new_folder(folder) as part:
        for number in range(count):
            picture(photos, seed, number, known).save(part / f"{number:04d}.jpg", quality=95, subsampling=0)


def command(
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS", help="Folder of photographs.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    split: Annotated[
        str, typer.Option(help="Split to take where a table PHOTOS.tsv names it, as in training; '' takes all.")
    ] = "train",
    count: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 140,
    seed: Annotated[int, typer.Option(help="Another one draws others.")] = 0,
    fonts: Annotated[Path | None, typer.Option(help="Folder of more fonts; their own letters are drawn too.")] = None,
) -> None:
    """Draw letters, bars, rings, bricks and shapes on parts of photographs."""
    try:
        make(list_photos(photos, split or None), out, count, seed, fonts)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    typer.echo(f"{out}: {count} pictures")


if __name__ == "__main__":
    typer.run(command)

"""Contact sheets: pictures side by side, whole and as a zoomed crop, for eyes instead of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from deedsr.metrics.evaluation import BICUBIC, RESTORED, Report
from deedsr.metrics.outputs import Sample, bicubic
from deedsr.pictures.picture import Picture

_TILE = 384  # pixels of a panel's side
_CROP = 128  # pixels of a picture's side in a zoomed crop
_GAP = 12
_TEXT = 20
_BACKGROUND, _INK, _FRAME = (24, 24, 24), (230, 230, 230), (255, 196, 0)


@dataclass(frozen=True)
class Strip:
    """One line of a sheet: a title, and labelled pictures (1, 3, H, W) in [0, 1] of one size."""

    title: str
    panels: Sequence[tuple[str, Tensor]]


def draw(strips: Sequence[Strip]) -> Image.Image:
    """A sheet: for each strip its title, its last picture whole with the crop marked, and every picture's crop.

    The crop is the 128² square with the most detail in the last picture (the ground truth, by habit), zoomed three
    times without interpolation, the same in all pictures of a strip.
    """
    if not strips:
        raise ValueError("there are no pictures to draw")
    columns = 1 + max(len(strip.panels) for strip in strips)
    height = _TILE + 2 * _TEXT + 3 * _GAP
    sheet = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, len(strips) * height + _GAP), _BACKGROUND)
    for i, strip in enumerate(strips):
        _draw_strip(sheet, strip, i * height + _GAP)
    return sheet


def line(sample: Sample) -> Tensor:
    """LR up-sampled · restored · ground truth, beside each other: (3, H, W) in [0, 1]."""
    return torch.cat([image for _, image in _panels(sample)], dim=-1)[0].cpu()


def extremes(scores: dict[str, float], better: str) -> dict[str, str]:
    """The best, the median and the worst of {stem: score}: {stem: which it is}, at most three."""
    order = sorted(scores, key=lambda stem: (scores[stem], stem), reverse=better == "higher")
    chosen: dict[str, str] = {}
    for name, position in (("best", 0), ("worst", len(order) - 1), ("median", len(order) // 2)):
        chosen.setdefault(order[position], name)
    return {stem: chosen[stem] for stem in order if stem in chosen}


def of_report(report: Report, load: Callable[[str], Sample]) -> Image.Image:
    """LR up-sampled · others · restored · ground truth of the best, median and worst pictures by LPIPS.

    Where LPIPS is not among the report's columns, by the column that stands in for it; the titles name it. `load` gives
    the sample of a stem.
    """
    column = report.deciding
    if column is None:
        raise ValueError("no metric could be computed, so there is no best and no worst picture to show")
    metric, scores = report.metrics[column], report.rows[RESTORED].images
    chosen = extremes({stem: scores[stem][column] for stem in report.stems}, metric.better)
    strips = []
    for stem, which in chosen.items():
        values = ", ".join(f"{report.metrics[name].label} {value:.4g}" for name, value in scores[stem].items())
        labels = {
            name: f"{metric.label} {row.images[stem][column]:.3f}"
            for name, row in report.rows.items()
            if column in row.images.get(stem, {})
        }
        strips.append(Strip(f"{which} by {metric.label}: {stem}   {values}", _panels(load(stem), labels)))
    return draw(strips)


def _panels(sample: Sample, labels: dict[str, str] | None = None) -> list[tuple[str, Tensor]]:
    """A sample's pictures, labelled by what they are and what they scored."""
    labels = labels or {}
    images = {**sample.others, RESTORED: sample.restored}
    panels = [(f"{name}  {labels.get(name, '')}", image.cpu()) for name, image in images.items()]
    if sample.lr is not None:
        large = bicubic(sample.lr, sample.restored.shape[-2:])
        panels.insert(0, (f"LR, bicubic  {labels.get(BICUBIC, '')}", large))
    if sample.hr is not None:
        panels.append(("ground truth", sample.hr.cpu()))
    return panels


def _draw_strip(sheet: Image.Image, strip: Strip, top: int) -> None:
    """Draw one strip with its upper edge at `top`."""
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT - 6)
    limit = sheet.width // 8  # characters that surely fit
    pen.text((_GAP, top), _shortened(strip.title, limit), _INK, font)
    top += _TEXT + _GAP
    whole = strip.panels[-1][1]
    [(y, x, side)] = detailed(whole)
    picture = Picture(whole).to_pil()
    scale = _TILE / max(picture.size)
    picture = picture.resize([max(1, round(length * scale)) for length in picture.size], Image.Resampling.LANCZOS)
    mark = [round(value * scale) for value in (x, y, x + side, y + side)]
    ImageDraw.Draw(picture).rectangle((mark[0], mark[1], mark[2] - 1, mark[3] - 1), outline=_FRAME, width=2)
    sheet.paste(picture, (_GAP, top))
    pen.text((_GAP, top + _TILE + 2), f"{strip.panels[-1][0]}, whole", _INK, font)
    for i, (label, image) in enumerate(strip.panels, 1):
        crop = Picture(image[..., y : y + side, x : x + side]).to_pil()
        left = _GAP + i * (_TILE + _GAP)
        sheet.paste(crop.resize((_TILE, _TILE), Image.Resampling.NEAREST), (left, top))
        pen.text((left, top + _TILE + 2), label, _INK, font)


def detailed(image: Tensor, side: int = _CROP, count: int = 1) -> list[tuple[int, int, int]]:
    """(top, left, side) of the square crops with the most gradient energy of an image (1, 3, H, W), the most first.

    side: in pixels; no more than the image's. They don't overlap, so that there may be fewer than `count`.
    """
    side = min(side, *image.shape[-2:])
    grey = image.mean(1, keepdim=True)
    energy = functional.pad(grey.diff(dim=-1).abs(), (0, 1)) + functional.pad(grey.diff(dim=-2).abs(), (0, 0, 0, 1))
    stride = max(1, side // 8)
    means = functional.avg_pool2d(energy, side, stride)[0, 0]
    near = -(-side // stride)
    found: list[tuple[int, int, int]] = []
    while len(found) < count and bool((means >= 0).any()):
        row, column = divmod(int(means.argmax()), means.shape[1])
        found.append((row * stride, column * stride, side))
        means[max(0, row - near + 1) : row + near, max(0, column - near + 1) : column + near] = -1
    return found


def _shortened(text: str, limit: int) -> str:
    """`text` in at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"

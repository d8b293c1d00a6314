"""What validation measures, while a run trains or by itself: restored pictures, their metrics and their colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from deedsr.data.pair_list import Pair, list_pairs, read_pair
from deedsr.data.pairs import match, pictures
from deedsr.data.photos import Photo, as_tensor, contents, decode
from deedsr.degradation import Mixture, Recipe, apply
from deedsr.geometry import SCALE
from deedsr.metrics import table
from deedsr.metrics.catalogue import select
from deedsr.metrics.evaluation import RESTORED, Evaluator, Report
from deedsr.metrics.outputs import Sample, load
from deedsr.options import Options
from deedsr.pictures.picture import Picture, from_pil
from deedsr.randomness import seeded
from deedsr.restorer import Restorer
from deedsr.training.photographs import chosen
from deedsr.training.run import in_bytes, pixels

Samples = Mapping[str, Sample]
PROTOCOL = "osediff"
COLOURS = ("red", "green", "blue")


@dataclass
class Row:
    """What was measured after a `step`: the mean of each metric, colours beside them, and of the loss since the last.

    red, green, blue: of the restored pictures less the ground truth, in 255ths. contrast: the standard deviation of the
    restored over that of the ground truth. Both are the mean over pictures.
    """

    step: int
    metrics: dict[str, float]
    colours: dict[str, float]
    loss: float | None = None

    def values(self) -> dict[str, float]:
        return {**self.metrics, **self.colours}

    def cells(self, names: Sequence[str]) -> list[str]:
        """For a table: the metrics of these names, and the colours."""
        numbers = [f"{self.metrics[name]:.4f}" if name in self.metrics else "–" for name in names]
        return [*numbers, *(f"{self.colours[name]:+.1f}" for name in COLOURS), f"{self.colours['contrast']:.2f}"]


def heads(names: Sequence[str]) -> list[str]:
    """Of the columns of `Row.cells`."""
    return [*(metric.heading for metric in select(PROTOCOL, names).values()), *COLOURS, "contrast"]


def validate(cfg: DictConfig) -> str:
    """A model measured as runs measure theirs: a table in Markdown, as in the card of the best.

    Raises ValueError for pairs, a model and metrics that can't be had.
    """
    names, numbers = metric_names(cfg), sizes(cfg)
    if not isinstance(cfg.data, str | Mapping if cfg.held_back else str):
        raise ValueError(f"data={cfg.data}: name one folder, without brackets")
    if cfg.held_back:
        samples = of_pairs(chosen(list_pairs(cfg.data, cfg.side or 1).pairs, cfg.held_back), *numbers)
    else:
        samples = of_folder(Path(cfg.data), *numbers)
    evaluator = Evaluator(PROTOCOL, names)
    outputs = restored(Restorer.from_pretrained(cfg.model, Options(), cfg.device, "float32"), samples)
    report = evaluator.run(outputs, len(outputs), extra_rows=False)
    row = Row(0, means(report), colours(outputs))
    lines = [["", *heads(names)], ["---"] * (len(names) + 5), [str(cfg.model), *row.cells(names)]]
    notes = [f"- {why}" for why in evaluator.unavailable.values()]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", f"{len(outputs)} pairs.", *notes]) + "\n"


def metric_names(words: DictConfig) -> list[str]:
    """The ``metrics`` of a configuration, one or a list."""
    return [words.metrics] if isinstance(words.metrics, str) else list(words.metrics)


def sizes(words: DictConfig) -> tuple[int | None, int | None]:
    """``images`` and ``side`` of a configuration. Raises ValueError for those that leave nothing."""
    for name, least in (("images", 1), ("side", SCALE)):
        if words[name] is not None and not (isinstance(words[name], int) and words[name] >= least):
            raise ValueError(f"{name}={words[name]}: give at least {least}, or null for all")
    return words.images, words.side


def restored(restorer: Restorer, samples: Samples) -> list[Sample]:
    """The samples with what `restorer` makes of them."""
    outputs = {stem: restorer(Picture(sample.lr)).rgb for stem, sample in samples.items()}
    return [Sample(stem, outputs[stem], sample.hr, sample.lr) for stem, sample in samples.items()]


def means(report: Report) -> dict[str, float]:
    """The mean of each metric that could be had."""
    found = table.means(report, report.rows[RESTORED])
    return {name: value for name, value in found.items() if value is not None}


def colours(outputs: Sequence[Sample]) -> dict[str, float]:
    """How far colours and contrast of restored pictures are from those of the ground truth, see `Row`."""
    shifts, ratios = [], []
    for sample in outputs:
        assert sample.hr is not None
        shifts.append(255 * (sample.restored - sample.hr).mean((0, 2, 3)))
        ratios.append(sample.restored.std() / sample.hr.std().clamp_min(1 / 255))
    mean = torch.stack(shifts).mean(0).tolist()
    return {**dict(zip(COLOURS, mean, strict=True)), "contrast": float(torch.stack(ratios).mean())}


def of_folder(folder: Path, images: int | None, side: int | None) -> dict[str, Sample]:
    """The first `images` pairs of a folder with lr/ and hr/, of each the middle, `side` HR pixels; None: all of it."""
    files = match({"lr": pictures(folder / "lr"), "hr": pictures(folder / "hr")})
    found = {}
    for stem, roles in [*files.items()][:images]:
        sample = load(stem, {**roles, "restored": roles["hr"]})
        sample.check(Options())
        assert sample.lr is not None and sample.hr is not None
        found[stem] = middle(stem, sample.lr, sample.hr, side)
    return found


def of_pairs(pairs: Sequence[Pair], images: int | None, side: int | None) -> dict[str, Sample]:
    """The same of own pairs, at four times."""
    found: dict[str, Sample] = {}
    for pair in pairs[:images]:
        lr, hr, _ = read_pair(pair)
        small, large = (pixels(as_tensor(one, False)[None]) for one in (lr, hr))
        name = free(pair.name, found)
        found[name] = middle(name, small, large, side)
    return found


def of_photos(
    photos: Sequence[Photo], images: int | None, side: int | None, recipe: Recipe | Mixture, seed: int
) -> dict[str, Sample]:
    """The same of photographs that `recipe` degrades, always in the same way."""
    found: dict[str, Sample] = {}
    for number, photo in enumerate(photos[:images]):
        hr = from_pil(decode(contents(photo))).rgb
        height, width = (min(length, side or length) // SCALE * SCALE for length in hr.shape[-2:])
        hr = cut(hr, (hr.shape[-2] - height) // 2, (hr.shape[-1] - width) // 2, height, width)
        lr = apply(hr, recipe.sample(seeded(seed, number), 1))
        name = free(photo.stem, found)
        found[name] = middle(name, pixels(in_bytes(lr)), hr, None)
    return found


def free(name: str, taken: Samples) -> str:
    """`name`, with a number where another folder has the same."""
    return next(one for number in count(1) if (one := name if number == 1 else f"{name}_{number}") not in taken)


def middle(stem: str, lr: Tensor, hr: Tensor, side: int | None) -> Sample:
    """The middle of a pair (1, 3, h, w) and (1, 3, 4h, 4w), to be restored."""
    if side is not None:
        height, width = (min(length, side // SCALE) for length in lr.shape[-2:])
        top, left = (lr.shape[-2] - height) // 2, (lr.shape[-1] - width) // 2
        lr, hr = cut(lr, top, left, height, width), cut(hr, *(SCALE * number for number in (top, left, height, width)))
    return Sample(stem, hr, hr, lr)


def cut(picture: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return picture[..., top : top + height, left : left + width]

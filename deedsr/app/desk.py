"""What the page does with the pictures that it gets: what was asked for, one after another, and what came of each."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from deedsr import batch, jobs
from deedsr.cli.flags import in_flags
from deedsr.diagnosis import Diagnoser, Diagnosis
from deedsr.files import one_line
from deedsr.geometry import resize
from deedsr.options import Options
from deedsr.pictures.picture import Picture, read
from deedsr.restorer import Restorer

PREVIEW = 2048  # pixels of the longer side of what the page shows; what is downloaded is whole
QUALITY = 90  # of what it shows, in WebP

FIELDS = {"ext": "Format", "tile": "Tile side", "seed": "Seed"}
"""What the page calls the arguments that the library's advice names."""
_QUOTED = re.compile(rf"`({'|'.join(FIELDS)})(?:='?(\w+)'?)?`|`\.(\w+)`")


@dataclass(frozen=True)
class Result:
    """What became of one upload. name: of the file that was dropped.

    result: the restored file; before, after: what the page shows of it, both of one size. told: what was not kept of
    the upload, or, where there is no result, what is wrong, a line each.
    """

    name: str
    result: Path | None = None
    before: Path | None = None
    after: Path | None = None
    told: tuple[str, ...] = ()


class Desk:
    """Diagnoses and restores uploads, with one model in memory at a time.

    folder: for results; who opens the desk removes it. device, dtype, runtime, low_memory: as of
    `Restorer.from_pretrained`.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "auto",
        dtype: str = "auto",
        runtime: str = "torch",
        low_memory: bool = False,
    ) -> None:
        self.folder, self.place, self.low_memory = folder, (device, dtype, runtime), low_memory
        self._restorer: tuple[str, Restorer] | None = None
        self._diagnoser: tuple[str, Diagnoser] | None = None

    def restorer(self, model: str, options: Options) -> Restorer:
        """Raises ValueError for a model that can't be had, and for options that are not of it."""
        if self._restorer is None or self._restorer[0] != model:
            device, dtype, runtime = self.place
            loaded = Restorer.from_pretrained(model, None, device, dtype, False, runtime, self.low_memory)
            self._restorer = (model, loaded)
        _, loaded = self._restorer
        return Restorer(loaded.model, options, device=loaded.device, low_memory=self.low_memory)

    def diagnose(self, uploads: Sequence[Path], model: str) -> Iterator[tuple[str, Diagnosis | str]]:
        """Each upload's name with its diagnosis, or with what is wrong."""
        for upload in uploads:
            try:
                if self._diagnoser is None or self._diagnoser[0] != model:
                    self._diagnoser = (model, Diagnoser.from_pretrained(model, self.place[0]))
                yield upload.name, self._diagnoser[1](upload)
            except (ValueError, OSError) as error:
                yield upload.name, on_page(str(error), upload)

    def restore(
        self,
        uploads: Sequence[Path],
        restorer: Restorer,
        extension: str | None = None,
        progress: Callable[[float, str], None] | None = None,
    ) -> Iterator[Result]:
        """What becomes of each upload, in order; one that fails doesn't stop the rest.

        extension: of the results; None for those of the uploads. progress: called with the fraction of all that is
        done, and with what is being done.
        """
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for number, upload in enumerate(uploads):

            def within(part: float, _count: int, number: int = number, name: str = upload.name) -> None:
                if progress is not None:
                    progress((number + part) / len(uploads), f"{name} ({number + 1} of {len(uploads)})")

            plan = jobs.make_plan([upload], folder / str(number), ext=extension)
            (outcome,) = batch.restore_all(plan, lambda: restorer, True, lambda _: None, within)
            lines = filter(None, [outcome.error, *outcome.notes])
            told = tuple(on_page(line, *filter(None, [upload, outcome.target])) for line in lines)
            if outcome.target is None or outcome.status == "failed":
                yield Result(upload.name, told=told)
            else:
                shown = (folder / f"{number}-{name}.webp" for name in ("before", "after"))
                yield Result(upload.name, outcome.target, *_show(upload, outcome.target, *shown), told)


def on_page(message: str, *files: Path) -> str:
    """The library's message about an upload, its names without folders, its arguments as the page's fields or flags."""

    def field(found: re.Match[str]) -> str:
        name, value, extension = found.groups()
        return f"{FIELDS['ext']}: {extension}" if extension else f"{FIELDS[name]}: {value}" if value else FIELDS[name]

    for file in files:
        message = message.replace(str(file), file.name)
    return in_flags(one_line(_QUOTED.sub(field, message)))


def _show(upload: Path, result: Path, before: Path, after: Path) -> tuple[Path, Path]:
    """Write what the page shows of an upload and of its result, both of one size, in their own colours."""
    restored = read(result)
    scale = min(PREVIEW / max(restored.size), 1)
    size = round(scale * restored.size[0]), round(scale * restored.size[1])
    for file, picture in ((before, read(upload)), (after, restored)):
        _preview(picture, size).save(file, "WEBP", quality=QUALITY, icc_profile=picture.icc or b"")
    return before, after


def _preview(picture: Picture, size: tuple[int, int]) -> Image.Image:
    """A picture at a size (height, width) as an 8-bit image."""
    alpha = None if picture.alpha is None else resize(picture.alpha, size)
    return Picture(resize(picture.rgb, size), alpha, grey=picture.grey).to_pil()

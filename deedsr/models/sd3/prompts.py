"""What pictures are told: captions from files, embedded, or embeddings that are there already."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deedsr import weights
from deedsr.models.contract import Text

TEXTS = "texts.safetensors"
NEGATIVE = "blurred, noisy, over-smoothed, compressed, cartoon, painting, distorted, ringing at edges"
"""What guidance leads away from where nothing else is said."""
COLUMNS = ("name", "caption")


@dataclass(frozen=True)
class Prompts:
    """The texts of pictures. own: by name, a text or the file of one. others: of pictures without; None refuses them.

    negative: what guidance leads away from. source: where `own` comes from, for messages.
    """

    own: Mapping[str, Text | Path]
    others: Text | None
    negative: Text | None
    source: str

    def __call__(self, name: str | Path | None) -> tuple[Text, Text | None]:
        """The text of the picture called `name`, a path or a stem, and the negative one.

        A picture's text is called as its path ends, with its extension or without. Raises ValueError for none.
        """
        found = next((self.own[key] for key in _keys(name) if key in self.own), self.others)
        if found is None:
            called = name or "a picture without a name"
            raise ValueError(f"{called}: has no text in {self.source}; add it, or give `caption` for all without")
        return found if isinstance(found, Text) else stored(found, ""), self.negative


def _keys(name: str | Path | None) -> Iterator[str]:
    """What a picture may be called, the longest first."""
    path = Path(name or "")
    for first in range(len(path.parts)):
        for end in (path, path.with_suffix("")):
            yield "/".join(end.parts[first:])


def read_captions(place: Path) -> dict[str, str]:
    """Captions by the name of a picture.

    place: a table (``.csv``, ``.tsv``) whose first line names the columns name and caption, ``.jsonl`` with an object
    of these two in every line, or a folder of ``STEM.txt``. Raises ValueError that names the file for one that is
    missing or no such thing, and for a name that comes twice.
    """
    if place.is_dir():
        rows = [(file.stem, file.read_text(encoding="utf-8").strip()) for file in sorted(place.glob("*.txt"))]
    else:
        rows = [(row[COLUMNS[0]], row[COLUMNS[1]]) for row in _rows(place)]
    if not rows:
        raise ValueError(f"{place}: holds no captions")
    found: dict[str, str] = {}
    for name, caption in rows:
        if found.setdefault(name, caption) is not caption:
            raise ValueError(f"{place}: has two captions of {name}; leave one")
    return found


def _rows(file: Path) -> Iterator[dict[str, str]]:
    kind = file.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl"):
        raise ValueError(f"{file}: captions come from .csv, .tsv, .jsonl or a folder of .txt")
    try:
        text = file.read_text(encoding="utf-8-sig")
        if kind == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if kind == ".tsv" else ","))
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file of captions; check the name") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{file}: can't be read as {kind} in UTF-8 ({error})") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(column), str) for column in COLUMNS):
            raise ValueError(f"{file}: its entry {number} has no {' or no '.join(COLUMNS)}; each needs both, by name")
        yield row


def stored(file: Path, name: str) -> Text:
    """A text of a file of embeddings: of several the one called `name`, a batch of 1; else the only one, unbatched."""
    tensors, prefix = weights.load(file).tensors, f"{name}." if name else ""
    parts = [tensors.get(f"{prefix}{part}") for part in ("tokens", "pooled")]
    tokens, pooled = (None if part is None else part if name else part[None] for part in parts)
    if tokens is None or pooled is None or len(tokens) != 1:
        raise ValueError(f"{file}: holds no text {name!r}; it was not written by `python -m stage2.texts.embed`")
    return Text(tokens, pooled)


def embedded(place: Path) -> Prompts:
    """Of embeddings that are there: a folder of `stage2.texts.embed`, which has every picture's own text.

    place: or ``texts.safetensors`` in it, whose text is that of every picture.
    """
    if not place.exists():
        raise ValueError(f"{place}: no such embeddings; make them with `python -m stage2.texts.embed`")
    file = place / TEXTS if place.is_dir() else place
    own: dict[str, Text | Path] = {path.stem: path for path in sorted((place / "stems").glob("*.safetensors"))}
    return Prompts(own, None if place.is_dir() else stored(file, "positive"), stored(file, "negative"), str(place))

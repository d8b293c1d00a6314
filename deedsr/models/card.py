"""The model card of a folder that is handed on, and the files by which diffusers takes it for a pipeline.

A card is ``README.md``: front matter as the hub reads it, what `deedsr export` writes, and below it the text that the
model came with, whoever wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import yaml

from deedsr.diffusion.sampler import Settings
from deedsr.files import sha256, visible, write_json, write_text
from deedsr.models.resolver import ASSETS, BUILT_IN

CARD, INDEX, PIPELINE = "README.md", "model_index.json", "pipeline.py"
RECORD, KEY = "run.yaml", "run"
"""The record of a run: beside its checkpoint and its folder ``model``, and its name within the checkpoint."""

BEGIN = "<!-- From here on `deedsr export` has written; it writes this part anew. -->"
END = "<!-- Down to here. What stands below is kept. -->"

PAPERS = {"deedsr": "DeeDSR (arXiv 2404.00661)", "dit4sr": "DiT4SR (arXiv 2503.23580)"}
LICENCES = {
    BUILT_IN: "cc-by-sa-4.0",
    "stabilityai/stable-diffusion-2-1-base": "openrail++",
    "stabilityai/stable-diffusion-3.5-medium": "stabilityai-ai-community",
}
"""Of the bases that are known, in the words of the hub."""
OTHERS = ("stabilityai-ai-community",)
"""Those that the hub calls ``other``."""

CODE = '''"""Restores photographs with this folder. All of it is in the package deedsr."""

try:
    from deedsr.pipeline import RestorationPipeline
except ImportError as error:
    raise ImportError(f"this pipeline needs the package deedsr: install it, then try again ({error})") from None

__all__ = ["RestorationPipeline"]
'''


@dataclass(frozen=True)
class Made:
    """What is known of a model that is handed on.

    system: its name. base: a hub id, `BUILT_IN`, or None for another on the disk. inside: whether the base is in the
    folder. parameters: so many were trained. defaults: how it samples, arguments of `Settings`. Of its training, where
    that is known: steps; metrics, as validation measured them after the last of these; run, the record of it, with its
    ``configuration``. mixed: of the mean of models, the share and the place of each.
    """

    system: str
    base: str | None
    inside: bool
    parameters: int
    defaults: Mapping[str, Any]
    steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    mixed: Sequence[tuple[float, str]] = ()


def base_name(place: Path, called: str | None) -> str | None:
    """What a card calls the base in `place`: `BUILT_IN` for those of the package, else the hub id `called`, if any."""
    return BUILT_IN if ASSETS in place.resolve().parents else called


def record_of(place: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the run that wrote `place`, in `checkpoint` or beside it; {} where there is none of stage 2."""
    found = checkpoint.get(KEY) or _yaml(place.resolve().parent / RECORD)
    config = found.get("configuration")
    return found if isinstance(config, dict) and {"model", "recipe", "crop", "batch"} <= config.keys() else {}


def _yaml(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def complete(folder: Path, title: str, made: Made, before: Path, licence: str | None = None) -> None:
    """Write the card of a model folder that is whole otherwise, and what makes it a pipeline of diffusers.

    before: a card whose own text is kept, and whose front matter counts before ours; it need not exist. licence: what
    the front matter is to say. Raises ValueError for front matter that can't be read.
    """
    write_text(folder / PIPELINE, CODE)
    names = {"_class_name": ["pipeline", "RestorationPipeline"], "_diffusers_version": diffusers.__version__}
    write_json(folder / INDEX, {**names, "model": [None, None]})
    text = before.read_text(encoding="utf-8") if before.is_file() else ""
    front, own = _front_matter(text, before), own_text(text)
    front = {**_our_front_matter(made), **front, **_licence_words(licence)}
    dumped = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    parts = [f"---\n{dumped}---", BEGIN, f"# {title}", *_sections(folder, made, front, text), END, own]
    write_text(folder / CARD, "\n\n".join(part for part in parts if part) + "\n")


def licence_of(place: Path) -> str | None:
    """The licence that the card of the model folder `place` states, in the words of the hub; None where it has none."""
    file = place / CARD
    front = _front_matter(file.read_text(encoding="utf-8"), file) if file.is_file() else {}
    return front.get("license_name", front.get("license"))


def is_ours(text: str) -> bool:
    """Whether the text of a card has a part that `complete` wrote."""
    return BEGIN in text and END in text


def own_text(text: str) -> str:
    """What of a card's text is neither front matter nor ours."""
    body = FRONT.sub("", text, count=1)
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", "", body, count=1, flags=re.DOTALL).strip()


FRONT = re.compile(r"\A---\n(.*?)\n?---(?:\n|\Z)", re.DOTALL)


def _front_matter(text: str, source: Path) -> dict[str, Any]:
    found = FRONT.match(text)
    try:
        values = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: its front matter is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict | None):
        raise ValueError(f"{source}: its front matter is a {type(values).__name__}, not names and values")
    return values or {}


def _our_front_matter(made: Made) -> dict[str, Any]:
    tags = ["deedsr", "diffusers", "super-resolution", "image-restoration"]
    base = {} if made.base in (None, BUILT_IN) else {"base_model": made.base}
    licence = _licence_words(LICENCES.get(made.base or ""))
    return {**licence, **base, "pipeline_tag": "image-to-image", "library_name": "deedsr", "tags": tags}


def _licence_words(licence: str | None) -> dict[str, str]:
    if licence in OTHERS:
        return {"license": "other", "license_name": licence}
    return {} if licence is None else {"license": licence}


def _sections(folder: Path, made: Made, front: Mapping[str, Any], before: str) -> list[str]:
    base = made.base or front.get("base_model")
    called = {None: "a base of its own", BUILT_IN: "the built-in base of deedsr"}.get(base, base)
    where = ", which is in `base/`" if made.inside else ""
    settings = Settings.from_dict(dict(made.defaults))
    steps = f"{settings.steps} step{'s' * (settings.steps != 1)}"
    what = (
        f"A {PAPERS.get(made.system, made.system)}: it restores photographs, four times larger. {made.parameters:,} "
        f"parameters were trained on {called}{where}. It samples in {steps} ({settings.sampler})."
    )
    return [
        what,
        f"## How to use it\n\n{USE}",
        f"{TRAINING}{_training(made, before)}",
        f"## Licence\n\n{_licence(made, front)}",
        f"## Files\n\n| file | SHA-256 |\n|---|---|\n{_hashes(folder)}",
    ]


USE = """With the package deedsr; FOLDER is this folder, or its name OWNER/NAME on the hub:

```sh
deedsr restore PICTURES --model FOLDER
```

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)
pipeline(image).images[0].save("restored.png")
```"""


TRAINING = "## Training\n\n"


def _training(made: Made, before: str) -> str:
    """What is known of the training, and if that is nothing, what we have said of it in the card `before`."""
    lines = []
    if made.mixed:
        parts = (f"{share:.4g} of `{'/'.join(Path(place).parts[-2:])}`" for share, place in made.mixed)
        lines.append(f"It is the mean of models, by weight: {', '.join(parts)}.")
    if made.steps is not None:
        lines.append(f"Steps: {made.steps:,}.")
    if made.metrics:
        measured = ", ".join(f"{name} {value:.4f}" for name, value in made.metrics.items())
        lines.append(f"Validation after these steps, on its own pictures for it: {measured}.")
    if config := made.run.get("configuration"):
        recipe = config["recipe"] if isinstance(config["recipe"], str) else json.dumps(config["recipe"])
        lines.append(f"Crops: {config['batch']} on each device at a time, of {config['crop']} pixels a side.")
        count = (made.run.get("photographs") or {}).get("count")
        many = "" if count is None else f", {count:,} pictures"
        lines.append(f"Data: {trained_on(config.get('data') or {})}{many}; recipe of the degradations: `{recipe}`.")
        code = (made.run.get("starts") or [{}])[-1].get("commit")
        if code:
            lines.append(f"Code: commit {code} of deedsr.")
        if config.get("init"):
            lines.append(f"It began with the weights of `{Path(str(config['init'])).name}`.")
    if not lines and is_ours(before):
        return before.partition(BEGIN)[2].partition(TRAINING)[2].partition("\n\n## ")[0]
    return "\n".join(f"- {line}" for line in lines) or "Nothing is known of it but what this card says elsewhere."


def trained_on(data: Mapping[str, Any]) -> str:
    """What the ``data`` of a configuration trains on, by the last part of each path: the rest of it is of a machine."""
    said = []
    for name, what in (("roots", "photographs"), ("pairs", "pairs")):
        places = data.get(name) or []
        names = [_name(place) for place in ([places] if isinstance(places, str | Mapping) else places)]
        if names:
            said.append(f"{what} of {', '.join(f'`{name}`' for name in names)}")
    return " and ".join(said) or "a cache of samples"


def _name(place: str | Mapping[str, str]) -> str:
    """Of a folder, or of one with a list of what counts in it."""
    if isinstance(place, Mapping):
        return f"{Path(place['root']).name} ({Path(place['list']).name})"
    return Path(str(place)).name


def _licence(made: Made, front: Mapping[str, Any]) -> str:
    if "license" in front:
        name = front.get("license_name", front["license"])
        base = LICENCES.get(made.base or "")
        return f"{name}, that of its base." if name == base else f"{name}."
    whose = "that of its base holds, and" if made.base else "ask whoever made it:"
    return f"None is stated; {whose} that of the pictures that it was trained on may ask for more."


def _hashes(folder: Path) -> str:
    files = [file for file in visible(folder) if file != folder / CARD]
    return "\n".join(f"| {file.relative_to(folder).as_posix()} | `{sha256(file)}` |" for file in files)

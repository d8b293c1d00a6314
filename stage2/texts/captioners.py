"""What describes photographs, and writing it down: a text for each."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig
from PIL import Image

from deedsr.data.members import Member, Photo
from deedsr.data.photos import Corrupt, decode, list_photos
from deedsr.files import write_text
from deedsr.training.pace import paced
from stage2.texts.embedded import stem_of

log = logging.getLogger(__name__)

DAMAGE = re.compile(r"\b(blur|focus|sharp|bokeh|pixelat|nois[ey]|grain|low.quality|resolution)", re.IGNORECASE)
Captioner = Callable[[Photo], str]


def without_damage(text: str) -> str:
    """The sentences of `text` that say nothing of blur, focus and the like."""
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    return " ".join(sentence for sentence in sentences if not DAMAGE.search(sentence))


def captioner(cfg: DictConfig) -> Captioner:
    """What ``cfg.captioner`` names. Raises ValueError for anything else, and for a model that can't be had."""
    kind, _, name = cfg.captioner.partition(":")
    if kind == "transformers" and name:
        return _model(name, cfg.prompt, cfg.device, cfg.tokens)
    fixed: dict[str, Captioner] = {"none": lambda _: "", "words": lambda _: cfg.words, "files": _beside}
    if cfg.captioner not in fixed:
        raise ValueError(f"unknown captioner {cfg.captioner!r}; there are: {', '.join(fixed)}, transformers:ID")
    return fixed[cfg.captioner]


def _beside(photo: Photo) -> str:
    if isinstance(photo, Member):
        raise ValueError(f"{photo}: lies in a shard, so no text file lies beside it")
    file = photo.with_suffix(".txt")
    if not file.is_file():
        raise ValueError(f"{file}: missing; captioner=files needs a text beside every photograph")
    return file.read_text(encoding="utf-8").strip()


def _model(name: str, prompt: str, device: str, tokens: int) -> Captioner:
    try:
        from transformers import pipeline
    except ImportError:
        raise ValueError("captioner=transformers:ID needs transformers: run `pip install transformers`") from None
    try:
        ask = pipeline("image-text-to-text", model=name, device=device)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: no image-text model of transformers ({str(error).splitlines()[0]})") from None

    def caption(photo: Photo) -> str:
        image: Image.Image = decode(photo.read_bytes())
        content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        answer = ask(text=[{"role": "user", "content": content}], max_new_tokens=tokens, return_full_text=False)
        return without_damage(answer[0]["generated_text"])

    return caption


def write(cfg: DictConfig) -> Path:
    """Write the texts that are missing; returns their folder. ValueError where two photographs have one stem."""
    folder = Path(cfg.captions)
    photos = list_photos(cfg.data.roots, cfg.data.split)
    stems: dict[str, Photo] = {}
    for photo in photos:
        other = stems.setdefault(stem_of(photo), photo)
        if other != photo:
            raise ValueError(f"{other} and {photo} have one stem, and texts go by stem: rename one")
    missing = {stem: photo for stem, photo in stems.items() if not (folder / f"{stem}.txt").is_file()}
    caption = captioner(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    corrupt = 0
    for stem, photo in paced(missing.items(), "texts"):
        try:
            write_text(folder / f"{stem}.txt", caption(photo) + "\n")
        except Corrupt as error:  # training passes over it as well
            log.warning("%s: %s, left out", photo, error)
            corrupt += 1
    log.info("%s: %d texts, %d of them new", folder, len(stems) - corrupt, len(missing) - corrupt)
    return folder

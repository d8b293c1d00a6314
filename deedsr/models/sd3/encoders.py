"""The three text encoders of a base of Stable Diffusion 3, in diffusers' layout: CLIP-L, CLIP-G and T5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deedsr.models.contract import Text
from deedsr.models.resolver import resolve

KINDS = {"": "CLIPTextModelWithProjection", "_2": "CLIPTextModelWithProjection", "_3": "T5EncoderModel"}
"""Class of each, by the end of its folder's name, ``text_encoder``, ``text_encoder_2``, ``text_encoder_3``."""
WEIGHTS = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
FILES = [
    *(f"text_encoder{number}/{file}" for number in KINDS for file in WEIGHTS),
    *(f"tokenizer{number}/*" for number in KINDS),
]


@dataclass(frozen=True)
class Encoder:
    """One of the three with its tokenizer. length: of its texts, in tokens; None: as its tokenizer says."""

    tokenizer: Any
    network: Any
    length: int | None

    @torch.inference_mode()
    def __call__(self, text: str) -> list[Tensor]:
        """Of CLIP the states before the last layer (1, 77, D) and the projection (1, P); of T5 (1, length, D)."""
        length = self.length or self.tokenizer.model_max_length
        found = self.tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        given = self.network(found.input_ids.to(self.network.device), output_hidden_states=True)
        if self.length is not None:
            return [given.last_hidden_state]
        return [given.hidden_states[-2], given.text_embeds]


def load(place: Path, number: str, length: int, device: torch.device, dtype: torch.dtype) -> Encoder:
    """The encoder of the base in the folder `place` that KINDS calls `number`.

    length: of T5's texts. Raises ValueError where it can't be had.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError("text encoders need transformers: run `pip install 'deedsr[text]'`") from None
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, subfolder=f"tokenizer{number}")
        kind = getattr(transformers, KINDS[number])
        network = kind.from_pretrained(place, subfolder=f"text_encoder{number}", dtype=dtype)
    except (OSError, ImportError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{place}: its text encoders can't be had ({reason}); give `embeddings` of `python -m stage2.texts.embed`"
        ) from None
    finally:
        if shown:
            bars.enable_progress_bar()
    return Encoder(tokenizer, network.eval().to(device), length if number == "_3" else None)


def joined(parts: Sequence[Tensor]) -> Text:
    """The text whose `parts` the three encoders gave, one after another, on the CPU.

    Beside each other the states of both CLIPs, padded to the width of T5's, and T5's after them.
    """
    low, pooled, high, pooled_high, last = parts
    both = torch.cat([low, high], -1)
    both = functional.pad(both, (0, last.shape[-1] - both.shape[-1]))
    return Text(torch.cat([both, last], 1).cpu(), torch.cat([pooled, pooled_high], -1).cpu())


def embed(
    base: tuple[str, Path | None], texts: Sequence[str], length: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Text]:
    """Each of `texts`, embedded; one encoder after another is loaded to the device, used for all, and let go.

    base: a path, also relative to the folder beside it, or a hub id. length: of T5's, in tokens. Raises ValueError
    where an encoder can't be had.
    """
    place = resolve(*base, FILES)
    parts: dict[str, list[Tensor]] = {text: [] for text in texts}
    for number in KINDS:
        encoder = load(place, number, length, device, dtype)
        for text, given in parts.items():
            given += [part.cpu() for part in encoder(text)]
        del encoder
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {text: joined(given) for text, given in parts.items()}

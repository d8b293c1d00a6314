"""What a user can choose when restoring, checked before anything heavy is imported."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

COLOURS = ("wavelet", "adain", "none")
SAMPLERS = ("ddim", "dpm++", "unipc", "euler")
SPACINGS = ("leading", "trailing", "linspace")
DTYPES = ("float32", "bfloat16", "float16")
AUTO_OR_DTYPES = ("auto", *DTYPES)
"""`deedsr.models.pick_dtype` says what ``auto`` is."""
DEVICES = ("auto", "cpu", "cuda", "mps")
LRS, POSTERIORS, ROUNDINGS = ("float", "deedsr", "dit4sr"), ("mode", "sample"), ("nearest", "down")
RUNTIMES = ("torch", "onnx")
SCALES, USUAL_SCALE = (1.0, 8.0), 4.0
Places = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Dials:
    """How much of each kind of damage is to be taken out, 0 to 2: 0 none of it, 1 what is there, 2 more.

    Raises ValueError for a number outside.
    """

    denoise: float = 1.0
    deblur: float = 1.0
    dejpeg: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 2:
                raise ValueError(
                    f"{name} is {value:g}; choose 0 to 2: 0 leaves it in, 1 takes out what is there, 2 more"
                )

    @property
    def neutral(self) -> bool:
        """Whether they change nothing."""
        return self == Dials()


@dataclass(frozen=True)
class Options:
    """How to restore; None leaves the choice to the model.

    outscale: output size over input size, 1 to 8, of any fraction. preset: name of one of the model's sampling
    presets, for instance ``authors``; the other options change it. steps, sampler: of the diffusion; spacing: how
    its times are spread, ``leading``, ``trailing`` or ``linspace``; few steps need trailing ones. noise_guidance:
    (weight, steps), the weight of the input's latent in x̂0 for the first steps; 0 steps is off. tile: side of a
    tile in pixels of the network's output (four times the input's), rounded up to what the network takes; 0 never
    tiles, None tiles what is large. overlap: the least that neighbouring tiles share, in the same pixels, less than
    a tile. colour: how the input's colours are taken over. coherence: how far edges are made smooth along themselves
    and steep across, 0 to 1, see `deedsr.coherence`. seed: of the noise, together with the image's content.
    batch: tiles at a time; None is one, and on a GPU as many as its memory holds, see `deedsr.tiling.Groups`.
    text_guidance: scale of the guidance by text, 1 is off, of models that take text.
    ensemble: mean of what the picture gives when it is flipped and turned in so many ways, 1 to 8, for so many
    times the time (the geometric self-ensemble of arXiv 1707.02921). denoise, deblur, dejpeg: how much of the
    noise, the blur and the JPEG damage is taken out, 0 to 2: 0 none, 1 what is there, 2 more than that, see
    `deedsr.dials`. degradation_guidance: scale of the guidance by the degradation, 1 is off, of models with a null
    vector. degradation_of: pictures, or folders of them, that came about as the input did, from the same scanner,
    phone or tape: the mean of what they tell of the degradation takes the place of what the input tells. width,
    height: of the output in pixels, in place of outscale; both together are what it has to fit into. megapixels: of
    the output, likewise.

    caption: what a picture shows, for models that take text. captions: a file of them by the pictures' names, see
    `deedsr.models.sd3.prompts.read_captions`; caption is then that of pictures without. negative: what guidance by
    text leads away from. embeddings: instead of these, what ``python -m stage2.texts.embed`` wrote: a folder with every
    picture's own, or ``texts.safetensors`` in it for all alike. text_length: of T5's part of a text, in tokens.
    """

    outscale: float = USUAL_SCALE
    steps: int | None = None
    sampler: str | None = None
    noise_guidance: tuple[float, int] | None = None
    tile: int | None = None
    colour: str | None = None
    seed: int = 0
    batch: int | None = None
    preset: str | None = None
    text_guidance: float | None = None
    ensemble: int | None = None
    denoise: float = 1.0
    deblur: float = 1.0
    dejpeg: float = 1.0
    degradation_guidance: float | None = None
    degradation_of: Places | None = None
    spacing: str | None = None
    overlap: int | None = None
    width: int | None = None
    height: int | None = None
    megapixels: float | None = None
    caption: str | None = None
    captions: str | Path | None = None
    negative: str | None = None
    embeddings: str | Path | None = None
    text_length: int = 256
    coherence: float | None = None

    def __post_init__(self) -> None:
        self._check_size()
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise ValueError(f"steps is {self.steps}; choose a number from 1 to 1000")
        if self.sampler is not None:
            one_of("sampler", self.sampler, SAMPLERS)
        if self.spacing is not None:
            one_of("spacing", self.spacing, SPACINGS)
        if self.noise_guidance is not None:
            weight, steps = self.noise_guidance
            if not 0 <= weight <= 1 or steps < 0:
                raise ValueError(f"noise guidance is {weight:g}:{steps}; choose a weight in [0, 1] and steps from 0 on")
        if self.tile is not None and self.tile < 0:
            raise ValueError(f"tile is {self.tile}; choose a number of pixels, or 0 to never tile")
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"overlap is {self.overlap}; choose a number of pixels from 0 on")
        if self.tile == 0 and self.overlap is not None:
            raise ValueError(f"overlap is {self.overlap}, but tile is 0, so that there are no tiles; leave one out")
        if self.colour is not None:
            one_of("colour", self.colour, COLOURS)
        if self.coherence is not None and not 0 <= self.coherence <= 1:
            raise ValueError(f"coherence is {self.coherence:g}; choose 0 to 1: 0 leaves edges as they are drawn")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; choose a whole number from 0 to 2^63 - 1")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it must be at least 1")
        for name, scale in (("text", self.text_guidance), ("degradation", self.degradation_guidance)):
            if scale is not None and not 1 <= scale < math.inf:
                raise ValueError(f"{name} guidance is {scale:g}; choose a scale from 1 on; 1 is off")
        if self.ensemble is not None and not 1 <= self.ensemble <= 8:
            raise ValueError(f"ensemble is {self.ensemble}; choose a number of views from 1 to 8")
        Dials(self.denoise, self.deblur, self.dejpeg)
        self._check_texts()

    def _check_size(self) -> None:
        if not (math.isfinite(self.outscale) and SCALES[0] <= self.outscale <= SCALES[1]):
            raise ValueError(f"outscale is {self.outscale:g}; choose a factor from {SCALES[0]:g} to {SCALES[1]:g}")
        for name in ("width", "height", "megapixels"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value:g}; choose a number above 0")
        if self.megapixels is not None and (self.width, self.height) != (None, None):
            raise ValueError("megapixels and a width or height contradict each other; leave one out")
        if self.outscale != USUAL_SCALE and (self.width, self.height, self.megapixels) != (None, None, None):
            raise ValueError("outscale and a width, height or megapixels contradict each other; leave one out")

    def _check_texts(self) -> None:
        captioned = self.caption is not None or self.captions is not None
        if self.embeddings is not None and (captioned or self.negative is not None):
            raise ValueError("embeddings are texts already: leave `caption`, `captions` and `negative` out")
        if self.negative is not None and not captioned:
            raise ValueError("a negative text is led away from, towards another: give `caption` or `captions`, too")
        if not 1 <= self.text_length <= 512:
            raise ValueError(f"text length is {self.text_length}; choose 1 to 512 tokens")

    @property
    def tells(self) -> bool:
        """Whether there are texts for pictures."""
        return any(part is not None for part in (self.caption, self.captions, self.embeddings))

    @property
    def dials(self) -> Dials:
        """The three together. Raises ValueError for one that is out of range."""
        return Dials(self.denoise, self.deblur, self.dejpeg)

    @property
    def references(self) -> list[Path]:
        """`degradation_of` as a list."""
        places = self.degradation_of or ()
        return [Path(place) for place in ([places] if isinstance(places, (str, Path)) else places)]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Output (height, width) of an input: each side times one factor, rounded to the nearest pixel, half up.

        Raises ValueError where that is more than the largest outscale; less than 1 makes the picture smaller.
        """
        scale = self.outscale
        if self.megapixels is not None:
            scale = math.sqrt(self.megapixels * 1e6 / (height * width))
        elif self.width is not None or self.height is not None:
            scale = min((self.width or math.inf) / width, (self.height or math.inf) / height)
        if scale > SCALES[1]:
            raise ValueError(
                f"{width}x{height} pixels would become {scale:.1f} times larger; at most {SCALES[1]:g} can be"
            )
        return max(math.floor(height * scale + 0.5), 1), max(math.floor(width * scale + 0.5), 1)


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) from ``WIDTHxHEIGHT``. Raises ValueError for anything else."""
    width, _, height = text.lower().replace("×", "x").partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise ValueError(f"size {text!r} is not WIDTHxHEIGHT; give both in pixels, for instance 3840x2160") from None


def parse_guidance(text: str) -> tuple[float, int]:
    """Noise guidance (weight, steps) from ``W:K``. Raises ValueError for anything else."""
    weight, _, steps = text.partition(":")
    try:
        return float(weight), int(steps)
    except ValueError:
        raise ValueError(f"noise guidance {text!r} is not W:K; give weight and steps, for instance 1:1") from None


def one_of(name: str, value: str, choices: Collection[str]) -> str:
    """``value`` if it is one of the choices; else ValueError that lists them."""
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")
    return value

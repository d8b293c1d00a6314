"""One sampling loop for every model, over diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from torch import Tensor

from deedsr.devices import upload
from deedsr.diffusion.free_guidance import NO_GUIDANCE, FreeGuidance
from deedsr.diffusion.guidance import OFF, NoiseGuidance
from deedsr.diffusion.process import Process, numbers_of
from deedsr.options import COLOURS, LRS, POSTERIORS, ROUNDINGS, SPACINGS, Options, one_of
from deedsr.tiling import SIGMAS

SAMPLERS = {
    "ddim": diffusers.DDIMScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "euler": diffusers.FlowMatchEulerDiscreteScheduler,
}
Denoise = Callable[[Tensor, Tensor], Tensor]
OnStep = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class Settings:
    """How to sample.

    sampler: ``ddim``, ``dpm++`` or ``unipc``; of a rectified flow ``euler``. steps: network calls. eta: of DDIM,
    0 deterministic, 1 ancestral. spacing: of the times, but not of ``euler``; ``leading`` only for many steps, with few
    it starts far below the noisiest time. start: the fraction of the noise levels that is gone through; 1 starts from
    pure noise, less from z_lr noised to the first of the remaining times. noise: standard deviation of the noise at the
    start; 1 is what base models are trained with, 0 is none, for models that were distilled so. guidance: see
    `NoiseGuidance`. text, degradation: guidance by these, see `FreeGuidance`.

    Of the restorer: tile: side of the tiles that the network sees, in HR pixels; overlap: the least that neighbours
    share; untiled: pictures of up to so many pixels squared have no tiles; margin: mirrored context on all sides; of
    these four, None leaves it to the restorer. tiles: how they are laid, see `deedsr.tiling.SIGMAS`. ensemble: flipped
    and turned views that it takes the mean of, 1 to 8. colour: how it takes over the input's colours, see
    `deedsr.colour.match`. lr: how the LR image is enlarged, see `deedsr.geometry.enlarged`; ``deedsr`` also pads sides
    that need none, and has the autoencoder see values in [0, 1], ``dit4sr`` also colours and sizes the output in 8
    bits. posterior: whether z_lr is the ``mode`` or a ``sample``. rounding: of the output to 8 bits, ``nearest`` or
    ``down``. words: put behind every caption. coherence: how far edges are made smooth along themselves and steep
    across, 0 to 1, see `deedsr.coherence`. Raises ValueError for a value out of its range.
    """

    sampler: str = "ddim"
    steps: int = 50
    eta: float = 0.0
    spacing: str = "trailing"
    start: float = 1.0
    noise: float = 1.0
    guidance: NoiseGuidance = OFF
    text: FreeGuidance = NO_GUIDANCE
    degradation: FreeGuidance = NO_GUIDANCE
    tile: int | None = None
    ensemble: int = 1
    colour: str = "wavelet"
    overlap: int | None = None
    untiled: int | None = None
    margin: int | None = None
    tiles: str = "even"
    lr: str = "float"
    posterior: str = "mode"
    rounding: str = "nearest"
    words: str = ""
    coherence: float = 0.0

    def __post_init__(self) -> None:
        one_of("sampler", self.sampler, SAMPLERS)
        one_of("spacing", self.spacing, SPACINGS)
        one_of("colour", self.colour, COLOURS)
        one_of("tiles", self.tiles, SIGMAS)
        one_of("lr", self.lr, LRS)
        one_of("posterior", self.posterior, POSTERIORS)
        one_of("rounding", self.rounding, ROUNDINGS)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not 0 < self.start <= 1:
            raise ValueError(f"start must be above 0 and at most 1, not {self.start}")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise must be 0 to 1, not {self.noise}")
        if self.noise == 0 and round(self.steps / self.start) <= self.steps:
            raise ValueError(f"noise 0 leaves {self.steps} steps nothing to begin with: start below {self.start}")
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"tile must be a number of pixels, not {self.tile}")
        for name, pixels in (("overlap", self.overlap), ("untiled", self.untiled), ("margin", self.margin)):
            if pixels is not None and pixels < 0:
                raise ValueError(f"{name} must be a number of pixels, not {pixels}")
        if not 0 <= self.coherence <= 1:
            raise ValueError(f"coherence must be 0 to 1, not {self.coherence}")
        if not 1 <= self.ensemble <= 8:
            raise ValueError(f"ensemble must be 1 to 8 views, not {self.ensemble}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """From plain values, as stored in a model's configuration; an unknown name raises TypeError."""
        values = dict(values)
        if "guidance" in values:
            values["guidance"] = NoiseGuidance(*values["guidance"])
        for name in ("text", "degradation"):
            if name in values:
                values[name] = FreeGuidance(*values[name])
        return cls(**values)

    @property
    def asked(self) -> int:
        """How many of the steps ask the network: none that noise guidance takes from the input alone."""
        return max(self.steps - (self.guidance.steps if self.guidance.weight == 1 else 0), 0)

    @property
    def noisy(self) -> bool:
        """Whether noise has a part in what comes out, so that another seed gives another picture."""
        return self.noise > 0 or self.eta > 0 or self.posterior == "sample"

    def with_(self, **changes: Any) -> Settings:
        """A copy with the changes that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def chosen(self, options: Options) -> Settings:
        """A copy with what the user chose. Whoever changes the steps or the sampler keeps the times' spacing."""
        text, degradation = options.text_guidance, options.degradation_guidance
        return self.with_(
            steps=options.steps,
            sampler=options.sampler,
            guidance=None if options.noise_guidance is None else NoiseGuidance(*options.noise_guidance),
            spacing=options.spacing,
            ensemble=options.ensemble,
            colour=options.colour,
            coherence=options.coherence,
            text=None if text is None else replace(self.text, scale=text),
            degradation=None if degradation is None else replace(self.degradation, scale=degradation),
        )


def make_scheduler(process: Process, settings: Settings) -> Any:
    """The diffusers scheduler of `settings`, its times set; only the last `settings.steps` of them are to be used.

    Raises ValueError for a sampler that is not of the process, for more steps than it has in the fraction of the noise
    levels that is gone through, and for a number of steps that the sampler can't spread.
    """
    if process.flows != (settings.sampler == "euler"):
        fitting = [name for name in SAMPLERS if process.flows == (name == "euler")]
        raise ValueError(f"the sampler {settings.sampler!r} is not of this model; choose {' or '.join(fitting)}")
    count = round(settings.steps / settings.start)
    if count > process.steps:
        least = f" from {settings.start:g} of the noise levels on" if settings.start < 1 else ""
        most = int(process.steps * settings.start)
        raise ValueError(f"{settings.steps} steps were asked for, but the process has only {most}{least}")
    kind = SAMPLERS[settings.sampler]
    config = numbers_of(process.config)
    if not process.flows:
        config |= {"timestep_spacing": settings.spacing, "clip_sample": False}  # latents exceed ±1
    scheduler = kind.from_config(config)
    scheduler.set_timesteps(count)
    if settings.sampler == "ddim":
        scheduler.timesteps = scheduler.timesteps[:count]  # of some counts, rounding makes one more, at −1
    elif len(scheduler.timesteps) > count:
        raise ValueError(f"{settings.sampler} can't spread {count} times evenly; choose another number of steps")
    return scheduler


def begin(process: Process, z_lr: Tensor, settings: Settings, noise: Tensor) -> tuple[Any, Tensor, Tensor]:
    """The scheduler, the times that sampling goes through, and x at the first of them; see `sample`."""
    scheduler = make_scheduler(process, settings)
    skipped = len(scheduler.timesteps) - min(settings.steps, len(scheduler.timesteps))
    times = scheduler.timesteps[skipped:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    noise = settings.noise * noise
    x = noise if process.flows else noise * scheduler.init_noise_sigma
    if skipped:
        x = process.noised(z_lr, noise, upload(times[:1], z_lr.device).expand(len(z_lr)))
    return scheduler, times, x


def sample(
    denoise: Denoise,
    process: Process,
    z_lr: Tensor,
    settings: Settings,
    noise: Tensor,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    checked: bool = True,
) -> Tensor:
    """Run the reverse process and return x0, (B, C, h, w).

    denoise: (x_t, t (B,)) → the network's prediction. z_lr: latent of the LR image, for noise guidance and late starts.
    noise: standard normal, of z_lr's shape, what the process starts from. generator: for the noise that DDIM with
    η > 0 adds. on_step: called at every step with (t, x̂0), the clean latent as it is estimated there. checked: whether
    at the end ValueError is raised where a step gave NaN or inf; without, nothing waits for a GPU.
    """
    finite: list[Tensor] = []
    scheduler, times, x = begin(process, z_lr, settings, noise)
    there = upload(times, x.device)
    extra = {"eta": settings.eta, "generator": generator} if settings.sampler == "ddim" else {}
    for index, time in enumerate(times):
        t = there[index].expand(len(x))
        output = settings.guidance.guide(denoise, process, x, t, z_lr, index)
        if on_step is not None:
            on_step(int(time), process.clean(output, x, t))
        x = scheduler.step(output, time, x, **extra).prev_sample
        if checked:
            finite.append(torch.isfinite(x).all())
    bad = [step for step, good in enumerate(torch.stack(finite).tolist(), 1) if not good] if finite else []
    if bad:
        raise ValueError(f"step {bad[0]} of {len(finite)} gave NaN or inf in {x.dtype}; try `dtype='float32'`")
    return x

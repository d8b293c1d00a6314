"""What `stage2.evaluate.benchmark` measures against: a restorer that spares nothing, and diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from torch import Tensor

from deedsr import colour
from deedsr.diffusion.sampler import SAMPLERS, Settings, begin
from deedsr.geometry import SCALE, pad_to, upsample
from deedsr.layout import MARGIN, UNTILED
from deedsr.models import RestorationModel
from deedsr.models.deedsr.sizes import DeeDSRConfig
from deedsr.models.frozen.base import stock
from deedsr.randomness import content_seed
from deedsr.tiling import Window, blend, windows

TILE, OVERLAP = 512, 96  # HR pixels
TOKENS = 77  # of a text prompt

Run = Callable[[Tensor], Tensor]


def naive(model: RestorationModel, settings: Settings, seed: int = 0) -> Run:
    """Restores LR (1, 3, H, W) like `Restorer`, one tile at a time, and computes everything anew at every step.

    That is, for every tile and step: the degradation vector of the whole LR image, the dynamic kernels and gates, z_lr,
    and the network's answer, also where noise guidance does not use it. `model` should be in float32.
    """

    @torch.inference_mode()
    def restore(lr: Tensor) -> Tensor:
        height, width = lr.shape[-2:]
        generator = torch.Generator().manual_seed(content_seed(lr, seed))
        lr = lr.to(next(model.parameters()))
        large = upsample(lr, SCALE)
        padded = pad_to(large, model.size, MARGIN)
        latent = _sample(model, settings, lr, padded, generator)
        rows, columns = latent.shape[-2:]
        grid = tiles(model, rows, columns, settings.tile)
        decoded = blend(lambda window: model.decode(latent[window.slices]), grid, rows, columns, model.factor)
        inside = (..., slice(MARGIN, MARGIN + SCALE * height), slice(MARGIN, MARGIN + SCALE * width))
        return colour.match(decoded[inside], large, settings.colour).cpu()

    return restore


def tiles(model: RestorationModel, height: int, width: int, tile: int | None = None) -> list[Window]:
    """Tiles of one size over a latent (height, width); one where the image is small and no `tile` is asked for."""
    if model.limit is not None and model.factor * max(height, width) > model.limit:
        tile = min(tile or model.limit, model.limit)
    largest, untiled = model.factor * max(height, width), tile is None and height * width * model.factor**2 <= UNTILED
    if untiled or largest <= min((tile or TILE) + 2 * MARGIN, model.limit or largest):
        return [Window(0, 0, height, width)]
    side = (tile or TILE) // model.factor
    return windows(height, width, side, min(OVERLAP // model.factor, side // 5))


def _sample(
    model: RestorationModel, settings: Settings, lr: Tensor, padded: Tensor, generator: torch.Generator
) -> Tensor:
    process, guidance = model.process, settings.guidance
    shape = (padded.shape[-2] // model.factor, padded.shape[-1] // model.factor)
    grid = tiles(model, *shape, settings.tile)

    def encode(window: Window) -> Tensor:
        return model.encode(padded[window.scaled(model.factor).slices])

    z_lr = blend(encode, grid, *shape)
    noise = torch.randn(z_lr.shape, generator=generator).to(z_lr)
    scheduler, times, x = begin(process, z_lr, settings, noise)
    extra = {"eta": settings.eta, "generator": generator} if settings.sampler == "ddim" else {}
    for index, time in enumerate(times):
        t, now = time.to(x.device).expand(1), x

        def denoise(window: Window, t: Tensor = t, now: Tensor = now) -> Tensor:
            return model.denoise(
                now[window.slices], t, model.condition(lr, encode(window), guidance=model.guidance(settings))
            )

        output = blend(denoise, grid, *shape)
        if index < guidance.steps:
            clean = (1 - guidance.weight) * process.clean(output, x, t) + guidance.weight * blend(encode, grid, *shape)
            output = process.output(clean, x, t)
        x = scheduler.step(output, time, x, **extra).prev_sample
    return x


def pipeline(config: DeeDSRConfig, steps: int, device: torch.device, dtype: torch.dtype) -> Run:
    """diffusers' ControlNet pipeline on the stock base of `config` with random weights, for LR (1, 3, H, W).

    No text encoder (the prompt's embedding is given), no classifier-free guidance, DDIM.
    """
    with device:  # where random weights are drawn fastest
        unet = stock(config.unet)
        parts = {"vae": stock(config.vae), "unet": unet, "controlnet": ControlNetModel.from_unet(unet)}
    scheduler = SAMPLERS["ddim"].from_config(config.scheduler)
    absent = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionControlNetPipeline(**parts, **absent, scheduler=scheduler, requires_safety_checker=False)
    pipe.to(device, dtype)
    pipe.set_progress_bar_config(disable=True)
    prompt = torch.zeros(1, TOKENS, config.unet["cross_attention_dim"], device=device, dtype=dtype)

    def restore(lr: Tensor) -> Tensor:
        given = {"image": upsample(lr, SCALE), "prompt_embeds": prompt, "num_inference_steps": steps}
        return pipe(**given, guidance_scale=1.0, output_type="pt").images.float().cpu()

    return restore

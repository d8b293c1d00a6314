"""The DeeDSR authors' checkpoints as model folders of ours (arXiv 2404.00661; key names of their commit 108132a)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from deedsr import weights
from deedsr.diffusion.process import Process
from deedsr.files import new_folder
from deedsr.models.deedsr.folder import DEEDSR, ENCODER, DeeDSRNumbers
from deedsr.models.deedsr.model import DeeDSR, random_model
from deedsr.models.deedsr.sizes import SD21, DeeDSRConfig
from deedsr.models.frozen import original_names
from deedsr.models.frozen.base import write_part, write_scheduler
from deedsr.models.frozen.original_names import Pairs, joined
from deedsr.models.system import Header

LISTED = 20  # names of each fault in a message
PREFIX = "Encoder_degrad."
RES_BLOCK = {**original_names.RES_BLOCK, "emb_layers.1": "time", "skip_connection": "skip"}
MODULATION = {"spade.mlp_shared.0": "shared", "spade.mlp_gamma": "gamma", "spade.mlp_beta": "beta"}
ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}
DEGRADATION = {
    "chain.0": "squeeze",
    "body.0.da_conv1.kernel": "first.kernel",
    "body.0.da_conv1.conv": "first.conv",
    "body.0.da_conv1.ca.conv_du": "first.gate",
    "body.0.da_conv2.kernel": "second.kernel",
    "body.0.da_conv2.conv": "second.conv",
    "body.0.da_conv2.ca.conv_du": "second.gate",
    "body.0.conv1": "conv1",
    "body.0.conv2": "conv2",
    "body.1": "conv3",
}


def _adapter(levels: int) -> Pairs:
    """Prefixes in the adapter: input_blocks holds the stem, level 0, then a down-sampler and a level in turn."""
    yield f"{PREFIX}degrad_encoder.", "encoder."
    yield f"{PREFIX}time_embed.", "adapter.time."
    yield f"{PREFIX}input_blocks.0.0.", "adapter.stem."
    for level in range(levels):
        block = f"{PREFIX}input_blocks.{2 * level + 1}"
        if level:
            yield from joined(f"{PREFIX}input_blocks.{2 * level}.0", f"adapter.levels.{level}.down", RES_BLOCK)
        yield from joined(f"{block}.0", f"adapter.levels.{level}.res", RES_BLOCK)
        yield from joined(f"{block}.1", f"adapter.levels.{level}.degradation", DEGRADATION)
        yield from joined(f"{block}.2", f"adapter.levels.{level}.attention", ATTENTION)
        yield from joined(f"{PREFIX}fea_tran.{level}", f"adapter.heads.{level}", RES_BLOCK)
    for index, table in enumerate((RES_BLOCK, ATTENTION, RES_BLOCK)):
        yield from joined(f"{PREFIX}middle_block.{index}", f"adapter.middle.{index}", table)


def _unet(model: DeeDSR) -> Pairs:
    names = [name for name, module in model.unet.named_modules() if isinstance(module, ResnetBlock2D)]
    modulations = {name: f"modulations.{index}" for index, name in enumerate(names)}
    for theirs, ours in original_names.unet_pairs(model.unet):
        yield f"{original_names.UNET}{theirs}", f"unet.{ours}"
    for theirs, ours in original_names.unet_blocks(model.unet):
        if ours in modulations:
            yield from joined(f"{original_names.UNET}{theirs}", modulations[ours], MODULATION)


def key_table(model: DeeDSR) -> dict[str, str]:
    """Every tensor name of the authors' state dict (VAE aside) → the name in ``model.state_dict()``, at any size.

    Raises ValueError where a tensor of `model` has no name there: the model is of a shape that theirs can't take.
    """
    names = [name for name in model.state_dict() if not name.startswith("vae.")]
    return original_names.table(names, chain(_adapter(len(model.adapter.config.widths)), _unet(model)))


def schedule(process: Process) -> dict[str, Tensor]:
    """The buffers of the authors' diffusion, by name: functions of ᾱ, the ᾱ before it, and β (arXiv 2006.11239)."""
    cumulative = process.levels(torch.arange(process.steps))[0].square()
    before = torch.cat([cumulative.new_ones(1), cumulative[:-1]])
    beta = 1 - cumulative / before
    variance = beta * (1 - before) / (1 - cumulative)
    return {
        "betas": beta,
        "alphas_cumprod": cumulative,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": cumulative.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - cumulative).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - cumulative).log(),
        "sqrt_recip_alphas_cumprod": cumulative.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / cumulative - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": beta * before.sqrt() / (1 - cumulative),
        "posterior_mean_coef2": (1 - before) * (1 - beta).sqrt() / (1 - cumulative),
        "logvar": torch.zeros_like(beta),
    }


def read(source: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: safetensors, or a .ckpt or .pth of plain tensors (also under ``state_dict``)."""
    if source.suffix == ".safetensors":
        return weights.load(source).tensors
    checkpoint = weights.load_checkpoint(source)
    tensors = checkpoint.get("state_dict", checkpoint)
    odd = [str(name) for name, value in tensors.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(f"{source}: {', '.join(odd[:LISTED])} should be tensors; this is no state dict")
    return tensors


def fitted(tensors: Mapping[str, Tensor], config: DeeDSRConfig, source: str | Path) -> dict[str, Tensor]:
    """The authors' `tensors` in our names and shapes; their schedule is compared with ours and dropped.

    Raises ValueError that names `source` and lists what is missing, surplus, of another size or of another schedule.
    """
    with torch.device("meta"):
        model = random_model(config)
    names = key_table(model)
    vae = {f"vae.{name}" for name in model.vae.state_dict()}
    pairs = ((f"{original_names.VAE}{theirs}", f"vae.{ours}") for theirs, ours in original_names.vae_pairs(model.vae))
    names |= original_names.table(vae, pairs)
    expected = schedule(Process.from_config(config.scheduler))
    given = {name: tensor for name, tensor in tensors.items() if name not in expected}
    other = [name for name in sorted(expected.keys() & tensors.keys()) if not _close(tensors[name], expected[name])]
    faults = [fault for fault in [original_names.misfits(given, names, model, LISTED)] if fault]
    if other:
        faults.append(f"{len(other)} of another schedule ({', '.join(other)})")
    if faults:
        raise ValueError(f"{source}: not a DeeDSR of the authors' repository: {'; '.join(faults)}")
    return original_names.renamed(given, names, model)


def _close(buffer: Tensor, expected: Tensor) -> bool:
    return buffer.shape == expected.shape and torch.allclose(buffer.double(), expected, rtol=1e-3, atol=1e-5)


def convert(source: Path, target: Path, config: DeeDSRConfig = SD21) -> None:
    """Write the checkpoint `source` of the authors' repository as the model folder `target`, its base inside.

    Reproduced: the sampling of their test script, as the folder's defaults (`SD21`): 50 steps of DDIM with η = 1
    from pure noise at leading times, the first step's x̂0 replaced by z_lr, no classifier-free guidance. The preset
    ``authors`` adds what a network is not trained for: z_lr from a picture in [0, 1] instead of [-1, 1] and drawn from
    the posterior instead of its mode; 64 pixels of padding on sides that need none; tiles that are sampled one by one,
    averaged uniformly and coloured one by one; no colours matched; rounding down. Left out even there: tiled outputs
    that are not cropped to their size, and BatchNorms of the encoder that still move.

    Raises ValueError where `source` is no such checkpoint (see `fitted`) or `target` exists.
    """
    with new_folder(target) as folder:
        state = fitted(read(source), config, source)
        with torch.device("meta"):
            model = random_model(config)

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

        write_part(folder / "base" / "unet", part("unet."), {**config.unet, **config.adapter.unet_changes})
        write_part(folder / "base" / "vae", part("vae."), config.vae)
        write_scheduler(folder / "base", config.scheduler)
        weights.save(folder / ENCODER, part("encoder."), config.encoder)
        trained = {name: state[name] for name, _ in model.trainable()}
        DEEDSR.save(folder, trained, Header("base", DeeDSRNumbers(config.adapter, config.sft_hidden), SD21.defaults))

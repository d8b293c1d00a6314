"""Names in Stable Diffusion's original single files (CompVis, Stability AI) → names of the diffusers classes.

`Pairs` are (their prefix, our prefix) of modules, with a full stop at the end; a table has a tensor's name for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from deedsr import weights

Pairs = Iterator[tuple[str, str]]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
RES_BLOCK = {"in_layers.0": "norm1", "in_layers.2": "conv1", "out_layers.0": "norm2", "out_layers.3": "conv2"}
UNET_RES_BLOCK = {**RES_BLOCK, "emb_layers.1": "time_emb_proj", "skip_connection": "conv_shortcut"}
VAE_RES_BLOCK = {**{part: part for part in RES_BLOCK.values()}, "nin_shortcut": "conv_shortcut"}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def joined(theirs: str, ours: str, table: Mapping[str, str]) -> Pairs:
    for their_part, our_part in table.items():
        yield f"{theirs}.{their_part}.", f"{ours}.{our_part}."


def unet_blocks(unet: nn.Module) -> Pairs:
    """(their module, our module) for all parts of a UNet2DConditionModel, ResBlocks and attentions whole."""
    levels, layers = len(unet.config.block_out_channels), unet.config.layers_per_block
    for level in range(levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{level}"
        for layer in range(layers):
            theirs = f"input_blocks.{1 + level * (layers + 1) + layer}"
            yield f"{theirs}.0", f"{down}.resnets.{layer}"
            yield f"{theirs}.1", f"{down}.attentions.{layer}"
        yield f"input_blocks.{(level + 1) * (layers + 1)}.0.op", f"{down}.downsamplers.0.conv"
        for layer in range(layers + 1):
            theirs = f"output_blocks.{level * (layers + 1) + layer}"
            yield f"{theirs}.0", f"{up}.resnets.{layer}"
            yield f"{theirs}.1", f"{up}.attentions.{layer}"
        attends = hasattr(unet.up_blocks[level], "attentions")
        yield f"{theirs}.{2 if attends else 1}.conv", f"{up}.upsamplers.0.conv"
    yield "middle_block.0", "mid_block.resnets.0"
    yield "middle_block.1", "mid_block.attentions.0"
    yield "middle_block.2", "mid_block.resnets.1"
    yield "input_blocks.0.0", "conv_in"
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"


def unet_pairs(unet: nn.Module) -> Pairs:
    res_blocks = {name for name, module in unet.named_modules() if isinstance(module, ResnetBlock2D)}
    for theirs, ours in unet_blocks(unet):
        if ours in res_blocks:
            yield from joined(theirs, ours, UNET_RES_BLOCK)
        else:
            yield f"{theirs}.", f"{ours}."


def vae_pairs(vae: nn.Module) -> Pairs:
    """For an AutoencoderKL; their decoder counts its levels from fine to coarse."""
    levels, layers = len(vae.config.block_out_channels), vae.config.layers_per_block
    for level in range(levels):
        up = levels - 1 - level
        for layer in range(layers):
            yield from joined(
                f"encoder.down.{level}.block.{layer}", f"encoder.down_blocks.{level}.resnets.{layer}", VAE_RES_BLOCK
            )
        for layer in range(layers + 1):
            yield from joined(
                f"decoder.up.{up}.block.{layer}", f"decoder.up_blocks.{level}.resnets.{layer}", VAE_RES_BLOCK
            )
        yield f"encoder.down.{level}.downsample.conv.", f"encoder.down_blocks.{level}.downsamplers.0.conv."
        yield f"decoder.up.{up}.upsample.conv.", f"decoder.up_blocks.{level}.upsamplers.0.conv."
    for half in ("encoder", "decoder"):
        for block in range(2):
            yield from joined(f"{half}.mid.block_{block + 1}", f"{half}.mid_block.resnets.{block}", VAE_RES_BLOCK)
        yield from joined(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", VAE_ATTENTION)
        yield f"{half}.conv_in.", f"{half}.conv_in."
        yield f"{half}.norm_out.", f"{half}.conv_norm_out."
        yield f"{half}.conv_out.", f"{half}.conv_out."
    for name in ("quant_conv.", "post_quant_conv."):
        yield name, name


def table(names: Iterable[str], pairs: Pairs) -> dict[str, str]:
    """Their name → our name, for our `names`. Raises ValueError for a name whose prefix is in no pair."""
    prefixes = {ours: theirs for theirs, ours in pairs}
    found = {}
    for name in names:
        ours = next((prefix for prefix in _prefixes(name) if prefix in prefixes), None)
        if ours is None:
            raise ValueError(f"{name}: has no counterpart in the authors' state dict")
        found[prefixes[ours] + name.removeprefix(ours)] = name
    return found


def _prefixes(name: str) -> Iterator[str]:
    """'a.b.c' → 'a.b.', 'a.'."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:end]) + "."


def misfits(tensors: Mapping[str, Tensor], names: Mapping[str, str], module: nn.Module, listed: int = 3) -> str:
    """What of `tensors`, under their names, does not fit `module`, or "". names: a table for all of the module."""
    state = module.state_dict()
    wanted = {theirs: state[ours].shape for theirs, ours in names.items()}
    given = {name: tensor.shape for name, tensor in tensors.items()}
    for name in given.keys() & wanted.keys():
        if given[name].numel() == wanted[name].numel() and _trimmed(given[name]) == _trimmed(wanted[name]):
            given[name] = wanted[name]  # a 1x1 convolution for a linear layer
    return weights.misfits(given, wanted, listed)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without ones at the end."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(shape)


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str], module: nn.Module) -> dict[str, Tensor]:
    """`tensors` that fit (see `misfits`), in the names and shapes of `module`."""
    state = module.state_dict()
    return {ours: tensors[theirs].reshape(state[ours].shape) for theirs, ours in names.items()}

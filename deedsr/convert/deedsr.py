"""Names of the DeeDSR authors' modules → names of ours (arXiv 2404.00661; key names of their commit 108132a)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from deedsr.models.deedsr import DeeDSR

UNET, ADAPTER = "model.diffusion_model.", "Encoder_degrad."

RES_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
}
OUR_RES_BLOCK = {**RES_BLOCK, "emb_layers.1": "time", "skip_connection": "skip"}
STOCK_RES_BLOCK = {**RES_BLOCK, "emb_layers.1": "time_emb_proj", "skip_connection": "conv_shortcut"}
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

Pairs = Iterator[tuple[str, str]]


def _joined(theirs: str, ours: str, table: Mapping[str, str]) -> Pairs:
    for their_part, our_part in table.items():
        yield f"{theirs}.{their_part}.", f"{ours}.{our_part}."


def _adapter(levels: int) -> Pairs:
    """Prefixes in the adapter: input_blocks holds the stem, level 0, then a down-sampler and a level in turn."""
    yield f"{ADAPTER}degrad_encoder.", "encoder."
    yield f"{ADAPTER}time_embed.", "adapter.time."
    yield f"{ADAPTER}input_blocks.0.0.", "adapter.stem."
    for level in range(levels):
        block = f"{ADAPTER}input_blocks.{2 * level + 1}"
        if level:
            yield from _joined(f"{ADAPTER}input_blocks.{2 * level}.0", f"adapter.levels.{level}.down", OUR_RES_BLOCK)
        yield from _joined(f"{block}.0", f"adapter.levels.{level}.res", OUR_RES_BLOCK)
        yield from _joined(f"{block}.1", f"adapter.levels.{level}.degradation", DEGRADATION)
        yield from _joined(f"{block}.2", f"adapter.levels.{level}.attention", ATTENTION)
        yield from _joined(f"{ADAPTER}fea_tran.{level}", f"adapter.heads.{level}", OUR_RES_BLOCK)
    for index, table in enumerate((OUR_RES_BLOCK, ATTENTION, OUR_RES_BLOCK)):
        yield from _joined(f"{ADAPTER}middle_block.{index}", f"adapter.middle.{index}", table)


def _unet_blocks(levels: int, layers: int, attention: set[str]) -> Pairs:
    """(their module, our module) for the stages of the U-Net; `attention` names our blocks that have some."""
    for level in range(levels):
        down, up = f"unet.down_blocks.{level}", f"unet.up_blocks.{level}"
        for layer in range(layers):
            theirs = f"{UNET}input_blocks.{1 + level * (layers + 1) + layer}"
            yield f"{theirs}.0", f"{down}.resnets.{layer}"
            yield f"{theirs}.1", f"{down}.attentions.{layer}"
        yield f"{UNET}input_blocks.{(level + 1) * (layers + 1)}.0.op", f"{down}.downsamplers.0.conv"
        for layer in range(layers + 1):
            theirs = f"{UNET}output_blocks.{level * (layers + 1) + layer}"
            yield f"{theirs}.0", f"{up}.resnets.{layer}"
            yield f"{theirs}.1", f"{up}.attentions.{layer}"
        yield f"{theirs}.{2 if up in attention else 1}.conv", f"{up}.upsamplers.0.conv"
    yield f"{UNET}middle_block.0", "unet.mid_block.resnets.0"
    yield f"{UNET}middle_block.1", "unet.mid_block.attentions.0"
    yield f"{UNET}middle_block.2", "unet.mid_block.resnets.1"
    yield f"{UNET}input_blocks.0.0", "unet.conv_in"
    yield f"{UNET}time_embed.0", "unet.time_embedding.linear_1"
    yield f"{UNET}time_embed.2", "unet.time_embedding.linear_2"
    yield f"{UNET}out.0", "unet.conv_norm_out"
    yield f"{UNET}out.2", "unet.conv_out"


def _unet(model: DeeDSR) -> Pairs:
    names = [name for name, module in model.unet.named_modules(prefix="unet") if isinstance(module, ResnetBlock2D)]
    modulations = {name: f"modulations.{index}" for index, name in enumerate(names)}
    attention = {name.split(".attentions.")[0] for name, _ in model.cross_attentions()}
    config = model.unet.config
    for theirs, ours in _unet_blocks(len(config.block_out_channels), config.layers_per_block, attention):
        if ours in modulations:
            yield from _joined(theirs, ours, STOCK_RES_BLOCK)
            yield from _joined(theirs, modulations[ours], MODULATION)
        else:
            yield f"{theirs}.", f"{ours}."


def key_table(model: DeeDSR) -> dict[str, str]:
    """Every tensor name of the authors' state dict (VAE aside) → the name in ``model.state_dict()``, at any size.

    Raises ValueError where a tensor of `model` has no name there: the model is of a shape that theirs can't take.
    """
    prefixes = {ours: theirs for theirs, ours in [*_adapter(len(model.adapter.config.widths)), *_unet(model)]}
    table = {}
    for name in model.state_dict():
        if name.startswith("vae."):
            continue
        ours = next((prefix for prefix in _prefixes(name) if prefix in prefixes), None)
        if ours is None:
            raise ValueError(f"{name}: has no counterpart in the authors' state dict")
        table[prefixes[ours] + name.removeprefix(ours)] = name
    return table


def _prefixes(name: str) -> Iterator[str]:
    """'a.b.c' → 'a.b.', 'a.'."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:end]) + "."


def rename(tensors: Mapping[str, Tensor], model: DeeDSR) -> dict[str, Tensor]:
    """The authors' `tensors` in our names and shapes (their gates are 1x1 convolutions, ours linear layers).

    Raises ValueError that lists names of theirs that are missing, and names that have no place in `model`.
    """
    table, own = key_table(model), model.state_dict()
    missing, extra = sorted(table.keys() - tensors.keys()), sorted(tensors.keys() - table.keys())
    if missing or extra:
        raise ValueError(
            f"not the authors' checkpoint of this size: missing {missing[:3]}, without a place {extra[:3]}"
        )
    return {ours: tensors[theirs].reshape(own[ours].shape) for theirs, ours in table.items()}

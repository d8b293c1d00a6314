"""What makes a large model fit and run fast: storage, recomputation, memory layout, compilation, sharding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from deedsr.models.contract import RestorationModel
from deedsr.models.frozen import latents

FROZEN_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare(
    model: RestorationModel, frozen_dtype: str, recompute: bool, channels_last: bool, compiled: Mapping[str, Any] | None
) -> None:
    """Apply the options to `model`, in place; names of parameters stay as they are.

    frozen_dtype: how the frozen parts are stored. recompute: whether the blocks' activations are computed again in the
    backward pass instead of being kept. compiled: arguments of `torch.compile`, for what predicts and for the
    autoencoder's encoder, which takes longer; None to leave it.
    """
    if frozen_dtype not in FROZEN_DTYPES:
        raise ValueError(f"unknown frozen_dtype {frozen_dtype!r}; there are: {', '.join(FROZEN_DTYPES)}")
    store_frozen(model, FROZEN_DTYPES[frozen_dtype])
    if recompute:
        for block in (*model.blocks(), *latents.decoder_blocks(model.vae)):  # losses on pictures go through the decoder
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    if compiled is not None:
        model.compile(**compiled)
        model.vae.encoder.compile(**compiled)


def store_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Frozen matrices and kernels in `dtype`; vectors, as of norms and biases, weigh nothing and stay as they are.

    Autocast to `dtype` would round just these, call by call, so under it not a bit of any result changes.
    """
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.ndim > 1:
            parameter.data = parameter.data.to(dtype)


def shard(run: nn.Module, model: RestorationModel, mesh: DeviceMesh) -> None:
    """Split the parameters of `model`, a part of `run`, among the devices of `mesh` (FSDP2).

    Each block is gathered for its own calls; the trained parts outside blocks for the whole of ``run.training_step``.
    The few frozen ones outside blocks stay whole. mesh: (nodes, devices of a node): each node holds a whole copy.
    Raises ValueError for parameters in another memory layout, which FSDP2 can't split.
    """
    if not all(parameter.is_contiguous() for parameter in model.parameters()):
        raise ValueError(
            "channels_last=true can't be had with a model_parallel strategy: FSDP2 splits plain layouts only"
        )
    for block in model.blocks():
        for part in _trained_parts(block):
            fully_shard(part, mesh=mesh)
        fully_shard(block, mesh=mesh)
    parameters = set(run.parameters())
    whole = {p for p in parameters if not p.requires_grad and not isinstance(p, DTensor)}
    fully_shard(run, mesh=mesh, ignored_params=whole)
    for name in ("training_step", "awake"):
        register_fsdp_forward_method(run, name)


def _trained_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The largest modules inside a partly frozen one that are trained as a whole: a unit of sharding has one dtype."""
    if all(parameter.requires_grad for parameter in module.parameters()):
        return
    for child in module.children():
        trained = {parameter.requires_grad for parameter in child.parameters()}
        if trained == {True}:
            yield child
        elif True in trained:
            yield from _trained_parts(child)

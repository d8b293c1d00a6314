"""LoRA (arXiv 2106.09685): what is learned in addition to the attention projections of a frozen base.

peft would rename the base's tensors, and its containers can't be sharded (FSDP2); restoring would need it as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
DOWN, UP = ".lora.down.weight", ".lora.up.weight"


class LowRank(nn.Module):
    """What a linear layer's output gets in addition: B A x, with A (rank, inputs) random and B (outputs, rank) zero."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        self.reset()

    def reset(self) -> None:
        """Initial values: they change nothing."""
        self.down.reset_parameters()
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


def check(rank: int) -> None:
    """Raise ValueError for what is no rank: 0, for none, or more."""
    if not isinstance(rank, int) or rank < 0:
        raise ValueError(f"lora_rank is {rank}; choose a whole number from 1 on, or 0 for none")


def attach(attentions: Iterable[nn.Module], rank: int) -> None:
    """Give the four projections of each attention a `LowRank`, called ``lora``; none where `rank` is 0.

    Names of the base's own tensors stay as they are. Raises ValueError where there is a rank and no attention.
    """
    found = list(attentions) if rank else []
    if rank and not found:
        raise ValueError(f"lora_rank is {rank}, but this base has no self-attention to change: leave it at 0")
    for attention in found:
        for name in PROJECTIONS:
            layer = attention.get_submodule(name)
            layer.lora = LowRank(layer, rank)
            layer.register_forward_hook(_add)


def _add(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output + layer.lora(inputs[0])


def parts(network: nn.Module, prefix: str) -> Iterator[tuple[str, LowRank]]:
    """Every `LowRank` in `network`, by its name below `prefix`."""
    for name, module in network.named_modules(prefix=prefix):
        if isinstance(module, LowRank):
            yield name, module


def is_lora(name: str) -> bool:
    """Whether a trained tensor of this name belongs to a `LowRank`."""
    return name.endswith((DOWN, UP))


def changes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """B A, (outputs, inputs) in float32, by the name of the base's matrix that it is added to."""
    return {
        name.removesuffix(UP) + ".weight": up.float() @ tensors[name.removesuffix(UP) + DOWN].float()
        for name, up in tensors.items()
        if name.endswith(UP)
    }


def merged(tensors: Mapping[str, Tensor], part: str, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base's `tensors` of `part` with `changes` added, these in float32, so that nothing of them is lost."""
    return {
        name: tensor if (change := changes.get(f"{part}.{name}")) is None else tensor.float() + change
        for name, tensor in tensors.items()
    }

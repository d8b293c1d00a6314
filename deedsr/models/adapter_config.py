"""Hyper-parameters of the adapter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AdapterConfig:
    """Hyper-parameters of the adapter.

    in_channels: of the latent. width: of the finest level; multipliers: of the width, one per level. attention: whether
    a level has self-attention; heads: of it. maps: channels of the local-detail maps. vector: length of the degradation
    vector. context: width of the tokens, the last level's.
    """

    in_channels: int
    width: int
    multipliers: tuple[int, ...]
    attention: tuple[bool, ...]
    heads: int
    maps: int
    vector: int

    def __post_init__(self) -> None:
        if len(self.multipliers) != len(self.attention):
            raise ValueError(f"{len(self.multipliers)} levels but {len(self.attention)} entries in `attention`")
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention", tuple(bool(flag) for flag in self.attention))

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def context(self) -> int:
        return self.widths[-1]

"""Hyper-parameters of the adapter."""

from __future__ import annotations

from dataclasses import dataclass

from deedsr.models.frozen import lora

DEGRADATION, CROSS_ATTENTION = ("own", "constant", "zero", "shuffled"), ("fresh", "projected", "none")


@dataclass(frozen=True)
class AdapterConfig:
    """Hyper-parameters of the adapter.

    in_channels: of the latent. width: of the finest level; multipliers: of the width, one per level. attention: whether
    a level has self-attention; heads: of it. maps: channels of the local-detail maps. vector: length of the degradation
    vector. context: width of the tokens, the last level's. null: whether there is a learned null vector, that of no
    known degradation, which training gives now and then in place of the picture's. prompts: so many tokens, made of the
    vector, join those of the cross-attention (the paper speaks of degradation prompts and has none). modulate: whether
    the vector itself adds to γ and β of the modulations. lora_rank: of what is trained in addition to the U-Net's own
    self-attention, 0 for nothing, as in the paper. decoder: whether the decoder of the VAE is trained as well, which
    learns what latents come out of sampling (the second stage of CCSR, arXiv 2401.00877), from losses on pictures.

    Ablations; all three have an effect in training and in restoring. degradation: the vector that steers the adapter:
    the picture's ``own``; ``constant``, always the null vector, which is then there; none (``zero``: v = 0, and what is
    then constant in the degradation blocks is not built); or ``shuffled``, that of the batch's next picture (a picture
    that is restored alone has only its own, which a network trained so has learnt to ignore). modulation: whether the
    maps modulate the ResBlocks. cross_attention: ``fresh``, attn2 takes the tokens by keys and values of their own;
    ``projected``, a linear layer brings the tokens to the width of the base, whose own keys and values stay as they
    are; ``none``, attn2 stays the base's and sees one zero token.
    """

    in_channels: int
    width: int
    multipliers: tuple[int, ...]
    attention: tuple[bool, ...]
    heads: int
    maps: int
    vector: int
    degradation: str = "own"
    modulation: bool = True
    cross_attention: str = "fresh"
    null: bool = False
    prompts: int = 0
    modulate: bool = False
    lora_rank: int = 0
    decoder: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("degradation", DEGRADATION), ("cross_attention", CROSS_ATTENTION)):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are: {', '.join(choices)}")
        lora.check(self.lora_rank)
        if self.degradation == "constant":
            object.__setattr__(self, "null", True)
        if self.null and self.degradation == "zero":
            raise ValueError("degradation=zero builds nothing that takes a vector, so there is no null vector either")
        if self.prompts and (self.cross_attention != "fresh" or self.degradation == "zero"):
            raise ValueError(f"prompts={self.prompts} needs cross_attention=fresh, and a vector to be made of")
        if self.modulate and (not self.modulation or self.degradation == "zero"):
            raise ValueError("modulate=true needs modulation=true, and a vector to be made of")
        if not self.modulation and self.cross_attention == "none":
            raise ValueError("without modulation and without cross-attention nothing is left of the adapter")
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

    @property
    def unet_changes(self) -> dict[str, int]:
        """What differs from the base in the configuration of the U-Net."""
        return {"cross_attention_dim": self.context} if self.cross_attention == "fresh" else {}

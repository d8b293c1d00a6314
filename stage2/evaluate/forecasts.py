"""What runs need of a GPU's memory beside what cards have of it, as a table."""

from __future__ import annotations

from dataclasses import dataclass

from deedsr.training.fake_cuda.forecast import GIB, Need

CARDS = {"24 GB": 23.5, "80 GB": 79.0}
"""GiB that such a card has for PyTorch, and the share of it to be left: for the driver, for what convolutions work in,
and because this is a count."""
SPARE = 0.1


@dataclass(frozen=True)
class Forecast:
    """What a run needs of each of its devices. recompute: whether activations are computed again; None: no choice. own:
    whether its configuration says so. split: whether the model is split among the devices.
    """

    name: str
    batch: int
    recompute: bool | None
    own: bool
    need: Need
    devices: int = 1
    split: bool = False

    def fits(self) -> str:
        """The smallest card that holds it with a tenth to spare."""
        cards = (card for card, size in CARDS.items() if self.need.reserved / GIB <= (1 - SPARE) * size)
        return next(cards, "none")


HEADS = ("experiment", "GPUs", "batch", "activations", "parameters", "gradients", "optimizer", "average", "allocated")


def table(found: list[Forecast]) -> str:
    """Rows in GiB of each GPU, as Markdown; those in bold are as the configurations say."""
    lines = [f"| {' | '.join((*HEADS, 'reserved', 'fits'))} |", "|---" * (len(HEADS) + 2) + "|"]
    for one in found:
        sizes = one.need.gigabytes()
        gpus = f"{one.devices}{', split' * one.split}"
        cells = [one.name, gpus, str(one.batch), {None: "kept", True: "recomputed", False: "kept"}[one.recompute]]
        cells += [f"{sizes[name]:.1f}" for name in (*HEADS[4:], "reserved")] + [one.fits()]
        lines.append("| " + " | ".join(f"**{cell}**" if one.own else cell for cell in cells) + " |")
    return "\n".join(lines) + "\n"

"""A diagnosis as bars, and other pieces of the page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from deedsr.diagnosis import Diagnosis, Estimate

FULL = {"blur": 4.0, "noise": 40.0, "jpeg": 100.0}
"""What fills a bar: a blur's and a noise's sigma, and what a quality lacks to 100."""

CSS = """
.bars {margin-bottom: 1em; overflow-wrap: anywhere}
.bars .bar {display: grid; grid-template-columns: 3.5em minmax(5em, 1fr) minmax(0, 2fr); gap: .2em .7em}
.bars .bar {align-items: center}
.bars .track {background: var(--neutral-200); border-radius: 4px; height: .8em; overflow: hidden; position: relative}
.dark .bars .track {background: var(--neutral-700)}
.bars .track span {position: absolute; left: 0; top: 0; bottom: 0; background: var(--primary-500)}
.bars .track .doubt {opacity: .35}
.bars .fault {color: var(--error-text-color, #b91c1c)}
"""


def bars(found: Iterable[tuple[str, Diagnosis | str]]) -> str:
    """HTML: for each name, the diagnosis as bars with words beside them, or what is wrong."""
    return "".join(fault(name, one) if isinstance(one, str) else _card(name, one) for name, one in found)


def fault(name: str, message: str) -> str:
    """HTML: what is wrong with a file."""
    told = message if message.startswith(name) else f"{name}: {message}"
    return f'<div class="bars"><div class="fault" role="alert">{escape(told)}</div></div>'


def _card(name: str, diagnosis: Diagnosis) -> str:
    words = dict(line.split(maxsplit=1) for line in diagnosis.lines())
    rows = "".join(_bar(quantity, getattr(diagnosis, quantity), words[quantity]) for quantity in FULL)
    rest = "".join(f"<div>{escape(line)}</div>" for line in diagnosis.lines()[len(FULL) :])
    return f'<div class="bars"><b>{escape(name)}</b>{rows}{rest}</div>'


def _bar(quantity: str, estimate: Estimate, words: str) -> str:
    """One bar, as long as there is damage; its lighter end is as long as one standard deviation more."""
    full = FULL[quantity]
    damage = full - estimate.value if quantity == "jpeg" else estimate.value
    length, doubt = (100 * min(max(value / full, 0), 1) for value in (damage, damage + estimate.std))
    return (
        f'<div class="bar"><span>{quantity}</span><div class="track" role="meter" aria-label="{quantity}" '
        f'aria-valuenow="{length:.0f}" aria-valuemin="0" aria-valuemax="100"><span class="doubt" '
        f'style="width: {doubt:.0f}%"></span><span style="width: {length:.0f}%"></span></div>'
        f"<span>{escape(words)}</span></div>"
    )

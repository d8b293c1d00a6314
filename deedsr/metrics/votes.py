"""Votes on blind sheets, counted with their key: who is preferred how often, and whether the judges agree."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from deedsr.metrics.blind import TIE, Key, Sheet

TOGETHER = "all, by sheet"


@dataclass(frozen=True)
class Preference:
    """How often one of two methods was preferred. share: of `first` among `wins` + `losses`; interval: of Wilson."""

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    share: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Agreement:
    """Of judges over the sheets that at least two have judged.

    share: mean part of pairs of judges whose choice is the same. kappa: Fleiss' kappa, 0 for what chance would give, 1
    for agreement throughout; None where there was but one choice, so that chance would agree as well.
    """

    sheets: int
    share: float
    kappa: float | None


@dataclass(frozen=True)
class Count:
    """Votes by judge: {sheet: method, or ``tie``}. preferences: for each judge, and for all together if several."""

    key: Key
    votes: dict[str, dict[str, str]]
    preferences: dict[str, list[Preference]]
    agreement: Agreement | None

    def to_json(self) -> str:
        """All numbers, and what each judge chose on which picture."""
        sheets = {
            name: {"picture": sheet.picture}
            | {"votes": {judge: chosen[name] for judge, chosen in self.votes.items() if name in chosen}}
            for name, sheet in self.key.sheets.items()
        }
        document = {
            "methods": self.key.methods,
            "preferences": {judge: [asdict(one) for one in found] for judge, found in self.preferences.items()},
            "agreement": self.agreement and asdict(self.agreement),
            "sheets": sheets,
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """A Markdown table, and below it how to read it and what was not judged."""
        lines = ["| votes | first : second | wins | ties | share of the first |", "|---|---|---|---|---|"]
        for judge, found in self.preferences.items():
            lines += [f"| {judge} | {' | '.join(_cells(one))} |" for one in found]
        total = len(self.key.sheets)
        lines += ["", f"{total} sheets; share of the first among its wins and losses [95 % interval of Wilson]."]
        if len(self.votes) > 1:
            lines.append(f"- `{TOGETHER}`: a sheet counts once, for what most of its judges chose, else as a tie.")
        if len(self.key.methods) > 2:
            lines.append("- A sheet on which a third was chosen says nothing about two others.")
        if self.agreement is not None:
            kappa = "–" if self.agreement.kappa is None else f"{self.agreement.kappa:.2f}"
            judged = f"on {self.agreement.sheets} sheets that several have judged"
            lines.append(f"- Two judges agree in {100 * self.agreement.share:.0f} % of cases {judged}; kappa {kappa}.")
        for judge, chosen in self.votes.items():
            if len(chosen) < total:
                lines.append(f"- {judge}: {total - len(chosen)} of {total} sheets without a choice.")
        return "\n".join(lines) + "\n"


def count_votes(files: Sequence[Path], key_path: Path) -> Count:
    """Count the votes in `files`, one for each judge, with the key of their study.

    A file is a table with the columns ``sheet`` and ``choice``, a letter, ``tie``, or nothing where there is none yet.
    Raises ValueError, which names file and line, for sheets that the key doesn't have or that come twice, for other
    choices, for a file that is named twice, and where nobody has chosen anything.
    """
    key = Key.read(key_path)
    votes: dict[str, dict[str, str]] = {}
    for path in files:
        if str(path) in votes:
            raise ValueError(f"{path}: is named twice; name each judge's file once")
        votes[str(path)] = _read(path, key.sheets, key_path)
    if not any(votes.values()):
        raise ValueError(f"{', '.join(votes)}: no choice is filled in; write {_choices(key.sheets)} behind each sheet")
    counted = votes | ({TOGETHER: majority(votes.values())} if len(votes) > 1 else {})
    preferences = {judge: _preferences(list(key.methods), chosen) for judge, chosen in counted.items()}
    return Count(key, votes, preferences, agreement(votes.values()))


def _read(path: Path, sheets: Mapping[str, Sheet], key_path: Path) -> dict[str, str]:
    """The method, or ``tie``, of each sheet with a choice. Spreadsheets may have put semicolons or tabs for commas."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no text in UTF-8; save it as CSV in UTF-8") from None
    delimiter = next((mark for mark in ";\t" if lines and mark in lines[0]), ",")
    table = csv.DictReader(lines, delimiter=delimiter)
    if not {"sheet", "choice"} <= set(table.fieldnames or ()):
        raise ValueError(f"{path}: has no columns `sheet` and `choice`; votes are written into the table of the sheets")
    seen, found = set(), {}
    for row in table:
        where, name = f"{path}, line {table.line_num}", (row["sheet"] or "").strip()
        choice = (row["choice"] or "").strip()
        if not name and not choice:
            continue
        if name not in sheets:
            raise ValueError(f"{where}: {key_path} has no sheet {name!r}; name the key of this study")
        if name in seen:
            raise ValueError(f"{where}: {name} comes twice; keep one line of it")
        seen.add(name)
        options = sheets[name].letters | {TIE.upper(): TIE}
        if choice and choice.upper() not in options:
            raise ValueError(f"{where}: the choice is {choice!r}; write {_choices(sheets)}, or nothing")
        if choice:
            found[name] = options[choice.upper()]
    return found


def _choices(sheets: Mapping[str, Sheet]) -> str:
    return f"{', '.join(next(iter(sheets.values())).letters)} or {TIE}"


def majority(votes: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """For each sheet what most judges chose, or ``tie`` where no choice has the most votes."""
    found = {}
    for name, counts in _by_sheet(votes).items():
        (choice, most), *others = counts.most_common(2)
        found[name] = TIE if others and others[0][1] == most else choice
    return found


def _by_sheet(votes: Iterable[Mapping[str, str]]) -> dict[str, Counter[str]]:
    """How often what was chosen on each sheet."""
    counts: dict[str, Counter[str]] = {}
    for chosen in votes:
        for name, choice in chosen.items():
            counts.setdefault(name, Counter())[choice] += 1
    return counts


def _preferences(methods: Sequence[str], chosen: Mapping[str, str]) -> list[Preference]:
    """Of each two methods."""
    counts = Counter(chosen.values())
    found = []
    for first, second in combinations(methods, 2):
        wins, losses = counts[first], counts[second]
        decided = wins + losses
        share, bounds = (wins / decided, wilson(wins, decided)) if decided else (None, None)
        found.append(Preference(first, second, wins, losses, counts[TIE], share, bounds))
    return found


def wilson(wins: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, `wins` of `total` independent trials (one at least): two values in [0, 1].

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z = 1.959964
    share = wins / total
    middle = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    low, high = ((middle + sign * half) / (1 + z**2 / total) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def agreement(votes: Iterable[Mapping[str, str]]) -> Agreement | None:
    """How far judges agree; None where no two have judged the same sheet.

    Fleiss, "Measuring nominal scale agreement among many raters", 1971, equations 3 to 7.
    """
    judged = [counts for counts in _by_sheet(votes).values() if counts.total() > 1]
    if not judged:
        return None
    share = math.fsum(
        sum(n * (n - 1) for n in counts.values()) / (counts.total() * (counts.total() - 1)) for counts in judged
    ) / len(judged)
    choices = set().union(*judged)
    parts = [math.fsum(counts[choice] / counts.total() for counts in judged) / len(judged) for choice in choices]
    chance = math.fsum(part**2 for part in parts)
    return Agreement(len(judged), share, (share - chance) / (1 - chance) if len(choices) > 1 else None)


def _cells(found: Preference) -> list[str]:
    """A line's cells behind the judge."""
    share = "–"
    if found.share is not None and found.interval is not None:
        share = f"{found.share:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
    return [f"{found.first} : {found.second}", f"{found.wins} : {found.losses}", str(found.ties), share]

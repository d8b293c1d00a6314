"""The swap test, and models beside each other: the same pieces of photographs restored with different vectors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from deedsr.metrics.evaluation import track
from stage2.evaluate.degradation.fitted import Fit
from stage2.evaluate.degradation.pictures import WHOLE, Field, Pictures, Scenes, cut
from stage2.evaluate.degradation.recipes import recipe
from stage2.evaluate.degradation.restoring import Arm
from stage2.evaluate.degradation.scores import Score, Scores
from stage2.evaluate.degradation.vectors import Choice, absent, pool
from stage2.evaluate.rows import eight_bits

OWN = "own"
Key = tuple[str, str, Field, str]  # arm, recipe, field, vector


@dataclass
class Swap:
    """All restorations of the swap test.

    dear: metrics that are computed with the own vector alone. scores: of each `Key`. missing: what there is not, and
    why.
    """

    arms: Sequence[Arm]
    scenes: Scenes
    fields: Sequence[Field]
    vectors: Sequence[str]
    metrics: Mapping[str, Score]
    dear: Collection[str] = ()
    fit: Fit = field(default_factory=Fit)
    progress: bool = False
    scores: Scores = field(default_factory=Scores)
    missing: list[str] = field(default_factory=list)

    def run(self, name: str) -> None:
        """Restores the pieces by the recipe called `name`, in each field, by each model, with each vector."""
        pictures = self._varied if name == "varied" else Pictures(self.scenes, recipe(name))
        choices = {arm.name: self._choice(arm, pictures) for arm in self.arms}
        for piece in track(range(len(self.scenes)), len(self.scenes), self.progress, name):
            for seen in self.fields:
                self._field(name, seen, piece, pictures, choices)

    @cached_property
    def _varied(self) -> Pictures:
        return Pictures(self.scenes, recipe("varied"))

    @cached_property
    def _pools(self) -> dict[str, Tensor | None]:
        """Of each model, the vectors of the pieces by the recipe varied."""
        return {arm.name: pool(arm, self._varied) for arm in self.arms}

    def _choice(self, arm: Arm, pictures: Pictures) -> Choice | None:
        varied = self._pools[arm.name]
        own = varied if pictures is self._varied else pool(arm, pictures)
        if own is None or varied is None:
            self._note(f"{arm.name}: takes no degradation vector, so that it has one row")
            return None
        return Choice(arm, pictures, own, varied)

    def _field(
        self, name: str, seen: Field, piece: int, pictures: Pictures, choices: Mapping[str, Choice | None]
    ) -> None:
        """One piece in one field: every model, every vector."""
        lr, hr = cut(pictures.lr[piece], self.scenes.hr(piece), seen)
        for arm in self.arms:
            limit, choice = arm.model.limit, choices[arm.name]
            if limit is not None and isinstance(seen, int) and seen > limit:
                self._note(f"{arm.name}, field {seen}: it takes at most {limit} pixels in one piece")
                continue
            names = [OWN] if choice is None else self._names(choice, seen)
            restored = self._restored(arm, choice, names, piece, lr, seen)
            for metric, score in self.metrics.items():
                outputs = restored[:1] if metric in self.dear else restored
                with torch.no_grad():
                    values = score(outputs, hr.expand_as(outputs)).tolist()
                for vector, value in zip(names, values, strict=False):
                    self.scores.add((arm.name, name, seen, vector), self.scenes.photo(piece), metric, value)

    def _restored(
        self, arm: Arm, choice: Choice | None, names: Sequence[str], piece: int, lr: Tensor, seen: Field
    ) -> Tensor:
        """One piece restored by one model with each of the vectors called `names`, rounded to 8 bits."""
        if choice is None:
            with torch.no_grad():
                return eight_bits(arm.restore(lr, None, tiled=seen == WHOLE))
        if "fitted" in names and seen not in choice.fitted:
            choice.fitted[seen] = self.fit.both(choice, seen, self.metrics.get("lpips"))
        vectors = torch.cat([choice(name, piece, lr, seen) for name in names])
        different, where = vectors.unique(dim=0, return_inverse=True)  # equal ones give equal outputs, to the bit
        with torch.no_grad():
            return eight_bits(arm.restore(lr, different, tiled=seen == WHOLE))[where]

    def _names(self, choice: Choice, seen: Field) -> list[str]:
        """The vectors that there are for this model, these pictures and this field; `OWN` always."""
        names = [OWN]
        for name in self.vectors:
            if (why := absent(choice.arm, name, choice.pictures)) is not None:
                self._note(f"{choice.arm.name}, {name}: {why}")
            elif name != OWN and not (name in ("crop", "fitted") and seen in (WHOLE, self.scenes.side)):
                names.append(name)
        return names

    def _note(self, line: str) -> None:
        if line not in self.missing:
            self.missing.append(line)

    def rows(self, recipes: Sequence[str]) -> list[dict[str, Any]]:
        """Of each model, recipe, field and vector: the means, and the paired differences to `OWN`."""
        return [
            _row(self.scores, key, (*key[:3], OWN))
            for arm in self.arms
            for name in recipes
            for seen in self.fields
            for vector in (OWN, *(other for other in self.vectors if other != OWN))
            if self.scores.metrics(key := (arm.name, name, seen, vector))
        ]

    def beside(self, recipes: Sequence[str], against: str) -> list[dict[str, Any]]:
        """Of each model but `against`, recipe and field: the paired differences to it, each with its own vector."""
        return [
            {
                **_row(self.scores, (arm.name, name, seen, OWN), (against, name, seen, OWN)),
                "against": against,
            }
            for arm in self.arms
            if arm.name != against
            for name in recipes
            for seen in self.fields
            if self.scores.metrics((arm.name, name, seen, OWN)) and self.scores.metrics((against, name, seen, OWN))
        ]


def _row(scores: Scores, key: Key, base: Key) -> dict[str, Any]:
    found: dict[str, Any] = dict(zip(("model", "recipe", "field", "vector"), key, strict=True))
    for metric in scores.metrics(key):
        mean = scores.mean(key, metric)
        found["photographs"] = mean.pop("photographs")
        found[metric] = {"mean": mean["mean"], "mean_interval": mean["interval"]}
        if key != base:
            change = scores.difference(key, base, metric)
            found[metric] |= {"difference": change["difference"], "interval": change["interval"]}
    return found

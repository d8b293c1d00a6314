"""A vector of many pictures with one degradation, against a crop's own, where a crop alone says little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deedsr.degradation import Degradation, apply
from deedsr.geometry import SCALE
from deedsr.metrics.evaluation import track
from deedsr.randomness import seeded
from stage2.evaluate.degradation.pictures import WHOLE, Field, Scenes, cut, detail
from stage2.evaluate.degradation.recipes import recipe
from stage2.evaluate.degradation.restoring import Arm
from stage2.evaluate.degradation.scores import Score, Scores
from stage2.evaluate.rows import eight_bits

VECTORS = ("crop", "around", "shared")
"""Of the crop alone; of the piece around it; the mean of other photographs' pieces with the same degradation."""


@dataclass(frozen=True)
class Shared:
    """What is compared.

    recipe: of which `degradations` are drawn, each for all photographs. pictures: whose mean it is, at most. share: of
    the crops, those of least `detail`; 1: all.
    """

    recipe: str = "varied"
    degradations: int = 8
    pictures: int = 20
    share: float = 0.25

    def flattest(self, scenes: Scenes, field: Field) -> list[int]:
        """The share of all pieces with the least detail in the field, in order."""
        pictures = map(scenes.hr, range(len(scenes)))
        found = [detail(cut(hr[..., ::SCALE, ::SCALE], hr, field)[1]) for hr in pictures]
        count = max(1, round(self.share * len(found)))
        return sorted(sorted(range(len(found)), key=found.__getitem__)[:count])

    def run(
        self, arm: Arm, scenes: Scenes, fields: Sequence[Field], metrics: Mapping[str, Score], progress: bool
    ) -> list[dict[str, Any]]:
        """A row for each field: the means, and the paired differences of the shared vector to the others.

        The intervals are over photographs. [] for a model that knows no vector.
        """
        if not arm.model.takes_vector:
            return []
        scores, drawn = Scores(), recipe(self.recipe).sample(seeded(20), self.degradations)
        chosen = {field: self.flattest(scenes, field) for field in fields if field != WHOLE}
        for number in track(range(self.degradations), self.degradations, progress, f"{arm.name}, one degradation"):
            self._degradation(arm, scenes, drawn[number], number, chosen, metrics, scores)
        return [_row(arm, field, len(pieces), scores, list(metrics)) for field, pieces in chosen.items()]

    def _degradation(
        self,
        arm: Arm,
        scenes: Scenes,
        degradation: Degradation,
        number: int,
        chosen: Mapping[Field, Sequence[int]],
        metrics: Mapping[str, Score],
        scores: Scores,
    ) -> None:
        """Restores the chosen crops by one degradation."""
        lrs = [
            apply(scenes.hr(index), degradation.reseeded(seeded(number, index, 0, 3))) for index in range(len(scenes))
        ]
        vectors = torch.cat([vector for lr in lrs if (vector := arm.vector(lr)) is not None])
        for field, pieces in chosen.items():
            for index in pieces:
                lr, hr = cut(lrs[index], scenes.hr(index), field)
                others = [scenes.other(index, step) for step in range(1, min(self.pictures + 1, scenes.photos))]
                mean = vectors[torch.tensor(others)].mean(0, keepdim=True)
                alone = arm.vector(lr)
                assert alone is not None
                with torch.no_grad():
                    restored = eight_bits(arm.restore(lr, torch.cat([alone, vectors[index : index + 1], mean])))
                    for metric, score in metrics.items():
                        for name, value in zip(VECTORS, score(restored, hr.expand_as(restored)).tolist(), strict=True):
                            scores.add((field, name), scenes.photo(index), metric, value)


def _row(arm: Arm, field: Field, crops: int, scores: Scores, metrics: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"model": arm.name, "field": field, "crops": crops}
    for metric in metrics:
        mean = scores.mean((field, "crop"), metric)
        found["photographs"] = mean["photographs"]
        found[metric] = {"crop": mean["mean"]} | {
            f"shared - {other}": scores.difference((field, "shared"), (field, other), metric)
            for other in ("crop", "around")
        }
    return found

"""The degradation vectors that the field of a piece of a photograph is restored with."""

from __future__ import annotations

import torch
from torch import Tensor

from stage2.evaluate.degradation.pictures import Field, Pictures
from stage2.evaluate.degradation.restoring import Arm

VECTORS = {
    "own": "of the piece around the field, as restoring does it",
    "crop": "of the field alone",
    "photograph": "of the whole photograph with this degradation",
    "zero": "zeros",
    "mean": "the mean of other photographs' by the same recipe",
    "mean_varied": "the mean of other photographs' by the recipe varied",
    "another": "of another photograph with another degradation (of the recipe; of one of one strength, by varied)",
    "same": "of another photograph with the same degradation",
    "null": "the model's learned null vector",
    "fitted": "one, fitted by gradient to the ground truth of other photographs with the same degradation",
}


def pool(arm: Arm, pictures: Pictures) -> Tensor | None:
    """The vectors of all pieces, (N, D); None of a model that knows none."""
    vectors = [arm.vector(lr) for lr in pictures.lr]
    found = [vector for vector in vectors if vector is not None]
    return torch.cat(found) if found else None


def absent(arm: Arm, name: str, pictures: Pictures) -> str | None:
    """Why a model has no vector called `name` for these pictures; None where it has one."""
    if name == "null" and null_of(arm) is None:
        return "it has no null vector (trained without vector.dropout)"
    if name == "fitted" and not pictures.fixed:
        return "one is fitted to recipes of one strength alone, as blur-2"
    return None


def null_of(arm: Arm) -> Tensor | None:
    """The model's learned null vector (1, D)."""
    null = dict(arm.model.named_parameters()).get("adapter.null")
    return None if null is None else null.detach().float().cpu()[None]


class Choice:
    """The vectors of one model for the pieces of one recipe.

    own: `pool` of these pictures; varied: of the same pieces by the recipe varied. fitted: by field, of even and of odd
    photographs, each fitted to the others.
    """

    def __init__(self, arm: Arm, pictures: Pictures, own: Tensor, varied: Tensor) -> None:
        self.arm, self.pictures, self.own, self.varied = arm, pictures, own, varied
        self.fitted: dict[Field, tuple[Tensor, Tensor]] = {}
        self._seen: dict[tuple[str, int], Tensor | None] = {}
        self._photo = torch.tensor([pictures.scenes.photo(index) for index in range(len(own))])

    def __call__(self, name: str, index: int, lr: Tensor, field: Field) -> Tensor:
        """The vector (1, D) called `name` for piece `index`, whose `field` is LR (1, 3, h, w)."""
        if name in ("own", "zero"):
            own = self.own[index : index + 1]
            return own if name == "own" else torch.zeros_like(own)
        if name in ("mean", "mean_varied"):
            vectors = self.own if name == "mean" else self.varied
            return vectors[self._photo != self._photo[index]].mean(0, keepdim=True)
        if name == "another":
            other = self.pictures.scenes.other(index)
            return (self.varied if self.pictures.fixed else self.own)[other : other + 1]
        if name == "fitted":
            return self.fitted[field][int(self._photo[index]) % 2]
        vector = null_of(self.arm) if name == "null" else self._read(name, index, lr)
        assert vector is not None
        return vector

    def _read(self, name: str, index: int, lr: Tensor) -> Tensor | None:
        """What the model reads of another picture than `own`."""
        if name == "crop":
            return self.arm.vector(lr)
        assert name in ("same", "photograph"), name
        if (name, index) not in self._seen:  # the same in all fields
            picture = self.pictures.same(index) if name == "same" else self.pictures.photograph(index)
            self._seen[name, index] = self.arm.vector(picture)
        return self._seen[name, index]

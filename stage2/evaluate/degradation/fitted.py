"""The bound of the swap test: one vector for a degradation, fitted by gradient to other photographs' ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deedsr.randomness import seeded
from stage2.evaluate.degradation.pictures import Field, cut
from stage2.evaluate.degradation.scores import Score
from stage2.evaluate.degradation.vectors import Choice


@dataclass(frozen=True)
class Fit:
    """pictures: so many are fitted to. steps: of Adam, each on two of them. rate: of the pool's standard deviation."""

    pictures: int = 6
    steps: int = 80
    rate: float = 0.05

    def both(self, choice: Choice, field: Field, score: Score | None) -> tuple[Tensor, Tensor]:
        """A vector (1, D) for even photographs, fitted to odd ones, and the reverse."""
        return self._fitted(choice, field, score, 1), self._fitted(choice, field, score, 0)

    def _fitted(self, choice: Choice, field: Field, score: Score | None, parity: int) -> Tensor:
        """Begins with the mean of the photographs' vectors. Less LPIPS (`score`, if there is one) and L1."""
        scenes = choice.pictures.scenes
        pieces = [index for index in range(len(scenes)) if scenes.photo(index) % 2 == parity]
        pieces = pieces[:: max(1, len(pieces) // self.pictures)][: self.pictures]
        rows = choice.own[torch.tensor(pieces)]
        start, spread = rows.mean(0, keepdim=True), choice.own.std(0, keepdim=True).nan_to_num().clamp_min(1e-6)
        change = torch.zeros_like(start, requires_grad=True)
        optimizer, generator = torch.optim.Adam([change], self.rate), seeded(parity)
        for _ in range(self.steps):
            optimizer.zero_grad()
            for place in torch.randint(len(pieces), (2,), generator=generator).tolist():
                lr, hr = cut(choice.pictures.lr[pieces[place]], scenes.hr(pieces[place]), field)
                output = choice.arm.restore(lr, start + spread * change)
                loss = (output - hr).abs().mean() + (0.0 if score is None else score(output, hr).sum())
                loss.backward()
            optimizer.step()
        return (start + spread * change).detach()

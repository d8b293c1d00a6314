"""The same samples in every step, for what measures steps and does not train."""

from __future__ import annotations

from collections.abc import Sequence

from deedsr.data.batch import Batch
from deedsr.data.photos import Photo
from deedsr.data.stream import Stream
from deedsr.training.photographs import Batches


class Again(Batches):
    """Batches of `samples`, in turn; batch: how many make one, None for all of them once."""

    def __init__(self, samples: Sequence[Batch], batch: int | None = None) -> None:
        super().__init__(batch or len(samples))
        self.samples = samples

    def __len__(self) -> int:
        return self.batch

    @property
    def sources(self) -> Sequence[Photo]:
        return []

    def stream(self, rank: int, ranks: int, start: int) -> Stream:
        return _Samples(self.samples, self.batch, start)


class _Samples(Stream):
    def __init__(self, samples: Sequence[Batch], batch: int, start: int) -> None:
        super().__init__(batch, start)
        self.samples = samples

    def sample(self, step: int, number: int) -> Batch:
        return self.samples[number % len(self.samples)]

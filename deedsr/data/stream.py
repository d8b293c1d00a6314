"""Endless streams of training samples that any step can start from."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from multiprocessing import parent_process
from threading import Thread

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from deedsr.data.batch import Batch


class Stream(IterableDataset[Batch], ABC):
    """Samples without end, `batch` of them to a step, from the step `start` on.

    A sample is a pure function of its step and its number, so a stream that starts later goes on as if it had never
    stopped. Whole batches go to one worker process: the loader's order is the order of the steps.
    """

    def __init__(self, batch: int, start: int = 0) -> None:
        self.batch, self.start = batch, start

    @abstractmethod
    def sample(self, step: int, number: int) -> Batch:
        """Sample `number`, from 0, of the batch of `step`."""

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.start + first
        while True:
            yield from (self.sample(step, number) for number in range(self.batch))
            step += stride

    def loader(self, workers: int, pin_memory: bool = False) -> DataLoader:
        """The stream's batches, made by `workers` processes (0: by this one)."""
        return DataLoader(
            self,
            self.batch,
            collate_fn=Batch.stack,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=deaf,
        )


def deaf(worker: int) -> None:
    """What a worker process does first: signals that come to all processes of a run are for the run alone to heed.

    It ends at the SIGTERM that the run itself sends it: one that nothing ends is waited for without end.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    run = parent_process()  # not os.getppid(), which is the server that Python 3.14 forks workers from
    if run is not None and hasattr(signal, "sigwaitinfo"):  # elsewhere the sender can't be told
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=end_for, args=(run.pid,), daemon=True).start()


def end_for(run: int) -> None:
    """End this process at a SIGTERM of the process `run`, and at no other."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)

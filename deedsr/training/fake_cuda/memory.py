"""What PyTorch's caching allocator would take for the tensors that are alive."""

from __future__ import annotations

import bisect
import weakref

import torch

ROUND = 512
SMALL, SMALL_SEGMENT = 2**20, 2 * 2**20
LARGE, LARGE_SEGMENT = 10 * 2**20, 20 * 2**20
KEPT = 2**20
"""Requests up to `SMALL` share segments of `SMALL_SEGMENT`, up to `LARGE` those of `LARGE_SEGMENT`, larger ones have
one of their own, in whole 2 MiB. Of a large block at most `KEPT` is left unused (c10/cuda/CUDACachingAllocator.cpp)."""


class Block:
    """A part of a segment; its neighbours there."""

    def __init__(self, size: int, small: bool, place: int) -> None:
        self.size, self.small, self.place = size, small, place
        self.before: Block | None = None
        self.after: Block | None = None
        self.free = False

    @property
    def key(self) -> tuple[int, int]:
        return self.size, self.place


class Allocator:
    """Blocks handed out by best fit. allocated, reserved: bytes now; peak_allocated, peak_reserved: at most.

    total: bytes that the device has; OutOfMemoryError for more.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        self.idle: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self.blocks: dict[int, Block] = {}
        self.held: dict[int, tuple[weakref.ref, Block]] = {}

    def hold(self, storage: torch.UntypedStorage) -> None:
        """Give a storage its block, until it is gone."""
        key, size = storage._cdata, storage.nbytes()
        if key not in self.held and size:
            block = self.take(size)
            self.held[key] = weakref.ref(storage, lambda _: self.release(key)), block

    def release(self, key: int) -> None:
        self.give_back(self.held.pop(key)[1])

    def reset_peak(self) -> None:
        """Start the peaks anew from what is held now, after idle segments are given back."""
        self.trim()
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def trim(self) -> None:
        """Give segments that are wholly idle back, as ``torch.cuda.empty_cache``."""
        for pool in self.idle.values():
            for size, place in list(pool):
                block = self.blocks[place]
                if block.before is None and block.after is None:
                    pool.remove((size, place))
                    del self.blocks[place]
                    self.reserved -= size

    def take(self, size: int) -> Block:
        """A block for `size` bytes."""
        size = -(-size // ROUND) * ROUND
        small = size <= SMALL
        pool = self.idle[small]
        at = bisect.bisect_left(pool, (size, -1))
        if at < len(pool):
            block = self.blocks[pool.pop(at)[1]]
            block.free = False
        else:
            block = self.segment(size, small)
        rest = block.size - size
        if rest >= ROUND if small else rest > KEPT:
            self.split(block, size)
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def segment(self, size: int, small: bool) -> Block:
        whole = SMALL_SEGMENT if small else LARGE_SEGMENT if size < LARGE else -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
        if self.reserved + whole > self.total:
            self.trim()
        if self.reserved + whole > self.total:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {whole} bytes")
        block = Block(whole, small, self.next_place())
        self.blocks[block.place] = block
        self.reserved += whole
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block

    def next_place(self) -> int:
        self.place = getattr(self, "place", 0) + 1
        return self.place

    def split(self, block: Block, size: int) -> None:
        rest = Block(block.size - size, block.small, self.next_place())
        self.blocks[rest.place] = rest
        rest.before, rest.after, block.after = block, block.after, rest
        if rest.after is not None:
            rest.after.before = rest
        block.size = size
        self.idle_now(rest)

    def give_back(self, block: Block) -> None:
        """Free a block, and join it with idle neighbours."""
        self.allocated -= block.size
        for other in (block.before, block.after):
            if other is not None and other.free:
                self.idle[other.small].remove(other.key)
                first, second = (other, block) if other is block.before else (block, other)
                first.size += second.size
                first.after = second.after
                if second.after is not None:
                    second.after.before = first
                del self.blocks[second.place]
                block = first
        self.idle_now(block)

    def idle_now(self, block: Block) -> None:
        block.free = True
        bisect.insort(self.idle[block.small], block.key)

"""The backward pass in Python: PyTorch's own asks the driver for streams, which a machine without a GPU lacks."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor


class Saved:
    """What is kept for the backward pass; gone when the node that took it is done, as in PyTorch's engine."""

    def __init__(self) -> None:
        self.taken: list[list[Tensor]] = []

    def keep(self, tensor: Tensor) -> list[Tensor]:
        return [tensor]

    def take(self, kept: list[Tensor]) -> Tensor:
        self.taken.append(kept)
        return kept[0]

    def drop(self) -> None:
        for kept in self.taken:
            kept.clear()
        self.taken.clear()


@torch.no_grad()
def backward(roots: Sequence[Tensor], gradients: Sequence[Tensor | None], saved: Saved, keep: bool) -> None:
    """Add the gradients of `roots` to the leaves they depend on.

    keep: whether what is saved stays for another pass.
    """
    waiting = dependencies([root.grad_fn for root in roots])
    arrived: dict[Any, dict[int, Tensor]] = {}
    for root, gradient in zip(roots, gradients, strict=True):
        given = torch.ones_like(root) if gradient is None else gradient
        add(arrived, (root.grad_fn, root.output_nr), given)
    ready = Ready()
    for node in arrived:
        if not waiting[node]:
            ready.put(node)
    while ready.heap:
        node = ready.get()
        given = arrived.pop(node, {})
        if is_leaf(node):
            if given:
                accumulate(node.variable, given.pop(0))
            continue
        results = called(node, [given.pop(place, None) for place in range(len(node._input_metadata))])
        if not keep:
            saved.drop()
        for edge, gradient in zip(node.next_functions, results, strict=False):
            if edge[0] is not None:
                if gradient is not None:
                    add(arrived, edge, gradient)
                waiting[edge[0]] -= 1
                if not waiting[edge[0]]:
                    ready.put(edge[0])
        del results, gradient


class Ready:
    """Nodes that have all their gradients, those first that came last in the forward pass, and leaves before all."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Any]] = []
        self.order = count()

    def put(self, node: Any) -> None:
        rank = float("-inf") if is_leaf(node) else -node._sequence_nr()
        heapq.heappush(self.heap, (rank, next(self.order), node))

    def get(self) -> Any:
        return heapq.heappop(self.heap)[2]


def is_leaf(node: Any) -> bool:
    return node.name().endswith("AccumulateGrad")


def dependencies(roots: Sequence[Any]) -> Counter:
    """How many nodes each node waits for."""
    waiting: Counter = Counter()
    seen, todo = set(roots), list(roots)
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None:
                waiting[node] += 1
                if node not in seen:
                    seen.add(node)
                    todo.append(node)
    return waiting


def called(node: Any, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    results = node.apply(*gradients) if hasattr(node, "apply") else node(*gradients)
    return results if isinstance(results, tuple) else (results,)


def add(arrived: dict[Any, dict[int, Tensor]], edge: tuple[Any, int], gradient: Tensor) -> None:
    """Add up what arrives at an input of a node, in its shape and dtype."""
    node, place = edge
    expected = node._input_metadata[place]
    if gradient.device != expected.device:
        raise RuntimeError(f"{node.name()}: a gradient on {gradient.device} for a tensor on {expected.device}")
    gradient = gradient.sum_to_size(tuple(expected.shape)).to(expected.dtype)
    there = arrived.setdefault(node, {})
    there[place] = there[place] + gradient if place in there else gradient


def accumulate(variable: Tensor, gradient: Tensor) -> None:
    if variable.grad is None:
        variable.grad = gradient.detach()
    else:
        variable.grad.add_(gradient)

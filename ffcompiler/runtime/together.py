"""Blocks of a chain that are alike, computed in one call: their weights and what they read stacked (docs/chains.md)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..alike import LEAST, Shared, as_one
from ..graph import Graph, Node, TensorType, Value
from .blocks import Env
from .graphs import GraphCall, graph_call
from .lift.lifted import Lifted
from .lift.lifting import in_layout
from .lift.window import Window, results_of
from .watch import Watch

Look = Callable[[str], Tensor]
"""What stands under a key: a weight, something made before the blocks, or the value of a block."""


@dataclass(frozen=True, slots=True)
class Column:
    """What the blocks read in one place, by block; ``stack`` names all of it, if it is there before any block is."""

    place: str
    keys: tuple[str, ...]
    stack: str | None


@dataclass(frozen=True, slots=True)
class Together:
    """``made(..)``: the values of some of ``blocks`` at once. Threads may share it."""

    blocks: tuple[int, ...]
    columns: tuple[Column, ...]
    same: Mapping[str, str]  # the places in which all blocks read the same, with its key
    ahead: GraphCall  # what is computed of these alone
    lifted: Lifted
    types: tuple[TensorType, ...]  # of what each block hands on

    @property
    def exact(self) -> bool:
        """Whether each block is given the bits that it has alone."""
        return self.lifted.exact

    @property
    def possible(self) -> bool:
        """Whether every operator can be evaluated for several blocks at once."""
        return not self.lifted.unlifted

    def stacks(self, env: Env) -> dict[str, Tensor]:
        """What the blocks read that no block makes, stacked: once per run."""
        return {c.stack: torch.stack([env[key] for key in c.keys]) for c in self.columns if c.stack is not None}

    def among(self, lo: int, hi: int) -> tuple[int, int]:
        """Which of the blocks are in the window ``lo .. hi - 1``: from which to before which of them."""
        return bisect_left(self.blocks, lo), bisect_left(self.blocks, hi)

    def made(self, env: Env, look: Look, lo: int, hi: int, watch: Watch | None = None) -> dict[int, tuple[Tensor, ...]]:
        """For each of the blocks in the window its new values, laid out as its own calls would; none of a single one.

        ``env`` holds the `stacks`.
        """
        a, b = self.among(lo, hi)
        if b - a < LEAST:
            return {}
        given = {c.place: _rows(c, env, look, a, b) for c in self.columns}
        shared = self.ahead.extend({place: look(key) for place, key in self.same.items()})
        values = self.lifted(Window(a, b, shared, False, given, watch=watch))
        parts = [in_layout(t, kind).unbind(0) for t, kind in zip(values, self.types, strict=True)]
        return dict(zip(self.blocks[a:b], zip(*parts, strict=True), strict=True))


def _rows(column: Column, env: Env, look: Look, a: int, b: int) -> Tensor:
    if column.stack is not None:
        return env[column.stack][a:b]
    return torch.stack([look(key) for key in column.keys[a:b]])


def make_together(
    graphs: Sequence[Graph], numbers: tuple[int, ...], device: torch.device, made: frozenset[str]
) -> Together:
    """The blocks of these numbers, which are alike. ``made``: the keys of what blocks hand on."""
    shared = as_one(graphs, numbers)
    columns, same = [], {}
    for place, keys in zip(shared.places, shared.columns, strict=True):
        if len(set(keys)) == 1:
            same[place.name] = keys[0]
        else:
            stack = None if any(key in made for key in keys) else f"{place.name} of {numbers[0]}"
            columns.append(Column(place.name, keys, stack))
    ahead, lifted, types = _compiled(shared, tuple(same), len(numbers), device)
    return Together(numbers, tuple(columns), same, ahead, lifted, types)


@lru_cache(maxsize=256)
def _compiled(
    shared: Shared, same: tuple[str, ...], count: int, device: torch.device
) -> tuple[GraphCall, Lifted, tuple[TensorType, ...]]:
    """Once for all runners of a plan: each rule is tried on samples."""
    graph = shared.graph
    given = {place.name: place.type for place in shared.places if place.name not in same}
    varying, of_same, rest = set(given), list[Node](), list[Node]()
    for node in graph.nodes:
        differs = any(ref.name in varying for ref in node.refs())
        varying |= {node.name} if differs else set()
        (rest if differs else of_same).append(node)
    types = {ref: kind for node in graph.nodes for ref, kind in results_of(node)}
    read = dict.fromkeys(ref for node in rest for ref in node.refs()) | dict.fromkeys(graph.outputs)
    early = {node.name for node in of_same}
    handed = tuple(ref for ref in read if ref.name in early)
    ahead = graph_call(Graph(graph.inputs, tuple(of_same), handed), device)
    known = (*graph.inputs, *(Value(ref.key, types[ref]) for ref in handed))
    lifted = Lifted(Graph(known, tuple(rest), graph.outputs), (), device, count, given)
    return ahead, lifted, tuple(types[ref] for ref in graph.outputs)

"""The steps of a loop, one after the other, by the recorded calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from ..graph import Graph, Node, Ref
from ..graph import Step as StepNumber
from ..program import Loop, Recurrence
from .graphs import GraphCall, graph_call
from .plain import plain

Step = Callable[[Sequence[Tensor], int], tuple[Tensor, ...]]
"""From a state and a step's position to the next state, then what the step leaves besides."""
SPARSE = 4
"""Where steps read fewer than one slice in so many of a tensor, only those are taken."""


@dataclass(frozen=True, slots=True)
class Row:
    """What each step reads of a tensor: ``tensor.select(dim, places[k])``."""

    name: str
    tensor: str
    dim: int
    places: Sequence[int]

    def at(self, env: Mapping[str, Tensor], k: int) -> Tensor:
        """Of one step."""
        return env[self.tensor].select(self.dim, self.places[k])

    def views(self, env: Mapping[str, Tensor], start: int, stop: int) -> Sequence[Tensor]:
        """Of all steps from ``start`` on, before ``stop``, made in one call: the same views."""
        tensor = env[self.tensor]
        size = tensor.shape[self.dim]
        places = [place + size if place < 0 else place for place in self.places[start:stop]]
        lo, hi = min(places, default=0), max(places, default=-1) + 1
        if hi - lo > SPARSE * len(places) or hi > size or lo < 0:  # `select` says what is out of range
            return [tensor.select(self.dim, place) for place in self.places[start:stop]]
        views = tensor.narrow(self.dim, lo, hi - lo).unbind(self.dim)
        return [views[place - lo] for place in places]


@dataclass(frozen=True, slots=True)
class Steps:
    """The body of a loop compiled for one device; of a recurrence, what is computed ahead belongs to the step again.

    Its inputs are the state, then ``rows``, then what is the same in all steps, then numbers.
    """

    loop: Loop | Recurrence
    call: GraphCall
    device: torch.device
    rows: tuple[Row, ...]
    order: tuple[int, ...]  # where each output of the body stands among those of the call

    def _fixed(self, env: Mapping[str, Tensor]) -> list[Tensor]:
        return [env[name] for name in self.call.inputs[len(self.loop.carry) + len(self.rows) :]]

    def bind(self, env: Mapping[str, Tensor]) -> Step:
        """One step as a function: of a run of them `run` makes less work."""
        function, rows, fixed, picked = self.call.function, self.rows, self._fixed(env), _picked(self.order)
        tables = [self.loop.tables[table] for table in self.call.tables]

        def step(state: Sequence[Tensor], k: int) -> tuple[Tensor, ...]:
            given = [row.at(env, k) for row in rows]
            return picked(function(*state, *given, *fixed, *[table[k] for table in tables]))

        return step

    def finish(
        self, env: Mapping[str, Tensor], state: tuple[Tensor, ...], kept: tuple[Tensor, ...] = (), done: int = 0
    ) -> tuple[Tensor, ...]:
        """The last state, then what all steps collected, after the first ``done`` steps have led to ``state``.

        ``kept``: what those collected, ``[done, *shape]``.
        """
        loop = self.loop
        state, rest = self.run(env, state, done, loop.hi - loop.lo)
        if not loop.collected:
            return state
        if not kept and not rest:  # of no step at all
            kinds = [(value.type.shape, getattr(torch, value.type.dtype)) for value in loop.collected]
            return (*state, *(torch.zeros(shape, dtype=dtype, device=self.device) for shape, dtype in kinds))
        if not kept or not rest:
            return (*state, *(rest or kept))
        return (*state, *(torch.cat([a, b]) for a, b in zip(kept, rest, strict=True)))

    def run(
        self, env: Mapping[str, Tensor], state: tuple[Tensor, ...], start: int, stop: int
    ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """The state after the steps from ``start`` on, before ``stop``, and what each collected: none of no step."""
        function, fixed, size = self.call.function, self._fixed(env), len(self.loop.carry)
        state_of, left_of, collects = _picked(self.order[:size]), _picked(self.order[size:]), bool(self.loop.collected)
        left: list[tuple[Tensor, ...]] = []
        rows = [row.views(env, start, stop) for row in self.rows]
        tables = [self.loop.tables[table][start:stop] for table in self.call.tables]
        for given, numbers in zip(_columns(rows, stop - start), _columns(tables, stop - start), strict=True):
            made = function(*state, *given, *fixed, *numbers)
            state = state_of(made)
            if collects:
                left.append(left_of(made))
        return state, [torch.stack(column) for column in zip(*left, strict=True)]


def _columns(rows: Sequence[Sequence[Any]], count: int) -> Iterator[tuple[Any, ...]]:
    return zip(*rows, strict=True) if rows else repeat((), count)


def make_steps(loop: Loop | Recurrence, device: torch.device) -> Steps:
    """What running the steps of ``loop`` needs."""
    nodes = (*(loop.ahead.nodes if isinstance(loop, Recurrence) else ()), *loop.body.nodes)
    carry = [value.name for value in loop.carry]
    stacked = [Row(each.value.name, each.stack.key, 0, range(loop.hi - loop.lo)) for each in loop.inputs]
    changing = {*carry, *(row.name for row in stacked), *(node.name for node in nodes)}
    taken = {node.name: row for node in nodes if (row := _row(node, loop, changing)) is not None}
    rows = (*stacked, *taken.values())
    graph = Graph((), tuple(node for node in nodes if node.name not in taken), loop.body.outputs)
    call = graph_call(graph, device, how=plain, first=[*carry, *(row.name for row in rows)])
    return Steps(loop, call, device, rows, tuple(call.outputs.index(ref) for ref in loop.body.outputs))


def _row(node: Node, loop: Loop | Recurrence, changing: set[str]) -> Row | None:
    """A slice of what is the same in all steps, at a place of the step's own; None of other nodes."""
    if node.op != "aten.select.int" or node.kwargs or len(node.args) != 3:
        return None
    tensor, dim, place = node.args
    if not isinstance(tensor, Ref) or tensor.name in changing or not isinstance(dim, int):
        return None
    places = loop.tables[place.table] if isinstance(place, StepNumber) else ()
    whole = [number for number in places if isinstance(number, int)]
    return Row(node.name, tensor.key, dim, whole) if whole and len(whole) == len(places) else None


def _picked(places: Sequence[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """The entries of a tuple at these places."""
    if all(b == a + 1 for a, b in pairwise(places)):
        return itemgetter(slice(places[0], places[-1] + 1) if places else slice(0))
    return itemgetter(*places)

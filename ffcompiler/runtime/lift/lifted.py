"""A graph that runs once per step, evaluated for many steps at once.

A value of the graph is *lifted*: one tensor ``[steps, *shape at one step]``. What each step is handed, and the state
that it is given, are lifted values already; everything else that the graph reads is shared by all steps.

Two ways (design: docs/exactness.md). To *solve*, every operator is lifted. To *certify*, an operator is lifted only if
it moves elements, compares, or is correctly rounded; any other is evaluated step by step at the shapes and strides that
the author's own code has, because its rounding may depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...graph import Graph, Node, Ref, TensorType
from ...program import Tables
from ..graphs import elements_by_node
from ..watch import Pace, look
from .checks import operands
from .lifting import Lifting
from .window import Rule, Values, Window, results_of

LIFTED_BYTES = 2**26
"""Steps are evaluated in runs such that no lifted value is larger than this."""


@dataclass(frozen=True, slots=True)
class _Lift:
    """How one node is evaluated: ``rule`` gives its results, ``keys`` where they go."""

    name: str
    keys: tuple[str, ...]
    rule: Rule


class Lifted:
    """``lifted(window)``: the outputs of ``graph`` at every step of the window, each ``[steps, *shape]``.

    ``given`` are the types at one step of what is lifted already.
    """

    def __init__(
        self, graph: Graph, tables: Tables, device: torch.device, steps: int, given: Mapping[str, TensorType]
    ) -> None:
        self._graph = graph
        lifting = Lifting(graph, tables, device, steps, given)
        lifts = [_Lift(n.name, tuple(ref.key for ref, _ in results_of(n)), lifting.rule(n)) for n in graph.nodes]
        self.inexact: Sequence[Node] = lifting.inexact
        """Operators that a certificate evaluates step by step."""
        self.unlifted: Sequence[Node] = lifting.unlifted
        """Operators that can be evaluated step by step only."""
        self.uneven: Sequence[Node] = lifting.uneven
        """Those of them that cannot be evaluated here at all."""
        self._lifts = self._unread_left_out(lifts, frozenset(lifting.gathers))
        self._dropped = self._read_last()
        self._width = max(1, LIFTED_BYTES // self._step_bytes())
        elements = {node.name: count for node, count in elements_by_node(graph, given)}
        self._elements = [elements[lift.name] for lift in self._lifts]  # at one step
        self._looks: dict[int, tuple[bool, ...]] = {}

    @property
    def exact(self) -> bool:
        """Whether no operator rounds by shape, so that lifted values have the bits of single steps."""
        return not self.inexact and not self.unlifted

    def __call__(self, window: Window) -> tuple[Tensor, ...]:
        steps = range(window.lo, window.hi, window.every)
        if len(steps) <= self._width:
            return self._evaluate(window)
        parts = []
        for first in range(0, len(steps), self._width):
            some = steps[first : first + self._width]
            given = {key: t[first : first + len(some)] for key, t in window.given.items()}
            parts.append(self._evaluate(replace(window, lo=some[0], hi=some[-1] + 1, given=given)))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _evaluate(self, window: Window) -> tuple[Tensor, ...]:
        values: Values = dict(window.given)
        for lift, dropped, due in zip(self._lifts, self._dropped, self._due(window), strict=True):
            result = lift.rule(window, values)
            if len(lift.keys) == 1:
                values[lift.keys[0]] = result
            else:
                values.update(zip(lift.keys, result, strict=True))
            for key in dropped:
                values.pop(key, None)
            if due:
                look(window.watch)
        return tuple(self._output(ref, window, values) for ref in self._graph.outputs)

    def _due(self, window: Window) -> tuple[bool, ...]:
        """After which lifts there is a look at the watch: by how many steps they are for, to the power of two."""
        steps = 1 << window.count.bit_length() if window.watch is not None else 0
        if steps not in self._looks:
            pace = Pace()
            due = [bool(steps) and pace.due(steps * count) for count in self._elements[:-1]]
            self._looks[steps] = (*due, *[False] * (len(self._elements) - len(due)))
        return self._looks[steps]

    def _output(self, ref: Ref, window: Window, values: Values) -> Tensor:
        if ref.key in values:
            return values[ref.key]
        value = window.shared[ref.key]  # the same at every step
        return value.expand(window.count, *value.shape)

    def _step_bytes(self) -> int:
        """Bytes of the largest value of one step."""
        sizes = [torch.Size(kind.shape).numel() for node in self._graph.nodes for _, kind in results_of(node)]
        return 8 * max(sizes, default=1) or 1

    def _unread_left_out(self, lifts: list[_Lift], gathers: frozenset[str]) -> list[_Lift]:
        """Leave out what only a chain of selects passes through: the chain reads the shared value itself."""
        read = {ref.name for ref in self._graph.outputs}
        kept = []
        nodes = {node.name: node for node in self._graph.nodes}
        for lift in reversed(lifts):
            if lift.name in read:
                kept.append(lift)
                read |= set() if lift.name in gathers else {ref.name for ref in nodes[lift.name].refs()}
        return kept[::-1]

    def _read_last(self) -> list[tuple[str, ...]]:
        """For each lift the values that no later one reads: memory that is let go at once serves the next operator."""
        nodes = {node.name: node for node in self._graph.nodes}
        later = {ref.key for ref in self._graph.outputs}
        dropped = []
        for lift in reversed(self._lifts):
            own = {*operands(nodes[lift.name]), *lift.keys}
            dropped.append(tuple(own - later))
            later |= own
        return dropped[::-1]

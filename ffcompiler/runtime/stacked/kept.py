"""What the levels of a stack keep for later ones: new states, and what layers further on read of the same step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ...graph import Node, Ref, TensorType
from ...program import Recurrence
from ...stacks import Stack
from ..lift.window import results_of

Item: TypeAlias = tuple[Ref, int]
"""A value as a layer reads it: of the step that this layer is at."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A value that later levels read: of one member as it is, of several a pack.

    ``leaves``: for each member which carried value it is the new one of, if it is that of one.
    """

    members: tuple[Item, ...]
    leaves: tuple[int | None, ...]
    kind: TensorType  # of one

    @property
    def packed(self) -> bool:
        return len(self.members) > 1


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a loop with its layers.

    ``nodes``: by name the operators that the next state needs; ``types``: by key those of all values; ``stepped``:
    names of what is known ahead, for each step.
    """

    loop: Recurrence
    stack: Stack
    nodes: Mapping[str, Node]
    types: dict[str, TensorType]
    stepped: frozenset[str]

    @staticmethod
    def of(loop: Recurrence, stack: Stack) -> Body:
        """That of ``loop``."""
        graphs = (loop.invariant, loop.ahead, loop.body)
        types = {value.name: value.type for graph in graphs for value in graph.inputs}
        types |= {ref.key: kind for graph in graphs for node in graph.nodes for ref, kind in results_of(node)}
        types |= {given.value.name: given.value.type for given in loop.inputs}
        stepped = frozenset({*(v.value.name for v in loop.inputs), *(ref.name for ref in loop.ahead.outputs)})
        nodes = {node.name: node for node in loop.body.nodes if node.name in stack.stages}
        return Body(loop, stack, nodes, types, stepped)


Found: TypeAlias = list[tuple[Item, int | None]]
"""Values, and which carried one each is the new one of."""


def kept_of(body: Body, together: bool) -> tuple[Kept, ...]:
    """All that is kept; ``together``: in packs of what is alike."""
    new = _new_states(body)
    return (*_families(body, new, together), *_families(body, _crossing(body, new), together))


def _new_states(body: Body) -> Found:
    both = zip(body.loop.carry, body.loop.body.outputs, strict=False)
    return [((ref, body.stack.stages[value.name]), k) for k, (value, ref) in enumerate(both)]


def _crossing(body: Body, new: Found) -> Found:
    """Other values that layers further on read in the same step."""
    stages, states = body.stack.stages, [item for item, _ in new]
    readers = [(ref, stages[node.name]) for node in body.nodes.values() for ref in node.refs()]
    found = dict.fromkeys(
        (ref, stages[ref.name])
        for ref, stage in (*readers, *states)
        if ref.name in body.nodes and stages[ref.name] < stage
    )
    return [(item, None) for item in found if item not in set(states)]


def _families(body: Body, found: Found, together: bool) -> list[Kept]:
    """Those of the same operator and shape together, one of each layer in a pack, the first of each first."""
    if not together:
        return [_kept(body, [one]) for one in found]
    groups: dict[tuple[object, ...], Found] = {}
    seen: dict[tuple[object, ...], int] = {}
    for item, leaf in sorted(found, key=lambda one: one[0][1]):
        (ref, stage), kind = item, body.types[item[0].key]
        node = body.nodes.get(ref.name)
        like = (node.op if node else "", ref.output, kind.dtype, kind.shape)
        nth = seen[like, stage] = seen.get((like, stage), -1) + 1
        groups.setdefault((like, nth), []).append((item, leaf))
    return [_kept(body, group) for group in groups.values()]


def _kept(body: Body, group: Sequence[tuple[Item, int | None]]) -> Kept:
    items = tuple(item for item, _ in group)
    return Kept(items, tuple(leaf for _, leaf in group), body.types[items[0][0].key])

"""The layers of a recurrence: parts of its state that follow one after the other within a step.

Layer ``l`` of a stack reads its own old state, and what layer ``l - 1`` makes in the same step. So block (t, l) waits
for (t, l - 1) and (t - 1, l) only, and blocks of one *level* ``t + l`` wait for none of each other: T steps of D layers
have T + D - 1 levels (docs/stacks.md). No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import networkx as nx

from .graph import Graph, Node, Ref, TensorType, Value
from .ops import OPS, Numerics
from .program import Recurrence

ONE_LAYER = (
    "wavefront: the state of this loop is one layer, all of which waits for the whole step before, so there are no "
    "levels to go through; e.g. jacobi, or sequential"
)


@dataclass(frozen=True, slots=True)
class Stack:
    """``depth`` layers. ``stages``: for each operator of the body by name, and each value that is carried, the layer.

    Legal: what an operator of layer ``s`` reads, in the same step or of the one before, belongs to a layer up to ``s``.
    """

    depth: int
    stages: Mapping[str, int]

    def levels(self, steps: int) -> int:
        """Of so many steps."""
        return steps + self.depth - 1 if steps else 0


def stack_of(loop: Recurrence) -> Stack:
    """The layers of ``loop``, as many as there can be: what waits for itself from step to step is one.

    A layer is a cycle of what reads what, a new value being read as the old one in the next step. Layers stand as deep
    as there are others before them; what belongs to none, such as a product with the layer below, is computed where
    it is read first.
    """
    flow = _flow(loop)
    parts = nx.condensation(flow)
    order = list(nx.topological_sort(parts))
    cycles = {part for part in order if _is_cycle(flow, parts.nodes[part]["members"])}
    before: dict[int, int] = {}  # layers on the longest way to a part, its own among them
    for part in order:
        before[part] = max((before[p] for p in parts.predecessors(part)), default=0) + (part in cycles)
    stage = {part: max(before[part] - 1, 0) for part in order}
    for part in reversed(order):
        if part not in cycles:
            stage[part] = min((stage[p] for p in parts.successors(part)), default=stage[part])
    stages = {name: stage[part] for part in order for name in parts.nodes[part]["members"]}
    return Stack(max(before.values(), default=0), stages)


def _is_cycle(flow: nx.DiGraph[str], members: set[str]) -> bool:
    return len(members) > 1 or any(flow.has_edge(name, name) for name in members)


def _flow(loop: Recurrence) -> nx.DiGraph[str]:
    """What reads what, over the operators that the next state needs; a carried value reads its new one."""
    carry = {value.name for value in loop.carry}
    following = loop.body.outputs[: len(loop.carry)]
    needed = {ref.name for ref in following}
    flow: nx.DiGraph[str] = nx.DiGraph()
    flow.add_nodes_from(carry)
    nodes = {node.name: node for node in loop.body.nodes}
    for node in reversed(loop.body.nodes):
        if node.name in needed:
            needed |= {ref.name for ref in node.refs()}
            flow.add_edges_from((ref.name, node.name) for ref in node.refs() if ref.name in nodes or ref.name in carry)
            flow.add_node(node.name)
    both = zip(loop.carry, following, strict=True)
    flow.add_edges_from((ref.name, value.name) for value, ref in both if ref.name in flow)
    return flow


# ---------------------------------------------------------------------------------------------------- other forms


def in_the_loop(loop: Recurrence) -> Recurrence:
    """The same with nothing computed ahead: each step makes all of its own calls."""
    given = {value.value.name: value.value for value in loop.inputs}
    outside = {value.name: value for graph in (loop.ahead, loop.body) for value in graph.inputs} | given
    body = _graph((*loop.ahead.nodes, *loop.body.nodes), loop.body.outputs, outside)
    return replace(loop, ahead=Graph((), (), ()), body=body)


def parts_sunk(loop: Recurrence) -> Recurrence:
    """The same with the body taking parts of what is computed ahead by itself.

    A stack's first layer has its product with the input ahead of the loop. Handed to it whole, it stands where the
    other layers have their own product, and all take the same parts of it.
    """
    made = {node.name: node for node in loop.ahead.nodes}
    read_ahead = {ref.name for node in loop.ahead.nodes for ref in node.refs()}
    sunk = [node for node in loop.ahead.nodes if node.name not in read_ahead and _is_part(node, made)]
    if not sunk:
        return loop
    names = {node.name for node in sunk}
    kept = (ref for ref in loop.ahead.outputs if ref.name not in names)
    handed = dict.fromkeys((*kept, *(ref for node in sunk for ref in node.refs())))
    stay = tuple(node for node in loop.ahead.nodes if node.name not in names)
    outside = {value.name: value for graph in (loop.ahead, loop.body) for value in graph.inputs}
    ahead = _graph(stay, tuple(handed), outside)
    outside |= {name: Value(name, _type(node)) for name, node in made.items() if any(node.types)}
    return replace(loop, ahead=ahead, body=_graph((*sunk, *loop.body.nodes), loop.body.outputs, outside))


def _is_part(node: Node, made: Mapping[str, Node]) -> bool:
    """Whether it takes a part of one new value: what is itself a part of a larger one is not kept for every step."""
    of = [made.get(ref.name) for ref in node.refs()]
    if len(of) != 1 or of[0] is None or any(node.steps()):
        return False
    return OPS[node.op].numerics is Numerics.MOVE and OPS[of[0].op].numerics is not Numerics.MOVE


def _type(node: Node) -> TensorType:
    return next(kind for kind in node.types if kind is not None)


def _graph(nodes: tuple[Node, ...], outputs: tuple[Ref, ...], outside: Mapping[str, Value]) -> Graph:
    """A graph of these nodes that lists what it reads."""
    own = {node.name for node in nodes}
    names = dict.fromkeys(ref.name for ref in _reads(nodes, outputs) if ref.name not in own)
    return Graph(tuple(outside[name] for name in names), nodes, outputs)


def _reads(nodes: tuple[Node, ...], outputs: tuple[Ref, ...]) -> Iterator[Ref]:
    for node in nodes:
        yield from node.refs()
    yield from outputs

"""See a loop as a recurrence: its whole state after a step is one block, computed from the block before it.

before:  Program(loop=Loop(body))
after:   Program(loop=Recurrence(invariant, ahead, body)), or a `Refusal` that says why sweeps may not run it

    invariant   reads neither state nor step: once per call
    ahead       reads the step, not the state: for all steps at once, once per call (``W_x x_t`` is one product)
    body        the rest: the next state from the last one

Every step of the loop runs every operator, so that moving one out of the loop makes no call that the loop would not
make. Nothing has to be proved of what depends on what: a step reads the state before it, and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import networkx as nx

from ..graph import Graph, Node, Ref, TensorType, Value
from ..program import Loop, Program, Recurrence
from ..proof import Refusal
from .dependence import kills
from .partition import data_flow

MAX_BYTES = 2**30
"""What a run may hold of all steps at once: their states, and what is computed ahead."""


def recurrence(program: Program, device: str = "cpu") -> Program | Refusal:
    """``program`` with its loop as a recurrence, to be swept on that kind of device."""
    loop = program.loop
    if not isinstance(loop, Loop):
        return program
    if not loop.carry:
        return Refusal("the loop carries no state from step to step; there is nothing to solve")
    split = _split(loop)
    killer = next((node for node in split.body.nodes if deadly(node, device)), None)
    if killer is not None:
        return Refusal(
            f"{killer.op} at {killer.source} reads the loop's state; values that never occur in it, but may occur "
            "in a sweep, can end the process there\n  move it out of the loop, or use floating-point division"
        )
    size = held_bytes(split)
    if size > MAX_BYTES:
        return Refusal(
            f"the states of all {split.blocks} steps, and what is computed ahead of them, take {size / 2**20:.0f} MiB; "
            f"sweeps hold at most {MAX_BYTES / 2**20:.0f} MiB"
        )
    return replace(program, loop=split)


def held_bytes(loop: Recurrence) -> int:
    """Bytes of the states of all steps and of what is computed ahead of them."""
    types = {node.name: node.types for node in loop.ahead.nodes}
    ahead = [types[ref.name][ref.output or 0] for ref in loop.ahead.outputs if ref.name in types]
    kinds = [*(value.type for value in loop.carry), *filter(None, ahead)]
    return loop.blocks * sum(_bytes(kind) for kind in kinds)


def _bytes(kind: TensorType) -> int:
    width = {"8": 1, "16": 2, "32": 4, "64": 8, "complex64": 8, "complex128": 16}
    size = next((width[end] for end in sorted(width, key=len, reverse=True) if kind.dtype.endswith(end)), 1)
    return size * [*accumulate(kind.shape, int.__mul__, initial=1)][-1]


def deadly(node: Node, device: str) -> bool:
    """Whether bad values can end the process: a plain divisor other than 0 and -1 makes integer division safe."""
    if not kills(node, device):
        return False
    divisor = node.args[1] if len(node.args) > 1 else None
    plain = type(divisor) is int and divisor not in (0, -1) and node.op in DIVISIONS_BY_NUMBERS
    return not plain


DIVISIONS_BY_NUMBERS = frozenset(
    f"aten.{name}" for name in "remainder.Scalar fmod.Scalar div.Scalar_mode floor_divide.default".split()
)


def _split(loop: Loop) -> Recurrence:
    """The three graphs, each listing what it reads; the first two hand on what later ones read of them."""
    body = loop.body
    flow = data_flow(body.nodes)
    needed = _with(nx.ancestors, flow, [ref.name for ref in body.outputs])
    numbered = [node.name for node in body.nodes if any(node.steps())]
    on_step = _with(nx.descendants, flow, [*numbered, *(given.value.name for given in loop.inputs)])
    on_state = _with(nx.descendants, flow, [value.name for value in loop.carry])
    kept = [node for node in body.nodes if node.name in needed]
    parts = [
        [node for node in kept if node.name not in on_state and node.name not in on_step],
        [node for node in kept if node.name not in on_state and node.name in on_step],
        [node for node in kept if node.name in on_state],
    ]
    outside = {value.name: value for value in body.inputs}
    invariant, ahead, rest = chained(parts, body.outputs, outside)
    return Recurrence(
        loop.lo,
        loop.hi,
        loop.tables,
        loop.carry,
        loop.init,
        loop.carry_tree,
        invariant,
        ahead,
        rest,
        loop.inputs,
        loop.collected,
    )


def _with(reach: object, flow: nx.DiGraph[str], names: Sequence[str]) -> set[str]:
    """``names`` and all that ``reach`` finds from them."""
    assert callable(reach)
    return set(names).union(*(reach(flow, name) for name in names if name in flow))


def needed(nodes: Sequence[Node], asked: Iterable[Ref]) -> tuple[Node, ...]:
    """Those of ``nodes`` that ``asked`` need."""
    names, kept = {ref.name for ref in asked}, []
    for node in reversed(nodes):
        if node.name in names:
            names |= {ref.name for ref in node.refs()}
            kept.append(node)
    return tuple(reversed(kept))


def chained(parts: Sequence[Sequence[Node]], outputs: tuple[Ref, ...], outside: Mapping[str, Value]) -> list[Graph]:
    """Graphs that run one after the other: each hands on what later ones read of it, the last one ``outputs``."""
    known = dict(outside)
    known |= {n.name: Value(n.name, next(filter(None, n.types))) for part in parts for n in part if any(n.types)}
    graphs: list[Graph] = []
    later = list(outputs)
    for part in reversed(parts):
        own = {node.name for node in part}
        handed = outputs if not graphs else tuple(ref for ref in dict.fromkeys(later) if ref.name in own)
        reads = [*(ref for node in part for ref in node.refs()), *handed]
        names = dict.fromkeys(ref.name for ref in reads if ref.name not in own)
        graphs.append(Graph(tuple(known[name] for name in names), tuple(part), handed))
        later += reads
    return graphs[::-1]

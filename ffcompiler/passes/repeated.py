"""Recognise a loop whose steps are all the same map of its whole state: iterating it is what sweeps would do.

before:  Program(loop=Loop(body)), the body reading neither a step's number nor anything that a step is handed
after:   Program(loop=RepeatedMap(invariant, body)), or a `Refusal` that says why not
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import networkx as nx

from ..graph import Graph, Node, Ref, Value
from ..program import Loop, Program, RepeatedMap
from ..proof import Refusal
from .partition import data_flow


def repeated(program: Program) -> Program | Refusal:
    """``program`` with its loop as a repeated map; what does not depend on the state is computed once per call."""
    loop = program.loop
    if not isinstance(loop, Loop):
        return program
    refusal = _refusal(loop)
    if refusal is not None:
        return refusal
    flow = data_flow(loop.body.nodes)
    ends = [ref.name for ref in loop.body.outputs]
    needed = set(ends).union(*(nx.ancestors(flow, name) for name in ends if name in flow))
    state = [value.name for value in loop.carry]
    moving = set(state).union(*(nx.descendants(flow, name) for name in state if name in flow))
    kept = [node for node in loop.body.nodes if node.name in needed]
    first = [node for node in kept if node.name not in moving]
    rest = [node for node in kept if node.name in moving]
    return replace(program, loop=_split(loop, first, rest))


def _refusal(loop: Loop) -> Refusal | None:
    """Why the steps are not the same map of the state alone, if they are not."""
    if not loop.carry:
        return Refusal("the loop carries no state from step to step; there is nothing to repeat")
    numbered = next((node for node in loop.body.nodes if any(node.steps())), None)
    if numbered is not None:
        return Refusal(f"the steps differ: {numbered.op} at {numbered.source} uses the step's number")
    if loop.inputs:
        return Refusal("the steps differ: each is handed its part of what was made for all of them before the loop")
    if loop.collected:
        return Refusal("the steps leave more than the state, so that what each of them computed is needed")
    return None


def _split(loop: Loop, first: Sequence[Node], rest: Sequence[Node]) -> RepeatedMap:
    """The two graphs, each listing what it reads; the first one hands on what the second one reads of it."""
    made = {node.name: Value(node.name, next(filter(None, node.types))) for node in first}
    reads = [*(ref for node in rest for ref in node.refs()), *loop.body.outputs]
    between = tuple(dict.fromkeys(ref for ref in reads if ref.name in made))
    known = {value.name: value for value in loop.body.inputs} | made
    invariant = Graph(_inputs(first, (), known), tuple(first), between)
    body = Graph(_inputs(rest, loop.body.outputs, known), tuple(rest), loop.body.outputs)
    return RepeatedMap(loop.lo, loop.hi, loop.carry, loop.init, loop.carry_tree, invariant, body)


def _inputs(nodes: Sequence[Node], outputs: Sequence[Ref], known: Mapping[str, Value]) -> tuple[Value, ...]:
    """What is read from outside, by first use."""
    own = {node.name for node in nodes}
    names = [*(ref.name for node in nodes for ref in node.refs()), *(ref.name for ref in outputs)]
    return tuple(known[name] for name in dict.fromkeys(names) if name not in own)

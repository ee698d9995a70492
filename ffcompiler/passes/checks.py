"""Whether sweeps may run a program whose function tests values: each test has to see what the reference saw.

Under ``bits`` it does, of all that a run computes. Under a tolerance what a loop leaves is near to the reference's, and
a test of it may come out otherwise. And where the reference, after a test, would not have gone on, the program does:
what can end the process there is not run at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import networkx as nx

from ..graph import Graph, Node
from ..ops import OPS, Numerics
from ..plan import Equality, Tolerance
from ..program import ArrayLoop, Chain, Check, Program
from ..proof import Refusal
from ..rules.scopes import before_loop, carried_values, left, loop_scopes
from .partition import data_flow
from .recurrence import deadly

TRUTHS = frozenset(f"aten.{name}" for name in "any.default any.dim any.dims all.default all.dim all.dims".split())
"""Reductions that give the same in any order."""


def checks_in_the_way(
    program: Program, equality: Equality, device: str, later: Sequence[Program] = ()
) -> Refusal | None:
    """The first test that sweeps might answer otherwise than the reference; None if there is none.

    ``later``: the programs of what the function does after this part of it.
    """
    near = next(_on_near_values(program, later), None) if isinstance(equality, Tolerance) else None
    if near is not None:
        return Refusal(
            f"the function tests values at {near.source}: within a tolerance they are near to the reference's, and the "
            'test might come out otherwise\n  equality="bits" has no such values; or leave the test out'
        )
    for check, node in _protected(program, device):
        return Refusal(
            f"{node.op} at {node.source} can end the process on bad values, and after its test at {check.source} the "
            "function may not get there\n  test before the loop"
        )
    return None


def _on_near_values(program: Program, later: Sequence[Program]) -> Iterator[Check]:
    early = before_loop(program)
    flow: nx.DiGraph[str] = nx.compose_all([data_flow(graph.nodes) for graph in _graphs(program)])
    chain = isinstance(program.loop, Chain)
    state = {value.name for value in carried_values(program.loop)}
    nodes = {node.name: node for graph in _graphs(program) for node in graph.nodes}
    collected = {value.name for value in program.loop.collected}
    for check in program.checks:
        name = check.value.name
        if name in early:
            continue
        if name in collected:
            name = _left_for(program, name)
            made = _all_before(flow, name)
            alone = isinstance(program.loop, ArrayLoop)  # with each step's own shapes
            if made & state or not (alone or all(_exact(nodes[n]) for n in made if n in nodes)):
                yield check
        elif chain or _all_before(flow, name) & left(program.loop).keys():
            yield check
    yield from (check for program in later for check in program.checks)


def _all_before(flow: nx.DiGraph[str], name: str) -> set[str]:
    return {name} | (nx.ancestors(flow, name) if name in flow else set())


def _graphs(program: Program) -> list[Graph]:
    return [*(scope.graph for scope in loop_scopes(program)), program.epilogue]


def _left_for(program: Program, name: str) -> str:
    """What a step leaves for a value that is collected."""
    loop = program.loop
    last = loop_scopes(program)[-1].graph  # the body, or what is left besides
    place = [value.name for value in loop.collected].index(name)
    return last.outputs[len(last.outputs) - len(loop.collected) + place].name


def _exact(node: Node) -> bool:
    """Whether a node gives the same bits in sweeps."""
    plain = OPS[node.op].numerics in (Numerics.MOVE, Numerics.EXACT, Numerics.CREATE) and not node.kwargs
    return plain or node.op in TRUTHS


def _protected(program: Program, device: str) -> Iterator[tuple[Check, Node]]:
    """Tests, and what can end the process and may come after them."""
    early = before_loop(program)
    loop = [scope.graph for scope in loop_scopes(program)]
    for check in program.checks:
        if check.value.name not in early:
            in_loop = program.tested is not None or isinstance(program.loop, Chain)
            graphs = [*(loop if in_loop else ()), program.epilogue]
            yield from ((check, node) for graph in graphs for node in graph.nodes if deadly(node, device))

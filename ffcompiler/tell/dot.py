"""The program of a plan as DOT text: one cluster for each of its graphs, one box for each operator.

Only the text is made, so no ``dot`` program is needed; any viewer of DOT files draws it.
"""

from __future__ import annotations

from itertools import pairwise

import graphviz

from ..graph import Graph
from ..plan import Plan
from ..program import ArrayLoop, Chain, Program, Recurrence, RepeatedMap


def dot(plan: Plan) -> str:
    """DOT text of the plan's program; of a plan without one, a graph with its refusal as only box.

    Of several parts, each has its clusters, and edges lead from what one hands on to the argument of the next.
    """
    drawing = graphviz.Digraph("plan", node_attr={"shape": "box", "fontname": "monospace"})
    if plan.program is None:
        drawing.node("refusal", graphviz.escape(plan.refusal or ""))
        return str(drawing.source)
    programs = [part.program for part in plan.parts if part.program is not None]
    prefixes = [f"part{k}." if len(programs) > 1 else "" for k in range(1, len(programs) + 1)]
    for program, prefix in zip(programs, prefixes, strict=True):
        _draw(drawing, program, prefix)
    for (program, prefix), (rest, after) in pairwise(zip(programs, prefixes, strict=True)):
        for left, given in zip(program.result.leaves, rest.signature.leaves, strict=True):
            drawing.edge(f"{prefix}{(left.name or '').partition('.')[0]}", f"{after}{given.name}")
    return str(drawing.source)


def _draw(drawing: graphviz.Digraph, program: Program, prefix: str) -> None:
    """The clusters of one program, all names begun with ``prefix``: each part has names of its own."""
    for name, graph in _graphs(program):
        with drawing.subgraph(name=f"cluster_{prefix}{name}") as cluster:
            cluster.attr(label=f"{prefix}{name}")
            for node in graph.nodes:
                cluster.node(f"{prefix}{node.name}", graphviz.escape(f"{node.name} = {node.op}\n{node.source}"))
    for _, graph in _graphs(program):
        for node in graph.nodes:
            drawing.edges((f"{prefix}{ref.name}", f"{prefix}{node.name}") for ref in node.refs())


def _graphs(program: Program) -> list[tuple[str, Graph]]:
    match program.loop:
        case ArrayLoop() as loop:
            inner = [("invariant", loop.invariant), ("shared", loop.shared), ("tail", loop.tail)]
            inner += [("besides", loop.besides)] if loop.collected else []
        case Recurrence() as loop:
            inner = [("invariant", loop.invariant), ("ahead", loop.ahead), ("body", loop.body)]
        case RepeatedMap() as loop:
            inner = [("invariant", loop.invariant), ("body", loop.body)]
        case Chain() as loop:
            inner = [(f"block{k}", graph) for k, graph in enumerate(loop.graphs)]
        case loop:
            inner = [("body", loop.body)]
    return [("prologue", program.prologue), *inner, ("epilogue", program.epilogue)]

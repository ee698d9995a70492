"""The program of a plan as DOT text: one cluster for each of its graphs, one box for each operator.

Only the text is made, so no ``dot`` program is needed; any viewer of DOT files draws it.
"""

from __future__ import annotations

import graphviz

from .graph import Graph
from .plan import Plan
from .program import ArrayLoop, Chain, Program, Recurrence, RepeatedMap


def dot(plan: Plan) -> str:
    """DOT text of the plan's program; of a plan without one, a graph with its refusal as only box."""
    drawing = graphviz.Digraph("plan", node_attr={"shape": "box", "fontname": "monospace"})
    if plan.program is None:
        drawing.node("refusal", graphviz.escape(plan.refusal or ""))
        return str(drawing.source)
    for name, graph in _graphs(plan.program):
        with drawing.subgraph(name=f"cluster_{name}") as cluster:
            cluster.attr(label=name)
            for node in graph.nodes:
                cluster.node(node.name, graphviz.escape(f"{node.name} = {node.op}\n{node.source}"))
    for _, graph in _graphs(plan.program):
        for node in graph.nodes:
            drawing.edges((ref.name, node.name) for ref in node.refs())
    return str(drawing.source)


def _graphs(program: Program) -> list[tuple[str, Graph]]:
    match program.loop:
        case ArrayLoop() as loop:
            inner = [("invariant", loop.invariant), ("shared", loop.shared), ("tail", loop.tail)]
        case Recurrence() as loop:
            inner = [("invariant", loop.invariant), ("ahead", loop.ahead), ("body", loop.body)]
        case RepeatedMap() as loop:
            inner = [("invariant", loop.invariant), ("body", loop.body)]
        case Chain() as loop:
            inner = [(f"block{k}", graph) for k, graph in enumerate(loop.graphs)]
        case loop:
            inner = [("body", loop.body)]
    return [("prologue", program.prologue), *inner, ("epilogue", program.epilogue)]

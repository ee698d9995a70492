"""A `Graph` as a fast callable: torch.fx generates its Python code once; nothing is interpreted per call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..graph import Arg, Graph, Node, Ref, Step, Symbol, SymbolKind, TensorType
from ..ops import OPS
from ..signatures import overload
from .watch import Pace, Watch, look

OVERLOADS: dict[str, Any] = {name: overload(name) for name in OPS}
"""The admitted operators; names from a plan are looked up here and nowhere else."""

_SYMBOLS: dict[Symbol, Any] = {
    **{
        Symbol(SymbolKind.DTYPE, str(d).removeprefix("torch.")): d
        for d in vars(torch).values()
        if isinstance(d, torch.dtype)
    },
    **{
        Symbol(SymbolKind.MEMORY_FORMAT, str(m).removeprefix("torch.")): m
        for m in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
    },
    Symbol(SymbolKind.LAYOUT, "strided"): torch.strided,
}


def symbol_value(symbol: Symbol, device: torch.device) -> Any:
    """The torch constant that a symbol stands for."""
    return device if symbol.kind is SymbolKind.DEVICE else _SYMBOLS[symbol]


def argument(arg: Arg, device: torch.device, value: Mapping[tuple[str, int | None] | int, Any]) -> Any:
    """An argument of a node with references and steps replaced by ``value`` of their key."""
    match arg:
        case Ref(name=name, output=output):
            return value[(name, output)]
        case Step(table=table):
            return value[table]
        case Symbol():
            return symbol_value(arg, device)
        case tuple():
            return [argument(a, device, value) for a in arg]
    return arg


@dataclass(frozen=True, slots=True)
class GraphCall:
    """``call(env)`` adds the outputs of a graph to an environment; ``call.values(env, k, tables)`` gives them.

    ``watched``: its function takes a watch, or None, after all else, and looks at it between operators.
    """

    inputs: tuple[str, ...]
    tables: tuple[int, ...]  # the per-step tables it reads
    outputs: tuple[Ref, ...]
    function: Any
    watched: bool = False

    def values(
        self, env: Mapping[str, Any], numbers: Sequence[int | float] = (), watch: Watch | None = None
    ) -> tuple[Tensor, ...]:
        """The outputs; ``numbers`` are the entries of ``tables`` at the step. Raises: `LeftError`."""
        watches = (watch,) if self.watched else ()
        result: tuple[Tensor, ...] = self.function(*[env[name] for name in self.inputs], *numbers, *watches)
        return result

    def extend(self, env: Mapping[str, Any]) -> dict[str, Any]:
        """``env`` with the outputs added. A result of an operator with several results is kept as ``name.output``."""
        return {**env, **dict(zip((ref.key for ref in self.outputs), self.values(env), strict=True))}


def by_name(node: Node) -> Any:
    """How a node is called: by the overload that it names."""
    return OVERLOADS[node.op]


def graph_call(
    graph: Graph,
    device: torch.device,
    extra: Sequence[Ref] = (),
    how: Callable[[Node], Any] = by_name,
    watched: bool = False,
    first: Sequence[str] = (),
) -> GraphCall:
    """``graph`` compiled for ``device``, giving its outputs and the values in ``extra``; ``how`` calls its nodes.

    ``first``: values from outside that are its first inputs, in this order, whether it reads them or not.
    """
    module, outputs, tables = to_fx(graph, device, extra, how, watched, first)
    return GraphCall(_inputs(graph, first), tables, outputs, module.forward, watched)


def _inputs(graph: Graph, first: Sequence[str]) -> tuple[str, ...]:
    """What a graph reads from outside, by environment key: several-result values are read one by one."""
    own = {node.name for node in graph.nodes}
    return tuple(dict.fromkeys((*first, *(ref.key for ref in _reads(graph) if ref.name not in own))))


def _reads(graph: Graph) -> list[Ref]:
    return [*(ref for node in graph.nodes for ref in node.refs()), *graph.outputs]


def to_fx(
    graph: Graph,
    device: torch.device,
    extra: Sequence[Ref] = (),
    how: Callable[[Node], Any] = by_name,
    watched: bool = False,
    first: Sequence[str] = (),
) -> tuple[fx.GraphModule, tuple[Ref, ...], tuple[int, ...]]:
    """The graph as a torch.fx module, its outputs, and the step tables whose numbers follow its tensor inputs."""
    out = fx.Graph()
    value: dict[Any, Any] = {(name, None): out.placeholder(name) for name in first}
    own = {node.name for node in graph.nodes}
    for ref in _reads(graph):
        if ref.name not in own and (ref.name, ref.output) not in value:
            value[(ref.name, ref.output)] = out.placeholder(ref.key.replace(".", "_"))
    tables = tuple(sorted({step.table for node in graph.nodes for step in node.steps()}))
    for table in tables:
        value[table] = out.placeholder(f"step{table}")
    watch = out.placeholder("watch", default_value=None) if watched else None
    for node in graph.nodes:
        args = tuple(argument(a, device, value) for a in node.args)
        kwargs = {k: argument(v, device, value) for k, v in node.kwargs}
        made = out.call_function(how(node), args, kwargs)
        value[(node.name, None)] = made
        if len(node.types) > 1:
            for index in range(len(node.types)):
                value[(node.name, index)] = out.call_function(operator.getitem, (made, index))
    outputs = tuple(dict.fromkeys((*graph.outputs, *extra)))
    out.output(tuple(value[(r.name, r.output)] for r in outputs))
    out.eliminate_dead_code()
    if watch is not None:
        _add_looks(out, watch, {value[node.name, None]: count for node, count in elements_by_node(graph)})
    return fx.GraphModule(torch.nn.Module(), out), outputs, tables


def elements_by_node(graph: Graph, given: Mapping[str, TensorType] | None = None) -> Iterator[tuple[Node, int]]:
    """How many elements each node works on, as far as types are known: those of its largest operand or result."""
    sizes = {key: torch.Size(kind.shape).numel() for key, kind in (given or {}).items()}
    sizes |= {value.name: torch.Size(value.type.shape).numel() for value in graph.inputs}
    for node in graph.nodes:
        sizes[node.name] = sum(torch.Size(kind.shape).numel() for kind in node.types if kind is not None)
        yield node, max(sizes[node.name], *(sizes.get(ref.name, 0) for ref in node.refs()), 0)


def _add_looks(out: fx.Graph, watch: fx.Node, elements: Mapping[fx.Node, int]) -> None:
    """Calls of `look` between operators, each of which works on so many elements."""
    pace = Pace()
    for node in [node for node in out.nodes if node in elements][:-1]:
        if pace.due(elements[node]):
            with out.inserting_after(node):
                out.call_function(look, (watch,))

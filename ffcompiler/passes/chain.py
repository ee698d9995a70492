"""The chain of a function without a loop: its graph cut at the bottlenecks into blocks (docs/chains.md).

    before:  epilogue = the whole graph, loop = Chain()
    after:   prologue = the stem, loop = Chain of blocks and joints, epilogue = the head

Any cut of a graph into parts, each of which reads earlier ones only, is a triangular system with the graph's own
answer: where `stretches` cuts decides what sweeps can gain, never what is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import networkx as nx

from ..graph import Arg, Graph, Node, Ref, TensorType, Value
from ..program import Chain, Program
from ..proof import Refusal
from .stretches import Kind, Stretch, stretches

LEAST = 3
"""Fewer blocks than this are no chain."""
STEM, HEAD = -1, 2**31
"""In place of the number of a block: the prologue and the epilogue."""
ENDS = {Kind.STEM: STEM, Kind.HEAD: HEAD}
SIZED = ("view", "_unsafe_view", "reshape", "expand", "slice", "new_zeros", "zeros", "ones", "full", "arange")
"""Operators whose whole numbers say how large something is, which blocks of one family may differ in."""


def chain(program: Program) -> Program | Refusal:
    """``program``, whose graph is one, as a chain; or why that has no blocks."""
    graph = program.epilogue
    given = {leaf.name for leaf in program.signature.leaves if leaf.name} | {draw.name for draw in program.draws}
    tests = _only_tested(program)
    untested = Graph(graph.inputs, tuple(node for node in graph.nodes if node.name not in tests), _returned(program))
    found = stretches(untested, frozenset(given))
    blocks = [stretch for stretch in found if stretch.kind not in ENDS]
    if sum(stretch.kind is Kind.BLOCK for stretch in blocks) < LEAST:
        parts = "1 part" if len(blocks) == 1 else f"{len(blocks)} parts that hand on to each other"
        return Refusal(f"as a graph without a loop it is no chain either: it has {parts}, at least {LEAST} are needed")
    return _Cut(program, tuple(found), tuple(blocks), tests).program()


def _returned(program: Program) -> tuple[Ref, ...]:
    names = {leaf.name for leaf in program.result.named}
    return tuple(ref for ref in program.epilogue.outputs if ref.key in names)


def _only_tested(program: Program) -> frozenset[str]:
    """What is computed for tests on values only: no part of what hands on to each other."""
    graph = program.epilogue
    read = {ref.name for ref in _returned(program)} if program.checks else {node.name for node in graph.nodes}
    for node in reversed(graph.nodes):
        if node.name in read:
            read |= {ref.name for ref in node.refs()}
    return frozenset(node.name for node in graph.nodes if node.name not in read)


@dataclass(slots=True)
class _Cut:
    """The graph of ``of`` in parts, and the program that they make."""

    of: Program
    found: tuple[Stretch, ...]
    stretches: tuple[Stretch, ...]  # those that become blocks
    tests: frozenset[str]  # what only tests on values need: before the blocks, if it can be, else after them
    owner: dict[str, int] = field(default_factory=dict)  # by value: the block that computes it
    types: dict[str, TensorType] = field(default_factory=dict)

    def program(self) -> Program:
        self._own()
        graph = self.of.epilogue
        self.types = {value.name: value.type for value in graph.inputs}
        self.types |= {node.name: next(filter(None, node.types)) for node in graph.nodes if any(node.types)}
        parts: dict[int, list[Node]] = {STEM: [], HEAD: [], **{k: [] for k in range(len(self.stretches))}}
        for node in graph.nodes:
            parts[self.owner[node.name]].append(node)
        order = self._order(parts)
        read = self._read_elsewhere(parts)
        blocks = [self._graph(parts[k], read) for k in order]
        joints = tuple(at for at, k in enumerate(order) if self.stretches[k].kind is Kind.JOINT)
        made = Chain(tuple(blocks), families(blocks), joints)
        head = self._graph(parts[HEAD], {}, graph.outputs)
        return replace(self.of, prologue=self._graph(parts[STEM], read), loop=made, epilogue=head)

    def _own(self) -> None:
        """Which part computes what. What needs weights alone belongs to its only reader, or to the stem."""
        numbers = iter(range(len(self.stretches)))
        for stretch in self.found:
            number = ENDS[stretch.kind] if stretch.kind in ENDS else next(numbers)
            self.owner |= dict.fromkeys(stretch.names, number)
        for node in (node for node in self.of.epilogue.nodes if node.name in self.tests):
            early = all(self.owner.get(ref.name, STEM) == STEM for ref in node.refs())
            self.owner[node.name] = STEM if early else HEAD
        readers: dict[str, set[int]] = {}
        for node in reversed(self.of.epilogue.nodes):
            if node.name not in self.owner:
                found = readers.get(node.name, {HEAD})
                self.owner[node.name] = found.pop() if len(found) == 1 else STEM
            for ref in node.refs():
                readers.setdefault(ref.name, set()).add(self.owner[node.name])

    def _order(self, parts: Mapping[int, Sequence[Node]]) -> list[int]:
        """The blocks by depth, those of one depth as they were recorded."""
        reads: nx.DiGraph[int] = nx.DiGraph()
        reads.add_nodes_from(range(len(self.stretches)))
        for k in range(len(self.stretches)):
            sources = {self.owner.get(ref.name, STEM) for node in parts[k] for ref in node.refs()}
            reads.add_edges_from((source, k) for source in sources - {STEM, k})
        return [k for level in nx.topological_generations(reads) for k in sorted(level)]

    def _read_elsewhere(self, parts: Mapping[int, Sequence[Node]]) -> Mapping[Ref, None]:
        """What some other part reads, or the function returns, in order."""
        found = dict[Ref, None].fromkeys(self.of.epilogue.outputs)
        for part, nodes in parts.items():
            found |= {ref: None for node in nodes for ref in node.refs() if self.owner.get(ref.name, part) != part}
        return found

    def _graph(self, nodes: Sequence[Node], read: Mapping[Ref, None], outputs: tuple[Ref, ...] | None = None) -> Graph:
        own = {node.name: at for at, node in enumerate(nodes)}
        if outputs is None:
            made = [ref for ref in read if ref.name in own]
            outputs = tuple(sorted(made, key=lambda ref: (own[ref.name], ref.output or 0)))
        reads = [*(ref for node in nodes for ref in node.refs()), *outputs]
        names = dict.fromkeys(ref.name for ref in reads if ref.name not in own)
        return Graph(tuple(Value(name, self.types[name]) for name in names), tuple(nodes), outputs)


# ---------------------------------------------------------------------------------------------------- families


def families(blocks: Iterable[Graph]) -> tuple[int, ...]:
    """For each block the number of its family, from 0 on: alike up to names, weights, shapes and how many it reads."""
    numbers: dict[object, int] = {}
    return tuple(numbers.setdefault(_form(block), len(numbers)) for block in blocks)


def _form(block: Graph) -> object:
    """The same for all blocks of a family."""
    own = {node.name: at for at, node in enumerate(block.nodes)}
    outputs = tuple((own[ref.name], ref.output) for ref in block.outputs)
    return tuple(_form_of(node, own) for node in block.nodes), outputs


def _form_of(node: Node, own: Mapping[str, int]) -> object:
    sized = node.op.split(".")[1] in SIZED
    args = tuple(_form_of_arg(arg, own, sized) for arg in node.args)
    return node.op, args, tuple((key, _form_of_arg(arg, own, sized)) for key, arg in node.kwargs)


def _form_of_arg(arg: Arg, own: Mapping[str, int], sized: bool) -> object:
    match arg:
        case Ref(name=name, output=output):
            return (own[name], output) if name in own else "outside"
        case tuple():
            parts = tuple(_form_of_arg(part, own, sized) for part in arg)
            if all(part == "outside" for part in parts) and parts:
                return "outside"  # what is concatenated grows from block to block
            return "sizes" if sized else parts
        case bool():
            return arg
        case int() if sized:
            return "size"
        case float():
            return repr(arg)
    return arg

"""A program under other names, so that it can stand beside another one in the same name space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..graph import Arg, Graph, Node, Ref, Step, Value
from ..program import Leaf, Loop, PerStep, Program, WeightKind


def names_beside(first: Program, second: Program) -> dict[str, Ref]:
    """What each name of the second program is in the fused one: what it is given, the same weights, or a new name."""
    results = [leaf.name for leaf in first.result.leaves if leaf.type is not None]
    given = [leaf.name for leaf in second.signature.leaves if leaf.type is not None]
    names = {own: Ref.of(key) for own, key in zip(given, results, strict=True) if own is not None and key is not None}
    known = {weight.path: weight.name for weight in first.weights if weight.kind is not WeightKind.CONSTANT}
    for weight in second.weights:
        if weight.kind is not WeightKind.CONSTANT and weight.path in known:
            names[weight.name] = Ref(known[weight.path])
    taken = set(bound(first))
    for name in bound(second):
        if name not in names:
            names[name] = Ref(fresh(name, taken))
            taken.add(names[name].name)
    return names


def bound(program: Program) -> Iterator[str]:
    """The names that a program binds."""
    loop = program.loop
    assert isinstance(loop, Loop)
    yield from (leaf.name for leaf in program.signature.leaves if leaf.name is not None)
    yield from (weight.name for weight in program.weights)
    yield from (value.name for value in (*loop.carry, *loop.collected))
    yield from (given.value.name for given in loop.inputs)
    for graph in (program.prologue, loop.body, program.epilogue):
        yield from (node.name for node in graph.nodes)


def fresh(name: str, taken: set[str]) -> str:
    """A name that is not taken."""
    return next(new for k in range(2, len(taken) + 3) if (new := f"{name}_{k}") not in taken)


@dataclass(frozen=True, slots=True)
class Renaming:
    names: Mapping[str, Ref]
    tables: int  # so many tables stand before its own

    def ref(self, ref: Ref) -> Ref:
        new = self.names.get(ref.name, ref)
        return new if ref.output is None else Ref(new.name, ref.output)

    def arg(self, arg: Arg) -> Arg:
        match arg:
            case tuple():
                return tuple(map(self.arg, arg))
            case Ref():
                return self.ref(arg)
            case Step(table=table):
                return Step(table + self.tables)
        return arg

    def value(self, value: Value) -> Value:
        return Value(self.names[value.name].name, value.type)

    def reading(self, node: Node) -> Node:
        """The node under its own name."""
        kwargs = tuple((key, self.arg(value)) for key, value in node.kwargs)
        return replace(node, args=tuple(map(self.arg, node.args)), kwargs=kwargs)

    def node(self, node: Node) -> Node:
        return replace(self.reading(node), name=self.names[node.name].name)

    def graph(self, graph: Graph) -> Graph:
        """Its inputs are listed anew where it is put together with others."""
        return Graph((), tuple(map(self.node, graph.nodes)), tuple(map(self.ref, graph.outputs)))

    def leaf(self, leaf: Leaf) -> Leaf:
        return leaf if leaf.name is None else replace(leaf, name=self.ref(Ref.of(leaf.name)).key)

    def program(self, program: Program) -> Program:
        """Its loop, epilogue, results and checks; its arguments and weights are those of the fused one."""
        old = program.loop
        assert isinstance(old, Loop)
        loop = replace(
            old,
            carry=tuple(map(self.value, old.carry)),
            init=tuple(map(self.ref, old.init)),
            body=self.graph(old.body),
            inputs=tuple(PerStep(self.value(given.value), self.ref(given.stack)) for given in old.inputs),
            collected=tuple(map(self.value, old.collected)),
        )
        return replace(
            program,
            weights=tuple(replace(weight, name=self.names[weight.name].name) for weight in program.weights),
            prologue=self.graph(program.prologue),
            loop=loop,
            epilogue=self.graph(program.epilogue),
            result=program.result.mapped(self.leaf),
            checks=tuple(replace(check, value=self.ref(check.value)) for check in program.checks),
        )

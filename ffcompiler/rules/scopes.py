"""What each graph of a program may read, and how a broken rule is told: the ground that the rules stand on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..graph import Graph, Node, Ref, TensorType, Value, contiguous
from ..plan import Plan
from ..program import AnyLoop, ArrayLoop, Chain, Draw, DrawPlace, Loop, Program, Recurrence, RepeatedMap
from ..written.layout import printable

Types = tuple[TensorType | None, ...]  # of the results of one value
Environment = Mapping[str, Types]
NEIGHBOURS = 2  # nodes shown before and after the one at fault


@dataclass(frozen=True)
class Scope:
    """One graph of the program, the values it may read from outside, and whether it is run once per step."""

    name: str
    graph: Graph
    outside: Environment
    per_step: bool = False


@dataclass(frozen=True)
class Fault:
    """What breaks a rule, what to do, and where: a node of a graph, a whole graph, or neither."""

    what: str
    advice: str
    scope: Scope | None = None
    index: int | None = None

    def __str__(self) -> str:
        return "\n  ".join(map(printable, [self.what, *self._place(), self.advice]))

    def _place(self) -> list[str]:
        if self.scope is None:
            return []
        if self.index is None:
            return [f"in {self.scope.name}"]
        nodes = self.scope.graph.nodes
        near = range(max(0, self.index - NEIGHBOURS), min(len(nodes), self.index + NEIGHBOURS + 1))
        lines = [f"{'->' if i == self.index else '  '} {nodes[i]}" for i in near]
        return [f"in {self.scope.name}, node {self.index} of {len(nodes)}:", *lines]


@dataclass(frozen=True)
class Subject:
    """A plan under verification with what most rules need of it."""

    plan: Plan
    program: Program | None
    scopes: tuple[Scope, ...]

    @staticmethod
    def of(plan: Plan) -> Subject:
        return Subject(plan, plan.program, scopes(plan.program) if plan.program else ())

    def nodes(self) -> Iterator[tuple[Scope, int, Node]]:
        for scope in self.scopes:
            for i, node in enumerate(scope.graph.nodes):
                yield scope, i, node


def results(graph: Graph) -> Environment:
    return {node.name: node.types for node in graph.nodes}


def given(program: Program) -> Environment:
    """The arguments, the weights and what is drawn."""
    leaves = {leaf.name: (leaf.type,) for leaf in program.signature.leaves if leaf.name is not None}
    drawn = {draw.name: (_drawn(draw, program.loop),) for draw in program.draws}
    return leaves | {weight.name: (weight.type,) for weight in program.weights} | drawn


def _drawn(draw: Draw, loop: AnyLoop) -> TensorType | None:
    """The type of what a draw leaves in the environment: one value, or those of all steps."""
    one = draw.node.types[0] if draw.node.types else None
    return stacked(one, loop) if one is not None and draw.place is DrawPlace.EACH else one


def stacked(one: TensorType, loop: AnyLoop) -> TensorType:
    """The type of the values of all steps together."""
    shape = (max(loop.hi - loop.lo, 0), *one.shape)
    return TensorType(one.dtype, shape, contiguous(shape))


def before_loop(program: Program) -> Environment:
    return {**given(program), **results(program.prologue)}


def carried_values(loop: AnyLoop) -> tuple[Value, ...]:
    return (loop.carry,) if isinstance(loop, ArrayLoop) else loop.carry


def first_values(loop: AnyLoop) -> tuple[Ref, ...]:
    """What is carried into the first step."""
    return (loop.init,) if isinstance(loop, ArrayLoop) else loop.init


def carried(loop: AnyLoop) -> Environment:
    return {value.name: (value.type,) for value in carried_values(loop)}


def handed(loop: AnyLoop) -> Environment:
    """What each step is handed besides the carry."""
    return {given.value.name: (given.value.type,) for given in loop.inputs}


def handed_on(graph: Graph) -> Environment:
    """The values of a block that others may read."""
    own, names = results(graph), {ref.name for ref in graph.outputs}
    return {name: types for name, types in own.items() if name in names}


def left(loop: AnyLoop) -> Environment:
    """What the loop leaves behind: its final carry, and what its steps collected; of a chain, the blocks' values."""
    if isinstance(loop, Chain):
        return {name: types for graph in loop.graphs for name, types in handed_on(graph).items()}
    return {**carried(loop), **{value.name: (value.type,) for value in loop.collected}}


def after_loop(program: Program) -> Environment:
    """What the epilogue and the results see."""
    return {**before_loop(program), **left(program.loop)}


def scopes(program: Program) -> tuple[Scope, ...]:
    """The graphs of ``program`` in the order in which they first run."""
    first = Scope("prologue", program.prologue, given(program))
    last = Scope("epilogue", program.epilogue, after_loop(program))
    return (first, *_loop_scopes(program.loop, before_loop(program)), last)


def loop_scopes(program: Program) -> tuple[Scope, ...]:
    """The graphs of the loop, in order."""
    return _loop_scopes(program.loop, before_loop(program))


def _loop_scopes(loop: AnyLoop, before: Environment) -> tuple[Scope, ...]:
    each = handed(loop)
    match loop:
        case Loop():
            return (Scope("body", loop.body, {**before, **each, **carried(loop)}, per_step=True),)
        case ArrayLoop():
            shared = {**before, **results(loop.invariant), **carried(loop)}
            tail = {**shared, **each, **results(loop.shared)}
            besides = Scope("besides", loop.besides, {**tail, **results(loop.tail)}, per_step=True)
            return (
                Scope("invariant", loop.invariant, before),
                Scope("shared", loop.shared, shared),
                Scope("tail", loop.tail, tail, per_step=True),
                *([besides] if loop.collected else []),
            )
        case Recurrence():
            ahead = {**before, **results(loop.invariant), **each}
            return (
                Scope("invariant", loop.invariant, before),
                Scope("ahead", loop.ahead, ahead, per_step=True),
                Scope("body", loop.body, {**ahead, **results(loop.ahead), **carried(loop)}, per_step=True),
            )
        case RepeatedMap():
            body = {**before, **results(loop.invariant), **carried(loop)}
            return (Scope("invariant", loop.invariant, before), Scope("body", loop.body, body))
        case Chain():
            return tuple(_block_scopes(loop, before))


def _block_scopes(chain: Chain, before: Environment) -> Iterator[Scope]:
    """One for each block: it sees what those before it hand on."""
    seen = dict(before)
    for k, graph in enumerate(chain.graphs):
        read = {ref.name for ref in (*(ref for node in graph.nodes for ref in node.refs()), *graph.outputs)}
        yield Scope(f"block{k}", graph, {name: seen[name] for name in read if name in seen})
        seen |= handed_on(graph)


def result_type(types: Types, output: int | None) -> TensorType | None:
    """The type that a reference picks among the results of a value; None where there is no such result."""
    if output is None:
        return types[0] if len(types) == 1 else None
    return types[output] if 0 <= output < len(types) else None


def type_of(ref: Ref, environment: Environment) -> TensorType | None:
    return result_type(environment.get(ref.name, ()), ref.output)

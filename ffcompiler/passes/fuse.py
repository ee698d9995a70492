"""Two loops in a row as one, where each step of the second reads what the same step of the first leaves.

before:  Program(for t: h = f(h, x[t]), leaving hs), Program(given hs, for t: g = k(g, hs[t]))
after:   Program(for t: h = f(h, x[t]); g = k(g, h))

What is computed between and after the loops from what they leave is computed after the one loop; what is not,
before it.
So the second loop can be joined to the first if neither its first state nor its steps read anything else of what the
first one leaves. The loops of stacked recurrent layers become the loop of a stack, whose layers are one step apart
(docs/stacks.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..graph import Graph, Node, Ref, Step, Value
from ..program import Check, Loop, Program
from ..proof import Refusal
from .recurrence import chained, needed
from .renamed import Renaming, names_beside
from .step_stacks import Stacked, stacked_by
from .taken import NotFusedError, Taken, types_in


@dataclass(frozen=True, slots=True)
class Fused:
    """``weights``: the name in ``program`` of each weight of the second program."""

    program: Program
    weights: Mapping[str, str]


def fuse(first: Program, second: Program) -> Fused | Refusal:
    """``second`` takes what ``first`` gives."""
    if not isinstance(first.loop, Loop) or not isinstance(second.loop, Loop):
        return Refusal("one of the loops is none that carries a state")
    if first.loop.hi - first.loop.lo != second.loop.hi - second.loop.lo:
        return Refusal("the loops have different numbers of steps")
    if first.draws or second.draws or first.overwrites or second.overwrites:
        return Refusal("a loop that draws random numbers, or writes weights, is not joined to another")
    names = names_beside(first, second)
    own = Renaming(names, len(first.loop.tables)).program(second)
    try:
        program = _Fusion(first, own).program()
    except NotFusedError as why:
        return Refusal(str(why))
    return Fused(program, {weight.name: names[weight.name].name for weight in second.weights})


@dataclass(frozen=True, slots=True)
class _Fusion:
    """``second`` has names of its own, and reads what ``first`` gives under the names that it has there."""

    first: Program
    second: Program

    def program(self) -> Program:
        """Raises: `NotFusedError`."""
        late = self._late()
        between = (*self.first.epilogue.nodes, *self.second.prologue.nodes)
        checks = (*self.first.checks, *self.second.checks)
        left = (*(leaf for leaf in self.first.result.left if leaf.name is not None), *self.second.result.left)
        result = replace(self.second.result, left=left)
        results = [leaf.name for leaf in result.named if leaf.name is not None]
        asked = tuple(dict.fromkeys([*map(Ref.of, results), *_of(checks)]))
        after = needed((*(n for n in between if n.name in late), *self.second.epilogue.nodes), asked)
        loop, read = self._loop(late, {ref.name for ref in (*_reads(after), *asked)})
        before = (*self.first.prologue.nodes, *(n for n in between if n.name not in late))
        later = tuple(dict.fromkeys((*read, *_reads(after), *asked)))
        before = needed(before, later)
        handed = tuple(ref for ref in later if ref.name in {node.name for node in before})
        known = self._outside(loop)
        (prologue,) = chained([before], handed, known)
        known |= {n.name: Value(n.name, next(filter(None, n.types))) for n in before if any(n.types)}
        (body,) = chained([loop.body.nodes], loop.body.outputs, known)
        (epilogue,) = chained([after], asked, known)
        weights = {weight.name: weight for weight in (*self.first.weights, *self.second.weights)}
        return replace(
            self.first,
            weights=tuple(weights.values()),
            prologue=prologue,
            loop=replace(loop, body=body),
            epilogue=epilogue,
            result=result,
            checks=checks,
        )

    @property
    def _loops(self) -> tuple[Loop, Loop]:
        first, second = self.first.loop, self.second.loop
        assert isinstance(first, Loop) and isinstance(second, Loop)
        return first, second

    def _late(self) -> set[str]:
        """What is made from what the first loop leaves, between the loops."""
        a, _ = self._loops
        late = {value.name for value in (*a.carry, *a.collected)}
        for node in (*self.first.epilogue.nodes, *self.second.prologue.nodes):
            if any(ref.name in late for ref in node.refs()):
                late.add(node.name)
        return late

    def _loop(self, late: set[str], after: set[str]) -> tuple[Loop, tuple[Ref, ...]]:
        """The one loop, collecting what is read ``after`` it, its graph's inputs not listed; what it reads."""
        a, b = self._loops
        carry, collected = (*a.carry, *b.carry), (*a.collected, *b.collected)
        if any(ref.name in late for ref in b.init):
            raise NotFusedError("the second loop begins with what the first one ends with")
        steps = self._steps(late)
        states = (*a.body.outputs[: len(a.carry)], *steps.outputs[: len(b.carry)])
        left = (*a.body.outputs[len(a.carry) :], *steps.outputs[len(b.carry) :])
        kept = [k for k, value in enumerate(collected) if value.name in after]
        outputs = (*states, *(left[k] for k in kept))
        nodes = needed((*a.body.nodes, *steps.nodes), outputs)
        read = {ref.name for ref in (*_reads(nodes), *outputs)}
        inside = {node.name for node in nodes}
        if any(ref.output is not None and ref.name not in inside for ref in (*_reads(nodes), *outputs)):
            raise NotFusedError("a step reads one of several results of a call before the loops")
        inputs = tuple(given for given in (*a.inputs, *b.inputs) if given.value.name in read)
        loop = Loop(
            a.lo,
            a.hi,
            (*a.tables, *b.tables),
            carry,
            (*a.init, *b.init),
            f"[{','.join(['0'] * len(carry))}]",
            Graph((), nodes, outputs),
            inputs,
            tuple(collected[k] for k in kept),
        )
        return loop, (*loop.init, *(given.stack for given in inputs), *_reads(nodes), *outputs)

    def _steps(self, late: set[str]) -> Graph:
        """The steps of the second loop, reading what the same step of the first one makes."""
        a, b = self._loops
        stacked, in_order = self._stacked(), tuple(range(b.hi - b.lo))
        made = dict(zip((value.name for value in a.collected), a.body.outputs[len(a.carry) :], strict=True))
        taken = Taken(made, types_in(a), b.body.nodes)
        for given in b.inputs:
            if given.stack.name in late:
                of = stacked.get(given.stack.name)
                if of is None or of.dim != 0 or of.order != in_order:
                    raise NotFusedError("a step of the second loop reads what other steps of the first one leave")
                taken.take(given.value.name, given.value.type, of.of, "")
        for node in b.body.nodes:
            left = self._selected(node, stacked)
            if left is None:
                taken.nodes.append(taken.node(node))
            else:
                taken.take(node.name, node.type, left, node.source)
        outputs = tuple(taken.ref(ref) for ref in b.body.outputs)
        for ref in (*_reads(taken.nodes), *outputs):
            if ref.name in late:
                raise NotFusedError("a step of the second loop reads all of what the first one leaves")
        return Graph((), tuple(taken.nodes), outputs)

    def _selected(self, node: Node, stacked: Mapping[str, Stacked]) -> str | None:
        """The collected value of which a node takes what the same step has left."""
        a, b = self._loops
        match node.op, node.args:
            case "aten.select.int", (Ref() as ref, int() as dim, Step(table=table)) if ref.name in stacked:
                of, row = stacked[ref.name], b.tables[table - len(a.tables)]
                return of.of if dim % (len(node.type.shape) + 1) == of.dim and of.read_by(row) else None
        return None

    def _stacked(self) -> dict[str, Stacked]:
        """The values between the loops of which parts are what a step has left."""
        a, _ = self._loops
        steps = tuple(range(a.hi - a.lo))
        found = {value.name: Stacked(value.name, 0, steps) for value in a.collected}
        types = {value.name: value.type for value in (*self._outside(a).values(), *a.collected)}
        between = (*self.first.epilogue.nodes, *self.second.prologue.nodes)
        types |= {n.name: n.types[0] for n in (*self.first.prologue.nodes, *between) if n.types[0] is not None}
        for node in between:
            if (of := stacked_by(node, found, types)) is not None:
                found[node.name] = of
        return found

    def _outside(self, loop: Loop) -> dict[str, Value]:
        """What comes from outside the graphs, by name."""
        leaves = [Value(leaf.name, leaf.type) for leaf in self.first.signature.leaves if leaf.name and leaf.type]
        weights = [Value(weight.name, weight.type) for weight in (*self.first.weights, *self.second.weights)]
        left = [*loop.carry, *loop.collected, *(given.value for given in loop.inputs)]
        return {value.name: value for value in (*leaves, *weights, *left)}


def _of(checks: Iterable[Check]) -> list[Ref]:
    return [check.value for check in checks]


def _reads(nodes: Iterable[Node]) -> Iterator[Ref]:
    for node in nodes:
        yield from node.refs()

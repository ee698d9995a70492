"""The values of a level, by themselves and in packs, as operators of a graph that grows while they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from ...graph import Arg, Node, Ref, Step, TensorType, contiguous, leaves
from ..lift.window import results_of
from .kept import Body, Item, Kept
from .packing import RULES, alike


@dataclass(slots=True)
class LevelValues:
    """Gives values, and notes the operators that make them: in every ``level``, or ``once``.

    ``past`` and ``given``, ``numbers``: inputs of the level, as of `Level`.
    """

    body: Body
    kept: tuple[Kept, ...]
    level: list[Node] = field(default_factory=list)
    once: list[Node] = field(default_factory=list)
    past: dict[str, tuple[int, int]] = field(default_factory=dict)
    given: dict[str, tuple[tuple[Item, ...], bool]] = field(default_factory=dict)
    numbers: list[tuple[int, int]] = field(default_factory=list)
    local: set[str] = field(default_factory=set)  # values that differ from level to level
    singles: dict[Ref, Ref] = field(default_factory=dict)  # operators of the body that were asked for by themselves
    packs: dict[tuple[Item, ...], Ref] = field(default_factory=dict)
    member: dict[Item, tuple[tuple[Item, ...], int]] = field(default_factory=dict)  # of an operator: its pack
    states: frozenset[Ref] = field(init=False)
    places: dict[Ref, tuple[int, int]] = field(init=False)  # of what is kept: which of them, which member

    def __post_init__(self) -> None:
        carry = self.body.loop.carry
        self.states, self.places = frozenset(Ref(value.name) for value in carry), {}
        for j, kept in enumerate(self.kept):
            for at, ((ref, _), leaf) in enumerate(zip(kept.members, kept.leaves, strict=True)):
                self.places.setdefault(ref, (j, at))
                if leaf is not None:
                    self.places[Ref(carry[leaf].name)] = (j, at)

    @property
    def types(self) -> dict[str, TensorType]:
        """Of all values of the body, by key."""
        return self.body.types

    # ------------------------------------------------------------------------------------------ values of one layer

    def single(self, ref: Ref, stage: int) -> Ref:
        """A value by itself, as the layer ``stage`` reads it."""
        if (place := self._past(ref, stage)) is not None:
            j, at, lag = place
            whole = self._of_before(j, lag)
            return self.emit("aten.select.int", (whole, 0, at), self.types[ref.key]) if self.kept[j].packed else whole
        if ref.name in self.body.stepped:
            return self._of_step(((ref, stage),), False)
        if ref.name not in self.body.nodes:
            return ref
        if ref not in self.singles and (ref, stage) in self.member:
            items, at = self.member[ref, stage]
            self.singles[ref] = self.emit("aten.select.int", (self.packs[items], 0, at), self.types[ref.key])
        waiting = [ref]
        while waiting:  # not by recursion: a step may have thousands of operators in a row
            first = [other for other in self.body.nodes[waiting[-1].name].refs() if self._is_to_make((other, stage))]
            waiting += first
            if not first:
                self._make(self.body.nodes[waiting.pop().name], stage)
        return self.singles[ref]

    def _is_to_make(self, item: Item) -> bool:
        return self._is_made(item) and item[0] not in self.singles and item not in self.member

    def _make(self, node: Node, stage: int) -> None:
        """The operator as it is recorded, if it is not there."""
        results = [result for result, _ in results_of(node)]
        if not all(result in self.singles for result in results):
            args = tuple(self._rewritten(arg, stage) for arg in node.args)
            kwargs = tuple((key, self._rewritten(arg, stage)) for key, arg in node.kwargs)
            self.level.append(replace(node, args=args, kwargs=kwargs))
            self.local.add(node.name)
            self.singles |= {result: result for result in results}

    def _rewritten(self, arg: Arg, stage: int) -> Arg:
        match arg:
            case Ref():
                return self.single(arg, stage)
            case Step(table=table):
                if (table, stage) not in self.numbers:
                    self.numbers.append((table, stage))
                return Step(self.numbers.index((table, stage)))
            case tuple():
                return tuple(self._rewritten(a, stage) for a in arg)
        return arg

    def _past(self, ref: Ref, stage: int) -> tuple[int, int, int] | None:
        """Which kept value it is, which member, and how many levels before; None if it is of no other level."""
        if ref in self.states:
            j, at = self.places[ref]
            return j, at, stage - self.body.stack.stages[ref.name] + 1
        own = self.body.stack.stages.get(ref.name, stage)
        if ref.name not in self.body.nodes or own == stage:
            return None
        j, at = self.places[ref]
        return j, at, stage - own

    def _of_before(self, j: int, lag: int) -> Ref:
        """The input that is a kept value of ``lag`` levels before."""
        name = f"past{j}_{lag}"
        self.past[name] = j, lag
        self.local.add(name)
        return Ref(name)

    def _of_step(self, items: tuple[Item, ...], packed: bool) -> Ref:
        """The input that is a value known ahead, of the step that each layer is at."""
        known = next((name for name, given in self.given.items() if given == (items, packed)), None)
        name = known or f"given{len(self.given)}"
        self.given[name] = items, packed
        self.local.add(name)
        return Ref(name)

    # ------------------------------------------------------------------------------------------ packs

    def pack(self, items: tuple[Item, ...]) -> Ref:
        """The values of several layers in one tensor, in this order."""
        waiting = [items]
        while waiting:
            first = [] if waiting[-1] in self.packs else self._needs(waiting[-1])
            waiting += first
            if not first:
                self._make_pack(waiting.pop())
        return self.packs[items]

    def _make_pack(self, items: tuple[Item, ...]) -> None:
        if items in self.packs:
            return
        self.packs[items] = self._packed(items)
        if all(self._is_made(item) for item in items):
            for at, item in enumerate(items):
                self.member.setdefault(item, (items, at))

    def _needs(self, items: tuple[Item, ...]) -> list[tuple[Item, ...]]:
        """The packs that one is made of, and that are not there yet."""
        if self._part_of(items) is not None:
            return []
        nodes = [self.body.nodes[ref.name] for ref, _ in items if ref.name in self.body.nodes]
        if all(map(self._is_made, items)) and nodes[0].op in RULES and alike(nodes, self.types):
            columns = zip(*(node.refs() for node in nodes), strict=True)
            found = [tuple((ref, stage) for ref, (_, stage) in zip(c, items, strict=True)) for c in columns]
        else:
            found = [tuple(run) for run in self._runs(items) if 1 < len(run) < len(items)]
        return [pack for pack in found if pack not in self.packs]

    def _packed(self, items: tuple[Item, ...]) -> Ref:
        if not any(ref.name in self.body.stack.stages or ref.name in self.body.stepped for ref, _ in items):
            return self.emit("aten.stack.default", (tuple(ref for ref, _ in items),), self.kind(items))
        if all(ref.name in self.body.stepped for ref, _ in items):
            return self._of_step(items, True)
        if (part := self._part_of_kept(items)) is not None:
            return part
        if (part := self._part_of_pack(items)) is not None:
            return part
        if all(self._is_made(item) for item in items) and (made := self._in_one_call(items)) is not None:
            return made
        return self._put_together(items)

    def _is_made(self, item: Item) -> bool:
        """Whether it is computed in this level."""
        ref, stage = item
        return ref.name in self.body.nodes and self.body.stack.stages[ref.name] == stage

    def _part_of_kept(self, items: tuple[Item, ...]) -> Ref | None:
        """Consecutive members of a kept pack."""
        places = [self._past(ref, stage) for ref, stage in items]
        if places[0] is None:
            return None
        j, first, lag = places[0]
        if not self.kept[j].packed or places != [(j, first + k, lag) for k in range(len(items))]:
            return None
        return self._narrowed(self._of_before(j, lag), first, items, len(self.kept[j].members))

    def _part_of(self, items: tuple[Item, ...]) -> tuple[tuple[Item, ...], int] | None:
        """The pack that they are consecutive members of, and the first of them in it, if it is there already."""
        whole, first = self.member.get(items[0], ((), 0))
        return (whole, first) if whole[first : first + len(items)] == items else None

    def _part_of_pack(self, items: tuple[Item, ...]) -> Ref | None:
        if (found := self._part_of(items)) is None:
            return None
        return self._narrowed(self.packs[found[0]], found[1], items, len(found[0]))

    def _narrowed(self, whole: Ref, first: int, items: tuple[Item, ...], of: int) -> Ref:
        if len(items) == of:
            return whole
        return self.emit("aten.narrow.default", (whole, 0, first, len(items)), self.kind(items))

    def _in_one_call(self, items: tuple[Item, ...]) -> Ref | None:
        """The operator that makes all of them, on packs of its operands; None if they are not alike."""
        if len(items) < 2:
            return None
        nodes = [self.body.nodes[ref.name] for ref, _ in items]
        rule = RULES.get(nodes[0].op)
        if rule is None or len({ref.output for ref, _ in items}) > 1 or not alike(nodes, self.types):
            return None
        stages = [stage for _, stage in items]
        return rule(self, nodes, stages, items[0][0].output)

    def _put_together(self, items: tuple[Item, ...]) -> Ref:
        """A pack of layers that part ways: runs of those that are alike, one after the other."""
        each_alone = not any(self._fit(a, b) for a, b in pairwise(items))
        if each_alone and not any(ref.name in self.body.stepped or self._past(ref, stage) for ref, stage in items):
            parts = tuple(self.single(ref, stage) for ref, stage in items)
            return self.emit("aten.stack.default", (parts,), self.kind(items))
        runs = self._runs(items)
        if len(runs) == 1:  # alike in kind, and yet not to be had together
            runs = [[item] for item in items]
        return self.emit("aten.cat.default", (tuple(self._run(tuple(run)) for run in runs),), self.kind(items))

    def _runs(self, items: tuple[Item, ...]) -> list[list[Item]]:
        """Those next to each other that may be had together."""
        runs: list[list[Item]] = []
        for item in items:
            if runs and self._fit(runs[-1][-1], item):
                runs[-1].append(item)
            else:
                runs.append([item])
        return runs

    def _run(self, items: tuple[Item, ...]) -> Ref:
        """A part of a pack; of one value too."""
        if len(items) > 1:
            return self.pack(items)
        ((ref, stage),) = items
        if ref.name in self.body.stepped:
            return self._of_step(items, True)
        if (part := self._part_of_kept(items)) is not None:
            return part
        if (part := self._part_of_pack(items)) is not None:
            return part
        return self.emit("aten.unsqueeze.default", (self.single(ref, stage), 0), self.kind(items))

    def _fit(self, a: Item, b: Item) -> bool:
        """Whether two may be had together: of one kept pack, both ahead, both shared, or by the same operator."""
        first, second = self._past(*a), self._past(*b)
        if first is not None or second is not None:
            return first is not None and second == (first[0], first[1] + 1, first[2])
        if self._is_made(a) and self._is_made(b):
            nodes = [self.body.nodes[a[0].name], self.body.nodes[b[0].name]]
            return nodes[0].op in RULES and a[0].output == b[0].output and alike(nodes, self.types)
        return self._is_made(a) == self._is_made(b) and (a[0].name in self.body.stepped) == (
            b[0].name in self.body.stepped
        )

    def kind(self, items: tuple[Item, ...]) -> TensorType:
        """Of a pack."""
        kind = self.types[items[0][0].key]
        shape = (len(items), *kind.shape)
        return TensorType(kind.dtype, shape, contiguous(shape))

    def emit(
        self, op: str, args: tuple[Arg, ...], *kinds: TensorType | None, kwargs: Sequence[tuple[str, Arg]] = ()
    ) -> Ref:
        """A new operator: of the level, or made once if it reads nothing that differs from level to level."""
        read = {arg.name for arg in leaves(args) if isinstance(arg, Ref)}
        name = f"q{len(self.level)}_{len(self.once)}"
        node = Node(name, op, args, tuple(kwargs), kinds, "")
        if read & self.local:
            self.local.add(name)
            self.level.append(node)
        else:
            self.once.append(node)
        return Ref(name)

"""A flat recording to prologue, one step, and epilogue: what `ffc.fori_loop` tells capture is here found out.

before:  prologue calls; step 0; step 1; ... step n - 1; epilogue calls       (one segment)
after:   prologue;  state = body(state), n times;  epilogue                   (three segments)

Every step must make the same calls; what it reads from outside itself stands in a *column*, one entry per step:

* always the same value from before the loop: read from outside;
* always the same value that steps write in place: a state (an array);
* what an earlier step computed, at the same place of each: a state; of ``d`` steps ago: a chain of ``d`` states;
* different values from before the loop (layers of a list, slices made beforehand): a per-step input.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch

from ..graph import TensorType, contiguous
from .flat import Memory
from .record import TOKENS, Call, Carried, Collected, Each, Literal, Made, Number, Outside, Segment, Token
from .repeats import Repeat
from .unify import Steps

aten = torch.ops.aten
MOST_STACKED = 4096
"""Per-step inputs of longer loops must be slices of one tensor."""
FARTHEST = 8
"""A step may read what up to this many steps before it computed."""


class NotRolledError(Exception):
    """These calls are not the steps of one loop; why."""


class GrowsError(NotRolledError):
    """The steps would be alike, but for the shapes of what they compute; which, and how."""


@dataclass(frozen=True, slots=True)
class Flat:
    """What is known of a recorded run. ``type_of`` gives the type of what is outside by handle."""

    segment: Segment
    number_starts: Sequence[int]
    memory: Memory
    type_of: Callable[[int], TensorType]


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the step ``distance`` steps ago made by its ``call``-th call."""

    distance: int
    call: int
    output: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor of the state: what a step some steps ago made, or an array that is written in place (``made`` None).

    ``begins``: its values before the first steps, until a step has made it; of an array its only name.
    """

    begins: tuple[Token, ...]
    made: Earlier | None


@dataclass(slots=True)
class Rolled:
    """Segments of the three parts, and what passes between them. Handles from ``first_handle`` on are new ones."""

    repeat: Repeat
    prologue: Segment
    steps: Steps
    epilogue: Segment
    init: tuple[Outside, ...]
    made: dict[int, Made]  # new outside handles: the prologue's calls that made them
    types: dict[int, TensorType]  # of the same
    stacks: tuple[Outside, ...]  # for each per-step input its stack, made by the prologue
    collected: int  # how many of the step's results are collected
    overwritten: Mapping[int, str]  # weights that steps write, and where
    leaves: tuple[Leaf, ...] = ()

    def state_tokens(self, step: int) -> list[Token]:
        """The recording's names of the state before a step."""
        return [_state_token(leaf, step, self.repeat) for leaf in self.leaves]


def _state_token(leaf: Leaf, step: int, repeat: Repeat) -> Token:
    if leaf.made is None or step < leaf.made.distance:
        return leaf.begins[0 if leaf.made is None else step]
    return Made(repeat.begin(step - leaf.made.distance) + leaf.made.call, leaf.made.output)


Slot: TypeAlias = Token | Earlier
"""What a step reads from outside itself: a token from before the loop, or what an earlier step made."""


@dataclass(slots=True)
class Step:
    """One step: its calls with places for what comes from outside (`_Place`), and what stands in those places."""

    calls: list[Call]
    slots: list[Slot]


@dataclass(frozen=True, slots=True)
class _Place:
    index: int


def roll(flat: Flat, repeat: Repeat, overwritten: Mapping[int, str]) -> Rolled:
    """The recording with ``repeat`` as its loop. Raises `NotRolledError` where these calls are not one."""
    return _Roll(flat, repeat, overwritten).rolled()


@dataclass(slots=True)
class _Roll:
    flat: Flat
    repeat: Repeat
    overwritten: Mapping[int, str]
    prologue: list[Call] = field(init=False)
    sources: list[str] = field(init=False)
    handles: dict[Token, Outside] = field(init=False, default_factory=dict)  # of the prologue's values
    made: dict[int, Made] = field(init=False, default_factory=dict)
    types: dict[int, TensorType] = field(init=False, default_factory=dict)
    leaves: dict[Hashable, Leaf] = field(init=False, default_factory=dict)
    stacks: list[Outside] = field(init=False, default_factory=list)
    stacked: dict[Hashable, Each] = field(init=False, default_factory=dict)
    head: list[Call] = field(init=False, default_factory=list)  # calls that each step makes before its own
    head_numbers: list[tuple[int, ...]] = field(init=False, default_factory=list)  # their numbers, by step
    selected: dict[Hashable, Made] = field(init=False, default_factory=dict)
    kept: dict[Earlier, Collected] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.prologue = list(self.flat.segment.calls[: self.repeat.start])
        self.sources = list(self.flat.segment.sources[: self.repeat.start])

    # ------------------------------------------------------------------------------------------ the loop

    def rolled(self) -> Rolled:
        self._check_weights()
        template, columns = self._columns()
        places = [self._classified(column) for column in columns]
        self._check_memory(columns)
        epilogue = _Epilogue(self).segment()
        segment = self._template(template, places)
        numbers = self.flat.segment.numbers
        prologue = Segment(self.prologue, numbers[: self._numbers_at(self.repeat.start)], self.sources)
        init = tuple(self.outside(leaf.begins[0]) for leaf in self.leaves.values())
        return Rolled(
            self.repeat,
            prologue,
            Steps(segment, self._rows()),
            epilogue,
            init,
            self.made,
            self.types,
            tuple(self.stacks),
            len(self.kept),
            self.overwritten,
            tuple(self.leaves.values()),
        )

    def _columns(self) -> tuple[Step, list[list[Slot]]]:
        """The calls of a step, and for each thing that it reads from outside what that is in every step."""
        first = self._step(self.repeat.count - 1)
        columns: list[list[Slot]] = [[] for _ in first.slots]
        for k in range(self.repeat.count):
            step = self._step(k)
            if step.calls != first.calls:
                if growth := _growth(step, first):
                    raise GrowsError(growth)
                raise NotRolledError(f"step {k} makes other calls than the last one: {_difference(step, first)}")
            for column, slot in zip(columns, step.slots, strict=True):
                column.append(slot)
        return first, columns

    def _step(self, k: int) -> Step:
        begin = self.repeat.begin(k)
        slots: list[Slot] = []

        def place(token: Token) -> Hashable:
            if isinstance(token, Made) and token.call >= begin:
                return Made(token.call - begin, token.output)
            slots.append(self._slot(token, k))  # a value read twice has two places: in another step they may differ
            return _Place(len(slots) - 1)

        first = self._numbers_at(begin)
        calls = self.flat.segment.calls[begin : begin + self.repeat.period]
        return Step([_renamed(call, place, first) for call in calls], slots)

    def _slot(self, token: Token, k: int) -> Slot:
        if not isinstance(token, Made) or token.call < self.repeat.start:
            return token
        step, call = divmod(token.call - self.repeat.start, self.repeat.period)
        return Earlier(k - step, call, token.output)

    def _numbers_at(self, call: int) -> int:
        starts = self.flat.number_starts
        return starts[call] if call < len(starts) else len(self.flat.segment.numbers)

    def _rows(self) -> list[tuple[int | float, ...]]:
        numbers, repeat = self.flat.segment.numbers, self.repeat
        rows = []
        for k in range(repeat.count):
            own = numbers[self._numbers_at(repeat.begin(k)) : self._numbers_at(repeat.begin(k + 1))]
            rows.append((*(row[k] for row in self.head_numbers), *own))
        return rows

    def _template(self, step: Step, places: Sequence[Token]) -> Segment:
        shift, numbers = len(self.head), len(self.head_numbers)

        def place(token: Hashable) -> Hashable:
            if isinstance(token, _Place):
                return places[token.index]
            assert isinstance(token, Made)
            return Made(token.call + shift, token.output)

        calls = [_renamed(call, place, -numbers) for call in step.calls]
        begin = self.repeat.begin(0)
        sources = self.flat.segment.sources[begin : begin + self.repeat.period]
        first = [sources[0]] * shift if sources else []
        results = [*map(self._next, self.leaves), *(Made(e.call + shift, e.output) for e in self.kept)]
        own = self._rows()[0]
        return Segment([*self.head, *calls], list(own), [*first, *sources], tuple(results))

    def _next(self, key: Hashable) -> Token:
        """What a step leaves of a leaf of the state, as a token of the template."""
        leaf = self.leaves[key]
        order = list(self.leaves)
        if leaf.made is None:
            return Carried(order.index(key))
        if leaf.made.distance == 1:
            return Made(leaf.made.call + len(self.head), leaf.made.output)
        nearer = next(
            k
            for k, other in self.leaves.items()
            if other.made == replace(leaf.made, distance=leaf.made.distance - 1) and k[1:] == key[1:]  # type: ignore[index]
        )
        return Carried(order.index(nearer))

    # ------------------------------------------------------------------------------------------ columns

    def _classified(self, column: Sequence[Slot]) -> Token:
        """What a step reads in place of the values of a column."""
        last = column[-1]
        if isinstance(last, Earlier):
            return self._carried(column, last)
        if any(isinstance(slot, Earlier) for slot in column):
            raise NotRolledError("a value is handed on by some steps and not by others")
        tokens = [slot for slot in column if not isinstance(slot, Earlier)]
        if all(token == last for token in tokens):
            if isinstance(last, Made) and self._written(last):
                return self._leaf((None, last), Leaf((last,), None))
            return self.outside(last)
        return self._per_step(tokens)

    def _written(self, token: Token) -> bool:
        return self.flat.memory.written(token, self.repeat.start, self.repeat.end)

    def _carried(self, column: Sequence[Slot], last: Earlier) -> Token:
        distance = last.distance
        if distance > FARTHEST:
            raise NotRolledError(f"a step reads what another computed {distance} steps ago")
        if any(slot != last for slot in column[distance:]):
            raise NotRolledError("a value is handed on in another way by some steps")
        begins = [slot for slot in column[:distance] if not isinstance(slot, Earlier)]
        if len(begins) != distance:
            raise NotRolledError("the first steps read values of each other that later ones do not")
        chain = (last.call, last.output, tuple(begins))
        for d in range(1, distance + 1):
            token = self._leaf((d, *chain), Leaf(tuple(begins[distance - d :]), Earlier(d, last.call, last.output)))
        self._same_types(begins, self._made_type(last))
        return token

    def _leaf(self, key: Hashable, leaf: Leaf) -> Carried:
        self.leaves.setdefault(key, leaf)
        return Carried(list(self.leaves).index(key))

    def _same_types(self, begins: Sequence[Token], later: TensorType) -> None:
        for token in begins:
            if self.type(token) != later:
                raise NotRolledError(f"the state begins as {self.type(token)} and goes on as {later}")

    def _made_type(self, made: Earlier) -> TensorType:
        kind = self.flat.segment.calls[self.repeat.start + made.call].types[made.output]
        assert kind is not None
        return kind

    def type(self, token: Token) -> TensorType:
        """The type of a value from before the loop."""
        if isinstance(token, Outside):
            return self.flat.type_of(token.handle)
        assert isinstance(token, Made)
        kind = self.flat.segment.calls[token.call].types[token.output]
        assert kind is not None
        return kind

    def outside(self, token: Token) -> Outside:
        """A value from before the loop, as steps and epilogue name it."""
        if isinstance(token, Outside):
            return token
        assert isinstance(token, Made)
        if token not in self.handles:
            self.handles[token] = self._add(token, self.type(token))
        return self.handles[token]

    def _add(self, token: Made, kind: TensorType) -> Outside:
        handle = Outside(NEW_HANDLES + len(self.made))
        self.made[handle.handle], self.types[handle.handle] = token, kind
        return handle

    # ------------------------------------------------------------------------------------------ per-step inputs

    def _per_step(self, tokens: Sequence[Token]) -> Token:
        if any(isinstance(t, Outside) and t.handle in self.overwritten for t in tokens):
            raise NotRolledError("steps write into different weights")
        return self._select(tokens) or self._stack(tokens)

    def _select(self, tokens: Sequence[Token]) -> Token | None:
        """Results of one ``unbind``: the step selects from the tensor itself. None if they are something else."""
        calls = {token.call if isinstance(token, Made) else None for token in tokens}
        (call,) = calls if len(calls) == 1 else (None,)
        if call is None or self.prologue[call].op is not aten.unbind.int:
            return None
        unbind = self.prologue[call]
        base, dim = unbind.args[0], 0
        assert isinstance(base, TOKENS)
        if len(unbind.args) > 1:
            number = unbind.args[1]
            assert isinstance(number, Number)
            dim = int(self.flat.segment.numbers[number.index])
        key = tuple(tokens)
        if key not in self.selected:
            count = len(self.head_numbers)
            self.head_numbers += [(dim,) * len(tokens), tuple(t.output for t in tokens if isinstance(t, Made))]
            args = (self.outside(base), Number(count, False), Number(count + 1, False))
            self.selected[key] = Made(len(self.head), 0)
            self.head.append(Call(aten.select.int, args, (), (self.type(tokens[0]),)))
        return self.selected[key]

    def _stack(self, tokens: Sequence[Token]) -> Each:
        key = tuple(tokens)
        if key in self.stacked:
            return self.stacked[key]
        kinds = [self.type(token) for token in tokens]
        if len({(kind.dtype, kind.shape) for kind in kinds}) != 1:
            raise NotRolledError("steps read values of different shapes")
        if len(tokens) > MOST_STACKED:
            raise NotRolledError(f"each of {len(tokens)} steps reads another tensor, and these are not slices of one")
        shape = (len(tokens), *kinds[0].shape)
        kind = TensorType(kinds[0].dtype, shape, contiguous(shape))
        self.prologue.append(Call(aten.stack.default, (tuple(tokens),), (), (kind,)))
        self.sources.append(self.flat.segment.sources[self.repeat.start])
        self.stacks.append(self._add(Made(len(self.prologue) - 1, 0), kind))
        self.stacked[key] = Each(len(self.stacks) - 1)
        return self.stacked[key]

    # ------------------------------------------------------------------------------------------ memory

    def _check_weights(self) -> None:
        """Weights are written by steps only."""
        for handle in self.overwritten:
            storage = self.flat.memory.of.get(Outside(handle), -1)
            for call in self.flat.memory.writes.get(storage, ()):
                if not self.repeat.start <= call < self.repeat.end:
                    raise NotRolledError(f"{self.flat.segment.sources[call]} writes into a weight outside the loop")

    def _check_memory(self, columns: Sequence[Sequence[Slot]]) -> None:
        """What steps write in place goes by one name between steps."""
        names: dict[int, set[Hashable]] = {}
        for column in columns:
            for slot in dict.fromkeys(column):
                token = self._token(slot, len(column) - 1) if isinstance(slot, Earlier) else slot
                if isinstance(token, Outside) and token.handle in self.overwritten:
                    continue
                if self._written(token) and not self._made_and_written_once(token):
                    storage = self.flat.memory.of[token]
                    names.setdefault(storage, set()).add(slot)
        if any(len(name) > 1 for name in names.values()):
            raise NotRolledError("a tensor that steps write in place is read under two names")

    def _made_and_written_once(self, token: Token) -> bool:
        """Written in the step that made it, and not after: a value like any other."""
        if not isinstance(token, Made) or token.call < self.repeat.start:
            return False
        step = (token.call - self.repeat.start) // self.repeat.period
        return not self.flat.memory.written(token, self.repeat.begin(step + 1), self.repeat.end)

    def _token(self, slot: Earlier, k: int) -> Made:
        return Made(self.repeat.begin(k - slot.distance) + slot.call, slot.output)


NEW_HANDLES = 1_000_000_000
"""Handles of values that the prologue made, apart from those of the recording; `flat` numbers them anew."""


def _renamed(call: Call, place: Callable[[Any], Hashable], first: int) -> Call:
    """``call`` with its tokens replaced, and its numbers counted from ``first``."""

    def walk(value: Hashable) -> Hashable:
        match value:
            case Number(index=index):
                return Number(index - first, value.is_float)
            case Literal():
                return replace(value, first=value.first - first)
            case tuple():
                return tuple(map(walk, value))
        return place(value) if isinstance(value, (*TOKENS, _Place)) else value

    return Call(call.op, tuple(map(walk, call.args)), tuple((k, walk(v)) for k, v in call.kwargs), call.types)


def _growth(a: Step, b: Step) -> str | None:
    """What a step gives in another shape than a later one, if they do not differ otherwise; None if they do.

    Steps with weights of their own are no loop that grows but layers of a network.
    """
    if {s for s in a.slots if isinstance(s, Outside)} != {s for s in b.slots if isinstance(s, Outside)}:
        return None
    found = None
    for x, y in zip(a.calls, b.calls, strict=False):
        if x.op != y.op or len(x.types) != len(y.types):
            return None
        pairs = [(s, t) for s, t in zip(x.types, y.types, strict=True) if s is not None and t is not None]
        shapes = next(((s.shape, t.shape) for s, t in pairs if s.shape != t.shape), None)
        if shapes is not None and found is None:
            found = f"{x.op} gives {list(shapes[0])} in one step and {list(shapes[1])} in a later one"
    return found if len(a.calls) == len(b.calls) else None


def _difference(a: Step, b: Step) -> str:
    pair = next(((x, y) for x, y in zip(a.calls, b.calls, strict=False) if x != y), None)
    if pair is None:
        return "their number differs"
    x, y = pair
    return f"{x.op} gives {x.types}" if x.types != y.types else f"{x.op} reads other values"


# ---------------------------------------------------------------------------------------------------- after the loop


class _Epilogue:
    """The calls after the loop, reading the last state and what steps left."""

    def __init__(self, of: _Roll) -> None:
        self.of = of
        self.flat, self.repeat = of.flat, of.repeat
        self.calls: list[Call] = []
        self.sources: list[str] = []
        self.numbers: list[int | float] = []
        self.moved: dict[int, int] = {}  # calls of the recording to calls of the epilogue
        self.singles: dict[tuple[Earlier, int], Token] = {}

    def segment(self) -> Segment:
        segment, end = self.flat.segment, self.repeat.end
        first = self.of._numbers_at(end)
        self.numbers = list(segment.numbers[first:])
        for index in range(end, len(segment.calls)):
            call, self.source = segment.calls[index], segment.sources[index]
            joined = self._joined(call)
            renamed = joined or _renamed(call, self._token, first)
            self.moved[index] = self._emit(renamed)
        self.source = segment.sources[-1] if segment.sources else ""
        results = tuple(self._token(r) if isinstance(r, TOKENS) else r for r in segment.results)
        self._check_memory()
        return Segment(self.calls, self.numbers, self.sources, results)

    def _check_memory(self) -> None:
        """What is written in place after the loop goes by one name there, and is nothing that steps left."""
        memory, end = self.flat.memory, len(self.flat.segment.calls)
        written = {
            storage for storage, calls in memory.writes.items() if any(self.repeat.end <= c < end for c in calls)
        }
        names: dict[int, set[Token]] = {}
        for token in self._read():
            if (storage := memory.of.get(token, -1)) in written:
                names.setdefault(storage, set()).add(token)
        for tokens in names.values():
            left = any(isinstance(t, Made) and t.call >= self.repeat.start for t in tokens)
            if len(tokens) > 1 or left:
                raise NotRolledError("what the loop has left is written in place after it, and read under another name")

    def _read(self) -> set[Token]:
        """The recording's names of what the epilogue reads from before it."""
        segment = self.flat.segment
        found: set[Token] = set()
        stack: list[Hashable] = [*segment.results]
        for call in segment.calls[self.repeat.end :]:
            stack += [*call.args, *(value for _, value in call.kwargs)]
        while stack:
            value = stack.pop()
            if isinstance(value, tuple):
                stack += value
            elif isinstance(value, TOKENS) and not (isinstance(value, Made) and value.call >= self.repeat.end):
                found.add(value)
        return found

    def _emit(self, call: Call) -> int:
        self.calls.append(call)
        self.sources.append(self.source)
        return len(self.calls) - 1

    def _number(self, value: int) -> Number:
        self.numbers.append(value)
        return Number(len(self.numbers) - 1, False)

    def _token(self, token: Token) -> Token:
        if isinstance(token, Outside):
            return token
        assert isinstance(token, Made)
        if token.call >= self.repeat.end:
            return Made(self.moved[token.call], token.output)
        if token.call < self.repeat.start:
            key = (None, token)
            if key in self.of.leaves:
                return Carried(list(self.of.leaves).index(key))
            if self.of._written(token):
                raise NotRolledError("a tensor that steps write in place is read under another name after the loop")
            return self.of.outside(token)
        return self._left(token)

    def _left(self, token: Made) -> Token:
        """What one step left."""
        step, call = divmod(token.call - self.repeat.start, self.repeat.period)
        if step == self.repeat.count - 1:
            for index, leaf in enumerate(self.of.leaves.values()):
                if leaf.made == Earlier(1, call, token.output):
                    return Carried(index)
        made = Earlier(0, call, token.output)
        if (made, step) not in self.singles:
            stack = self._collected(made)
            kind = self.of._made_type(made)
            args = (stack, self._number(0), self._number(step))
            self.singles[made, step] = Made(self._emit(Call(aten.select.int, args, (), (kind,))), 0)
        return self.singles[made, step]

    def _collected(self, made: Earlier) -> Collected:
        """What every step made by one call, stacked."""
        for step in range(self.repeat.count - 1):
            token = Made(self.repeat.begin(step) + made.call, made.output)
            if self.flat.memory.written(token, self.repeat.begin(step + 1), self.repeat.end):
                raise NotRolledError("what a step leaves is written in place by later steps")
        return self.of.kept.setdefault(made, Collected(len(self.of.kept)))

    # ------------------------------------------------------------------------------------------ stack, cat

    def _joined(self, call: Call) -> Call | None:
        """``stack`` or ``cat`` of what all steps left, as one copy; None for any other call."""
        if call.op not in (aten.stack.default, aten.cat.default) or not isinstance(call.args[0], tuple):
            return None
        tokens, stacks = call.args[0], call.op is aten.stack.default
        run = self._run_in(tokens)
        kind = call.types[0]
        if run is None or kind is None or kind.stride != contiguous(kind.shape):
            return None
        begin, made, backwards = run
        count = self.repeat.count
        dim = call.args[1] if len(call.args) > 1 else dict(call.kwargs).get("dim", 0)
        if isinstance(dim, Number):
            dim = int(self.flat.segment.numbers[dim.index])
        assert isinstance(dim, int)
        rank = len(kind.shape)
        dim %= rank
        part = self._whole(made, backwards, dim, stacks)
        if len(tokens) == count:
            return Call(aten.clone.default, (part,), (("memory_format", torch.contiguous_format),), (kind,))
        before, after = tokens[:begin], tokens[begin + count :]
        sides = [self._side(side, dim, stacks) for side in (before, after)]
        parts = (*sides[0], part, *sides[1])
        return Call(aten.cat.default, (parts, self._number(dim)), (), (kind,))

    def _side(self, tokens: Sequence[Hashable], dim: int, stacks: bool) -> tuple[Token, ...]:
        """Other parts of a ``stack``, as parts of a ``cat``."""
        found = []
        for value in tokens:
            if not isinstance(value, TOKENS):
                raise NotRolledError("the parts of a stack are not all tensors")
            token = self._token(value)
            if stacks:
                of = self._type(value)
                shape = (*of.shape[:dim], 1, *of.shape[dim:])
                kind = TensorType(of.dtype, shape, contiguous(shape))
                token = Made(self._emit(Call(aten.unsqueeze.default, (token, self._number(dim)), (), (kind,))), 0)
            found.append(token)
        return tuple(found)

    def _type(self, token: Token) -> TensorType:
        if isinstance(token, Outside):
            return self.flat.type_of(token.handle)
        assert isinstance(token, Made)
        kind = self.flat.segment.calls[token.call].types[token.output]
        assert kind is not None
        return kind

    def _run_in(self, tokens: Sequence[Hashable]) -> tuple[int, Earlier, bool] | None:
        """Where the values of all steps stand in a row: the first place, what they are, whether from last to first."""
        places = [self._place_of(token) for token in tokens]
        count = self.repeat.count
        for begin in range(len(places) - count + 1):
            first = places[begin]
            if first is None or first[0] not in (0, count - 1):
                continue
            steps = range(count) if first[0] == 0 else range(count - 1, -1, -1)
            if count > 1 and places[begin : begin + count] == [(k, first[1]) for k in steps]:
                return begin, first[1], first[0] != 0
        return None

    def _place_of(self, token: Hashable) -> tuple[int, Earlier] | None:
        if not isinstance(token, Made) or not self.repeat.start <= token.call < self.repeat.end:
            return None
        step, call = divmod(token.call - self.repeat.start, self.repeat.period)
        return step, Earlier(0, call, token.output)

    def _whole(self, made: Earlier, backwards: bool, dim: int, stacks: bool) -> Token:
        """What all steps left, its steps along ``dim``; of a ``cat`` its pieces one after the other there."""
        one, count = self.of._made_type(made), self.repeat.count
        token: Token = self._collected(made)
        shape = (count, *one.shape)
        if backwards:
            token = self._call(aten.flip.default, (token, (self._number(0),)), shape, one.dtype)
        if dim:
            order = [*range(1, dim + 1), 0, *range(dim + 1, len(shape))]
            shape = tuple(shape[d] for d in order)
            token = self._call(aten.permute.default, (token, tuple(map(self._number, order))), shape, one.dtype)
        if stacks:
            return token
        shape = (*shape[:dim], shape[dim] * shape[dim + 1], *shape[dim + 2 :])
        return self._call(aten.reshape.default, (token, tuple(map(self._number, shape))), shape, one.dtype)

    def _call(self, op: Any, args: tuple[Hashable, ...], shape: tuple[int, ...], dtype: str) -> Made:
        return Made(self._emit(Call(op, args, (), (TensorType(dtype, shape, contiguous(shape)),))), 0)

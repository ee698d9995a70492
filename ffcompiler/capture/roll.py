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

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..graph import TensorType, contiguous
from .epilogue import Epilogue
from .record import TOKENS, Call, Carried, Collected, Each, Made, Number, Outside, Segment, Token
from .repeats import Repeat
from .rolled import (
    NEW_HANDLES,
    Earlier,
    Flat,
    GrowsError,
    Hole,
    Leaf,
    NotRolledError,
    Rolled,
    Slot,
    Step,
    difference,
    growth,
    owned,
    renamed,
)
from .unify import Steps

aten = torch.ops.aten
MOST_STACKED = 4096
"""Per-step inputs of longer loops must be slices of one tensor."""
FARTHEST = 8
"""A step may read what up to this many steps before it computed."""


def roll(flat: Flat, repeat: Repeat, overwritten: Mapping[int, str]) -> Rolled:
    """The recording with ``repeat`` as its loop. Raises `NotRolledError` where these calls are not one."""
    return _Roll(flat, repeat, overwritten).rolled()


def alike(flat: Flat, repeat: Repeat) -> bool:
    """Whether these calls are the steps of one loop, whatever comes after it, and steps hand something on."""
    trial = _Roll(flat, repeat, {}, trial=True)
    try:
        trial.columns()
    except NotRolledError:
        return False
    return bool(trial.leaves)


def grows(flat: Flat, repeat: Repeat) -> str | None:
    """In what these calls would be alike, were it not for what they give being larger in each; None if they are alike.

    Raises: `NotRolledError` where they are not the steps of a loop.
    """
    try:
        _Roll(flat, repeat, {}, trial=True).columns()
    except GrowsError as why:
        return str(why)
    return None


OUTSIDE = (
    "what steps write is to be a state of the loop: begin with a copy (buffer = self.buffer.clone()), let the steps "
    "work on that, and return what is to be kept"
)


@dataclass(slots=True)
class _Roll:
    flat: Flat
    repeat: Repeat
    overwritten: Mapping[int, str]
    trial: bool = False  # only to see whether it is a loop
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
        template, places = self.columns()
        epilogue = Epilogue(self).segment()
        segment = self._template(template, places)
        numbers = self.flat.segment.numbers
        prologue = Segment(self.prologue, numbers[: self.numbers_at(self.repeat.start)], self.sources)
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

    def columns(self) -> tuple[Step, list[Token]]:
        """A step, and what it reads in each place for something from outside itself."""
        self._check_weights()
        template, columns = self._columns()
        places = [self._classified(column) for column in columns]
        self._check_memory(columns)
        self._check_beginnings()
        return template, places

    def _columns(self) -> tuple[Step, list[list[Slot]]]:
        """The calls of a step, and for each thing that it reads from outside what that is in every step."""
        first = self._step(self.repeat.count - 1)
        columns: list[list[Slot]] = [[] for _ in first.slots]
        for k in range(self.repeat.count):
            step = self._step(k)
            if step.calls != first.calls:
                if grown := growth(step, first):
                    raise GrowsError(grown)
                raise NotRolledError(f"step {k} makes other calls than the last one: {difference(step, first)}")
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
            return Hole(len(slots) - 1)

        first = self.numbers_at(begin)
        calls = self.flat.segment.calls[begin : begin + self.repeat.period]
        return Step([renamed(call, place, first) for call in calls], slots)

    def _slot(self, token: Token, k: int) -> Slot:
        if not isinstance(token, Made) or token.call < self.repeat.start:
            return token
        step, call = divmod(token.call - self.repeat.start, self.repeat.period)
        return Earlier(k - step, call, token.output)

    def numbers_at(self, call: int) -> int:
        starts = self.flat.number_starts
        return starts[call] if call < len(starts) else len(self.flat.segment.numbers)

    def _rows(self) -> list[tuple[int | float, ...]]:
        numbers, repeat = self.flat.segment.numbers, self.repeat
        rows = []
        for k in range(repeat.count):
            own = numbers[self.numbers_at(repeat.begin(k)) : self.numbers_at(repeat.begin(k + 1))]
            rows.append((*(row[k] for row in self.head_numbers), *own))
        return rows

    def _template(self, step: Step, places: Sequence[Token]) -> Segment:
        shift, numbers = len(self.head), len(self.head_numbers)

        def place(token: Hashable) -> Hashable:
            if isinstance(token, Hole):
                return places[token.index]
            assert isinstance(token, Made)
            return Made(token.call + shift, token.output)

        calls = [renamed(call, place, -numbers) for call in step.calls]
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
            if owned(last) and self.written(last):
                return self._leaf((None, last), Leaf((last,), None))
            return self.outside(last)
        return self._per_step(tokens)

    def written(self, token: Token) -> bool:
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
        self._same_types(begins, self.made_type(last))
        return token

    def _leaf(self, key: Hashable, leaf: Leaf) -> Carried:
        self.leaves.setdefault(key, leaf)
        return Carried(list(self.leaves).index(key))

    def _same_types(self, begins: Sequence[Token], later: TensorType) -> None:
        for token in begins:
            if self.flat.type(token) != later:
                raise NotRolledError(f"the state begins as {self.flat.type(token)} and goes on as {later}")

    def made_type(self, made: Earlier) -> TensorType:
        kind = self.flat.segment.calls[self.repeat.start + made.call].types[made.output]
        assert kind is not None
        return kind

    def outside(self, token: Token) -> Outside:
        """A value from before the loop, as steps and epilogue name it."""
        if isinstance(token, Outside):
            return token
        assert isinstance(token, Made)
        if token not in self.handles:
            self.handles[token] = self._add(token, self.flat.type(token))
        return self.handles[token]

    def _add(self, token: Made, kind: TensorType) -> Outside:
        handle = Outside(NEW_HANDLES + len(self.made))
        self.made[handle.handle], self.types[handle.handle] = token, kind
        return handle

    # ------------------------------------------------------------------------------------------ per-step inputs

    def _per_step(self, tokens: Sequence[Token]) -> Token:
        if any(isinstance(t, Outside) and t.handle in self.overwritten for t in tokens):
            raise NotRolledError("steps write into different weights")
        if any(self.written(t) for t in tokens):  # its value in a step is not the one from before the loop
            raise NotRolledError("a tensor that steps write in place is read by some steps, and others in its place")
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
            self.head.append(Call(aten.select.int, args, (), (self.flat.type(tokens[0]),)))
        return self.selected[key]

    def _stack(self, tokens: Sequence[Token]) -> Each:
        key = tuple(tokens)
        if key not in self.stacked:
            self.stacks.append(self.flat.join(tokens) or self._stacked(tokens))
            self.stacked[key] = Each(len(self.stacks) - 1)
        return self.stacked[key]

    def _stacked(self, tokens: Sequence[Token]) -> Outside:
        """The values of all steps as one tensor, which the prologue makes."""
        kinds = [self.flat.type(token) for token in tokens]
        if len({(kind.dtype, kind.shape) for kind in kinds}) != 1:
            raise NotRolledError("steps read values of different shapes")
        if len(tokens) > MOST_STACKED and not self.trial:
            raise NotRolledError(f"each of {len(tokens)} steps reads another tensor, and these are not slices of one")
        shape = (len(tokens), *kinds[0].shape)
        kind = TensorType(kinds[0].dtype, shape, contiguous(shape))
        self.prologue.append(Call(aten.stack.default, (tuple(tokens),), (), (kind,)))
        self.sources.append(self.flat.segment.sources[self.repeat.start])
        return self._add(Made(len(self.prologue) - 1, 0), kind)

    # ------------------------------------------------------------------------------------------ memory

    def _check_weights(self) -> None:
        """Weights are written by steps only."""
        for handle in self.overwritten:
            for call in self.flat.memory.weights[handle]:
                if not self.repeat.start <= call < self.repeat.end:
                    line = self.flat.segment.sources[call]
                    raise NotRolledError(f"{line} writes into a weight outside the loop", OUTSIDE)

    def _check_memory(self, columns: Sequence[Sequence[Slot]]) -> None:
        """What steps write in place goes by one name between steps; a weight goes by its own."""
        of_weights = self.flat.memory.of_weights if self.overwritten else ()
        names: dict[int, set[Hashable]] = {storage: {None} for storage in of_weights}
        for column in columns:
            for slot in dict.fromkeys(column):
                token = self._token(slot, len(column) - 1) if isinstance(slot, Earlier) else slot
                if isinstance(token, Outside) and token.handle in self.overwritten:
                    continue
                if self.written(token) and not self._made_and_written_once(token):
                    storage = self.flat.memory.of[token]
                    names.setdefault(storage, set()).add(slot)
        if any(len(name) > 1 for name in names.values()):
            raise NotRolledError("a tensor that steps write in place is read under two names")

    def _check_beginnings(self) -> None:
        """A tensor that steps write in place begins one state only: two that begin as one tensor change together."""
        begun: dict[int, int] = {}
        for leaf in self.leaves.values():
            for token in {token for token in leaf.begins if self.written(token)}:
                if leaf.made is not None and leaf.made.distance > 1:
                    raise NotRolledError("a state begins as a tensor that the first steps write in place")
                storage = self.flat.memory.of[token]
                begun[storage] = begun.get(storage, 0) + 1
        if any(count > 1 for count in begun.values()):
            raise NotRolledError("two states begin as one tensor, which steps write in place")

    def _made_and_written_once(self, token: Token) -> bool:
        """Written in the step that made it, and not after: a value like any other."""
        if not isinstance(token, Made) or token.call < self.repeat.start:
            return False
        step = (token.call - self.repeat.start) // self.repeat.period
        return not self.flat.memory.written(token, self.repeat.begin(step + 1), self.repeat.end)

    def _token(self, slot: Earlier, k: int) -> Made:
        return Made(self.repeat.begin(k - slot.distance) + slot.call, slot.output)

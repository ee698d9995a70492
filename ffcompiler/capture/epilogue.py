"""The calls after a loop that was found: they read its last state, and what its steps left."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch

from ..graph import TensorType, contiguous
from .record import TOKENS, Call, Carried, Collected, Made, Number, Outside, Segment, Token
from .repeats import Repeat
from .rolled import Earlier, Flat, Leaf, NotRolledError, owned, renamed

aten = torch.ops.aten


class BeforeIt(Protocol):
    """The loop, as far as it is known. ``leaves`` and ``kept`` are its state, and what its steps have to leave."""

    flat: Flat
    repeat: Repeat
    leaves: dict[Hashable, Leaf]
    kept: dict[Earlier, Collected]

    def numbers_at(self, call: int) -> int: ...

    def written(self, token: Token) -> bool: ...

    def outside(self, token: Token) -> Outside: ...

    def made_type(self, made: Earlier) -> TensorType: ...


class Epilogue:
    """The calls after the loop, reading the last state and what steps left."""

    def __init__(self, of: BeforeIt) -> None:
        self.of = of
        self.flat, self.repeat = of.flat, of.repeat
        self.calls: list[Call] = []
        self.sources: list[str] = []
        self.numbers: list[int | float] = []
        self.moved: dict[int, int] = {}  # calls of the recording to calls of the epilogue
        self.singles: dict[tuple[Earlier, int], Token] = {}

    def segment(self) -> Segment:
        segment, end = self.flat.segment, self.repeat.end
        first = self.of.numbers_at(end)
        self.numbers = list(segment.numbers[first:])
        for index in range(end, len(segment.calls)):
            call, self.source = segment.calls[index], segment.sources[index]
            joined = self._joined(call)
            own = joined or renamed(call, self._token, first)
            self.moved[index] = self._emit(own)
        self.source = segment.sources[-1] if segment.sources else ""
        results = tuple(self._token(r) if isinstance(r, TOKENS) else r for r in segment.results)
        behind = tuple(self._left_behind(token) for token in segment.behind)
        self._check_memory()
        return Segment(self.calls, self.numbers, self.sources, results, behind=behind)

    def _left_behind(self, token: Token | None) -> Token | None:
        """What the function leaves in an attribute; None for what it would cost something to have."""
        if token is None or (isinstance(token, Outside) and not owned(token)):
            return token
        assert isinstance(token, Made | Outside)
        memory, end = self.flat.memory, len(self.flat.segment.calls)
        if isinstance(token, Made) and token.call >= self.repeat.end:
            return self._token(token)
        if memory.written(token, self.repeat.end, end):
            return None
        if isinstance(token, Outside) or token.call < self.repeat.start:
            known = (None, token) in self.of.leaves or not self.of.written(token)
            return self._token(token) if known else None
        step, call = divmod(token.call - self.repeat.start, self.repeat.period)
        last = (leaf.made for leaf in self.of.leaves.values())
        free = step == self.repeat.count - 1 and Earlier(1, call, token.output) in last
        return self._left(token) if free else None

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
        if not owned(token):
            return token
        assert isinstance(token, Outside | Made)
        if isinstance(token, Made) and token.call >= self.repeat.end:
            return Made(self.moved[token.call], token.output)
        if isinstance(token, Outside) or token.call < self.repeat.start:
            key = (None, token)
            if key in self.of.leaves:
                return Carried(list(self.of.leaves).index(key))
            if self.of.written(token):
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
            kind = self.of.made_type(made)
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
                of = self.flat.type(value)
                shape = (*of.shape[:dim], 1, *of.shape[dim:])
                kind = TensorType(of.dtype, shape, contiguous(shape))
                token = Made(self._emit(Call(aten.unsqueeze.default, (token, self._number(dim)), (), (kind,))), 0)
            found.append(token)
        return tuple(found)

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
        one, count = self.of.made_type(made), self.repeat.count
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

"""A recorded function cut into parts with one loop each, where several loops run one after the other.

before:  calls .. loop .. calls .. loop .. calls                                (one recording)
after:   (calls, loop, calls), (loop, calls)                                    (one `Section` for each loop)

A section reads what earlier ones made as if it were given as arguments. What many steps of an earlier loop made, and
each step of this one reads one of, is handed on as one stack.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from ..graph import TensorType, contiguous
from .flat import FlatRecorder, Memory, copied
from .record import TOKENS, Call, Made, Outside, Segment, Token
from .repeats import LEAST, Footprints, Repeat
from .roll import alike, roll
from .rolled import HANDED, Flat, NotRolledError, Rolled, renamed

aten = torch.ops.aten
PART = 0.05
"""A loop that makes fewer of the function's calls than this is not worth a part of its own: it is written out."""
MOST_PARTS = 32
"""More loops than this are not told apart: a loop over them, if there is one, is what is solved."""
INNER = 4
"""A loop whose every step runs a loop of this many times its steps, most of its calls, is taken as those loops."""
ATTEMPTS = 48
"""Readings of some calls as a loop that are tried."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Several values that are handed on as one stack."""

    tokens: tuple[Token, ...]


Handed: TypeAlias = Token | Joined


@dataclass(frozen=True, slots=True)
class Section:
    """The calls ``begin .. end - 1`` of a recording, rolled up; ``given`` and ``left`` name values of the recording."""

    begin: int
    end: int
    given: dict[Handed, Outside]
    left: tuple[Handed, ...]  # what later sections read; of the last one nothing
    rolled: Rolled
    types: dict[int, TensorType]  # of the handles in ``given``

    def original(self, token: Token) -> Handed:
        """The recording's name of a value that this section names ``token``."""
        if isinstance(token, Made):
            return Made(token.call + self.begin, token.output)
        return next((key for key, outside in self.given.items() if outside == token), token)

    def call(self, step: int) -> int:
        """The recording's number of the first call of a step; for the number of steps, of the first one after them."""
        return self.begin + self.rolled.repeat.begin(step)


def sections(flat: Flat, footprints: Footprints, overwritten: dict[int, str]) -> tuple[Section, ...]:
    """One for each loop; none where there are not several."""
    if overwritten:  # which step writes into a weight first is known of one loop only
        return ()
    loops = list(_loops(flat, footprints, 0, len(flat.segment.calls)))
    while 1 < len(loops) <= MOST_PARTS:
        try:
            return _cut(flat, loops)
        except _FailedError as failed:
            loops.remove(failed.loop)
    return ()


def whole(flat: Flat, rolled: Rolled) -> Section:
    """All of a recording as one section."""
    return Section(0, len(flat.segment.calls), {}, (), rolled, {})


def attempts(repeats: Iterable[Repeat]) -> Iterator[Repeat]:
    """Each repetition as it is, without its first or last step, and several of its steps taken as one."""
    seen: set[Repeat] = set()
    for r in repeats:
        peeled = [
            Repeat(r.start + first * r.period, r.period, r.count - first - last)
            for first, last in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1))
        ]
        merged = [Repeat(r.start, r.period * m, r.count // m) for m in range(2, 9)]
        for attempt in (*peeled, *merged):
            if attempt.count >= LEAST and attempt not in seen and len(seen) < ATTEMPTS:
                seen.add(attempt)
                yield attempt


# ---------------------------------------------------------------------------------------------------- finding loops


def _loops(flat: Flat, footprints: Footprints, begin: int, end: int) -> Iterator[Repeat]:
    """The loops of some calls, in order, that make enough of all calls."""
    found = _largest(flat, footprints, begin, end)
    if found is not None:
        yield from _loops(flat, footprints, begin, found.start)
        yield found
        yield from _loops(flat, footprints, found.end, end)


def _largest(flat: Flat, footprints: Footprints, begin: int, end: int) -> Repeat | None:
    enough = PART * len(flat.segment.calls)
    if end - begin < enough:
        return None
    for attempt in attempts(footprints.repeats(begin, end)):
        if attempt.period * attempt.count < enough or _is_outer(attempt, footprints):
            continue
        if alike(flat, attempt):
            return attempt
    return None


def _is_outer(loop: Repeat, footprints: Footprints) -> bool:
    """Whether each of a few steps is a long loop of its own: layers, each of which runs over all of a sequence."""
    if loop.count > MOST_PARTS or loop.period < INNER * loop.count:
        return False
    inner = footprints.repeats(loop.start, loop.start + loop.period)[:1]
    return any(2 * r.period * r.count >= loop.period and r.count >= INNER * loop.count for r in inner)


# ---------------------------------------------------------------------------------------------------- cutting


class _FailedError(Exception):
    """A loop cannot be rolled up in a section of its own."""

    def __init__(self, loop: Repeat) -> None:
        super().__init__()
        self.loop = loop


def _cut(flat: Flat, loops: Sequence[Repeat]) -> tuple[Section, ...]:
    """Sections from the last to the first, since each says what the earlier ones have to hand on."""
    begins = [0, *(_begin(flat, before.end, loop.start) for before, loop in pairwise(loops))]
    ends = [*begins[1:], len(flat.segment.calls)]
    found: list[Section] = []
    left: tuple[Handed, ...] | None = None
    for loop, begin, end in reversed(list(zip(loops, begins, ends, strict=True))):
        try:
            found.append(_Section(flat, begin, end, loop, left).section())
        except NotRolledError:
            raise _FailedError(loop) from None
        left = tuple(found[-1].given)
    return tuple(reversed(found))


def _begin(flat: Flat, after: int, start: int) -> int:
    """Where the section of a loop begins: before the views that are taken just before its first step."""
    while start > after and _is_view(flat.segment.calls[start - 1]):
        start -= 1
    return start


def _is_view(call: Call) -> bool:
    returns = call.op._schema.returns if isinstance(call.op, torch._ops.OpOverload) else ()
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


@dataclass(slots=True)
class _Section:
    flat: Flat
    begin: int
    end: int
    loop: Repeat
    left: tuple[Handed, ...] | None  # None: the results of the function
    given: dict[Handed, Outside] = field(default_factory=dict)
    types: dict[int, TensorType] = field(default_factory=dict)

    def section(self) -> Section:
        segment = self._segment()
        starts = self.flat.number_starts
        first = starts[self.begin]
        ends = [starts[min(call, len(starts) - 1)] - first for call in range(self.begin, self.end + 1)]
        number_starts = [*ends, *ends[-1:] * (len(segment.calls) + self.begin - self.end)]
        flat = Flat(segment, number_starts, self._memory(), self._type, self._join)
        repeat = Repeat(self.loop.start - self.begin, self.loop.period, self.loop.count)
        rolled = roll(flat, repeat, {})
        used = _outside(rolled)
        given = {key: outside for key, outside in self.given.items() if outside in used}
        return Section(self.begin, self.end, given, self.left or (), rolled, self.types)

    def _segment(self) -> Segment:
        """The calls of this section, then those that join what is handed on as one."""
        of, starts = self.flat.segment, self.flat.number_starts
        first, last = starts[self.begin], starts[min(self.end, len(starts) - 1)]
        calls = [renamed(call, self._place, first) for call in of.calls[self.begin : self.end]]
        sources = list(of.sources[self.begin : self.end])
        results: list[Token] = []
        for key in of.results if self.left is None else self.left:
            if not isinstance(key, Joined):
                results.append(self._place(key))
            elif all(map(self._is_earlier, key.tokens)):
                results.append(self._outside(key))
            else:
                parts = tuple(self._place(token) for token in key.tokens)
                calls.append(Call(aten.stack.default, (parts,), (), (_stacked(self.flat, key),)))
                sources.append(of.sources[self.loop.start])
                results.append(Made(len(calls) - 1, 0))
        behind = tuple(map(self._behind, of.behind))
        return Segment(calls, list(of.numbers[first:last]), sources, tuple(results), behind=behind)

    def _behind(self, token: Token | None) -> Token | None:
        """What the function leaves in an attribute, if it is this section that makes it, or writes it last."""
        if isinstance(token, Outside):
            return token if self.begin == 0 else None
        memory, after = self.flat.memory, len(self.flat.segment.calls)
        if not isinstance(token, Made) or token.call >= self.end or memory.written(token, self.end, after):
            return None
        if token.call < self.begin and not (token in self.given and memory.written(token, self.begin, self.end)):
            return None  # an earlier section leaves it
        return self._place(token)

    def _is_earlier(self, token: Token) -> bool:
        if isinstance(token, Made):
            return token.call < self.begin
        return self.begin > 0 and isinstance(token, Outside) and token.handle < self.flat.arguments

    def _place(self, token: Hashable) -> Token:
        assert isinstance(token, TOKENS)
        if self._is_earlier(token):
            return self._outside(token)
        return Made(token.call - self.begin, token.output) if isinstance(token, Made) else token

    def _outside(self, key: Handed) -> Outside:
        if key not in self.given:
            handle = HANDED + len(self.given)
            self.given[key] = Outside(handle)
            self.types[handle] = _stacked(self.flat, key) if isinstance(key, Joined) else self.flat.type(key)
        return self.given[key]

    def _join(self, tokens: Sequence[Token]) -> Outside | None:
        """The stack of values that earlier sections made, which they are to hand on; None if they made not all."""
        keys = {outside: key for key, outside in self.given.items()}
        originals = [keys.get(token) if isinstance(token, Outside) else None for token in tokens]
        known = tuple(key for key in originals if key is not None and not isinstance(key, Joined))
        return self._outside(Joined(known)) if len(known) == len(tokens) else None

    def _type(self, handle: int) -> TensorType:
        return self.types[handle] if handle in self.types else self.flat.type_of(handle)

    def _memory(self) -> Memory:
        was = self.flat.memory
        of = {self._place(t): s for t, s in was.of.items() if not isinstance(t, Made) or self._is_known(t)}
        calls = range(self.begin, self.end)
        writes = {s: [c - self.begin for c in at if c in calls] for s, at in was.writes.items()}
        return Memory(of, writes, {}, was.of_weights)

    def _is_known(self, token: Made) -> bool:
        return self.begin <= token.call < self.end or token in self.given


def _stacked(flat: Flat, joined: Joined) -> TensorType:
    one = flat.type(joined.tokens[0])
    shape = (len(joined.tokens), *one.shape)
    return TensorType(one.dtype, shape, contiguous(shape))


def _outside(rolled: Rolled) -> set[Outside]:
    """All that the segments of a loop read from outside."""
    assert rolled.steps.template is not None
    found: set[Outside] = {*rolled.init, *rolled.stacks}
    stack: list[Hashable] = []
    for segment in (rolled.prologue, rolled.steps.template, rolled.epilogue):
        stack += segment.results
        for call in segment.calls:
            stack += [*call.args, *(value for _, value in call.kwargs)]
    while stack:
        value = stack.pop()
        if isinstance(value, tuple):
            stack += value
        elif isinstance(value, Outside):
            found.add(value)
    return found


# ---------------------------------------------------------------------------------------------------- values


def value(recorder: FlatRecorder, key: Handed, call: int) -> Tensor | None:
    """A value of the recording as it was before a call that was looked at; None if nobody held it any more."""
    if isinstance(key, Joined):
        parts = [value(recorder, token, call) for token in key.tokens]
        held = [part for part in parts if part is not None]
        return torch.stack(held) if len(held) == len(parts) else None
    if isinstance(key, Outside):
        return copied(recorder.outside[key.handle])
    return recorder.seen[call].get(key)


def given_values(recorder: FlatRecorder, section: Section) -> tuple[Tensor, ...]:
    """The arguments of a section in a recorded run, copied where it begins."""
    found = [value(recorder, key, section.begin) for key in section.given]
    held = tuple(t for t in found if t is not None)
    assert len(held) == len(found), "a later call reads it, so somebody holds it"
    return held

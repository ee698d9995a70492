"""What a flat recording and a loop in it are made of, while the one is rolled up to the other (`roll.py`)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ..graph import TensorType
from .flat import Memory
from .record import TOKENS, Call, Literal, Made, Number, Outside, Segment, Token
from .repeats import Repeat
from .unify import Steps


class NotRolledError(Exception):
    """These calls are not the steps of one loop; why, and what to do if that is known."""

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(why)
        self.advice = advice


class GrowsError(NotRolledError):
    """The steps would be alike, but for the shapes of what they compute; which, and how."""


NEW_HANDLES = 1_000_000_000
"""Handles from here on are of values that the prologue made, apart from those of the recording."""
HANDED = 2_000_000_000
"""Handles from here on are of values that an earlier part of the function made (`parts.py`)."""


def owned(token: Hashable) -> bool:
    """Whether the function made this tensor itself, so that its loops may write into it."""
    return isinstance(token, Made) or (isinstance(token, Outside) and token.handle >= HANDED)


def _none(tokens: Sequence[Token]) -> Outside | None:
    return None


@dataclass(frozen=True, slots=True)
class Flat:
    """What is known of a recorded run, or of a part of one. ``type_of`` gives the type of what is outside by handle.

    ``join`` gives the stack of values that an earlier part made, if it made all of them.
    ``arguments``: how many handles, the first ones, are of the function's arguments.
    """

    segment: Segment
    number_starts: Sequence[int]
    memory: Memory
    type_of: Callable[[int], TensorType]
    join: Callable[[Sequence[Token]], Outside | None] = _none
    arguments: int = 0

    def type(self, token: Token) -> TensorType:
        """The type of a tensor of the recording."""
        if isinstance(token, Outside):
            return self.type_of(token.handle)
        assert isinstance(token, Made)
        kind = self.segment.calls[token.call].types[token.output]
        assert kind is not None
        return kind


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
    """One step: its calls with places for what comes from outside (`Hole`), and what stands in those places."""

    calls: list[Call]
    slots: list[Slot]


@dataclass(frozen=True, slots=True)
class Hole:
    """A place for what comes from outside a step."""

    index: int


def renamed(call: Call, place: Callable[[Any], Hashable], first: int) -> Call:
    """``call`` with its tokens replaced, and its numbers counted from ``first``."""

    def walk(value: Hashable) -> Hashable:
        match value:
            case Number(index=index):
                return Number(index - first, value.is_float)
            case Literal():
                return replace(value, first=value.first - first)
            case tuple():
                return tuple(map(walk, value))
        return place(value) if isinstance(value, (*TOKENS, Hole)) else value

    return Call(call.op, tuple(map(walk, call.args)), tuple((k, walk(v)) for k, v in call.kwargs), call.types)


def growth(a: Step, b: Step) -> str | None:
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


def difference(a: Step, b: Step) -> str:
    pair = next(((x, y) for x, y in zip(a.calls, b.calls, strict=False) if x != y), None)
    if pair is None:
        return "their number differs"
    x, y = pair
    return f"{x.op} gives {x.types}" if x.types != y.types else f"{x.op} reads other values"

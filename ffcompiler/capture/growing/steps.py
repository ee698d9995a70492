"""The steps of a loop whose arrays grow, one call of the body at a time: what it is given in every step.

before:  calls of every step, each with tokens and numbers of its own
after:   one `Unified` per call of the body: tokens of the body, and for each number its values in all steps
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from ...graph import TensorType
from ...signatures import complete
from ..facts import exact_number
from ..record import TOKENS, Call, Carried, Literal, Made, Number, Outside, Token
from ..repeats import Repeat
from ..rolled import Earlier, Flat, NotRolledError, Slot

aten = torch.ops.aten


class NotPaddedError(NotRolledError):
    """The steps of this loop are not those of a padded one; which call is in the way, where, and why."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What a call before the loop made."""

    call: int
    output: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """A number, for each step."""

    values: tuple[int | float, ...]

    @property
    def same(self) -> bool:
        return all(exact_number(value) == exact_number(self.values[0]) for value in self.values)


@dataclass(frozen=True, slots=True)
class Literals:
    """A small tensor that is written out, for each step."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    elements: tuple[Numbers, ...]


BodyToken: TypeAlias = Made | Carried | Outside | Prior
"""``Made`` counts the calls of the body; ``Carried`` is a state at the start of the step."""
BODY_TOKENS = (Made, Carried, Outside, Prior)


@dataclass(frozen=True, slots=True)
class State:
    """A value that steps hand on: ``made`` by each for the next (None: written in place), ``begins`` before the first.

    ``items``: it is what is collected in a list, which begins with these, and gets ``made`` in each step; the steps
    join it by ``join`` along axis ``dim``.
    """

    begins: Outside | Prior | None
    made: Made | None
    items: tuple[Outside | Prior, ...] = ()
    join: Any = None
    dim: int = 0


@dataclass(frozen=True, slots=True)
class Unified:
    """A call of the body. ``shapes``: of each result, for each step (None: it is no tensor)."""

    op: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    shapes: tuple[tuple[tuple[int, ...], ...] | None, ...]
    types: tuple[TensorType | None, ...]  # in the last step
    source: str
    whole: int | None = None  # it joins the list that is this state

    def given(self) -> dict[str, Any]:
        """Its arguments by name."""
        if not isinstance(self.op, torch._ops.OpOverload):
            return {**{str(place): value for place, value in enumerate(self.args)}, **dict(self.kwargs)}
        names = (argument.name for argument in self.op._schema.arguments)
        return dict(zip(names, complete(str(self.op), self.args, dict(self.kwargs)), strict=True))

    @property
    def tokens(self) -> list[BodyToken]:
        return [*tokens_in(self.args), *tokens_in([value for _, value in self.kwargs])]

    @property
    def grows(self) -> bool:
        """Whether it gives something of another size in some steps than in others."""
        return any(shapes is not None and any(shape != shapes[0] for shape in shapes) for shapes in self.shapes)


def tokens_in(value: Any) -> list[BodyToken]:
    """The tensors in an argument."""
    if isinstance(value, BODY_TOKENS):
        return [value]
    return [token for item in value for token in tokens_in(item)] if isinstance(value, tuple | list) else []


@dataclass(slots=True)
class Steps:
    """All steps of a possible loop. ``calls`` and ``states`` are what `unify` finds."""

    flat: Flat
    repeat: Repeat
    calls: list[Unified] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    _known: dict[Hashable, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return self.repeat.count

    def unify(self) -> Steps:
        """Find ``calls`` and ``states``. Raises: `NotPaddedError` where steps differ by more than sizes."""
        for index in range(self.repeat.period):
            self.calls.append(self._unified(index))
        self._check_memory()
        return self

    def _check_memory(self) -> None:
        """What steps write in place goes by one name, and is no value that an earlier step has handed on."""
        memory, last = self.flat.memory, self.repeat.end
        begins = [(s.made is None, memory.of.get(before(s.begins), -1)) for s in self.states if s.begins is not None]
        written = [storage for in_place, storage in begins if in_place]
        begun = {storage for in_place, storage in begins if not in_place}
        if len(set(written)) != len(written) or set(written) & begun:
            raise NotPaddedError("a tensor that steps write in place is read under two names")
        for made in (state.made for state in self.states if state.made is not None):
            for k in range(self.count - 1):
                token = Made(self.repeat.begin(k) + made.call, made.output)
                if memory.written(token, self.repeat.begin(k + 1), last):
                    raise NotPaddedError(f"what {self.calls[made.call].source} hands on is written in place later")

    def at(self, index: int) -> list[Call]:
        """A call of the body, as each step makes it."""
        return [self.flat.segment.calls[self.repeat.begin(k) + index] for k in range(self.count)]

    def shapes_of(self, token: BodyToken) -> tuple[tuple[int, ...], ...]:
        """The shape of a value in each step."""
        if isinstance(token, Made):
            shapes = self.calls[token.call].shapes[token.output]
            assert shapes is not None
            return shapes
        if isinstance(token, Carried):
            return self._carried_shapes(self.states[token.leaf])
        return (self.flat.type(before(token)).shape,) * self.count

    def _carried_shapes(self, state: State) -> tuple[tuple[int, ...], ...]:
        assert state.begins is not None, "what is in a list is joined before it is read"
        first = self.flat.type(before(state.begins)).shape
        if state.made is None:
            return (first,) * self.count
        made = (call.types[state.made.output] for call in self.at(state.made.call)[:-1])
        return (first, *(kind.shape for kind in made if kind is not None))

    # ------------------------------------------------------------------------------------------ one call

    def _unified(self, index: int) -> Unified:
        calls = self.at(index)
        last, source = calls[-1], self.flat.segment.sources[self.repeat.begin(self.count - 1) + index]
        names = tuple(name for name, _ in last.kwargs)
        if any(call.op != last.op or tuple(name for name, _ in call.kwargs) != names for call in calls):
            raise NotPaddedError(f"steps call {calls[0].op} and {last.op} at {source}")
        shapes = tuple(_shapes(column) for column in zip(*(call.types for call in calls), strict=True))
        if any(column is not None and 0 in column[0] + column[-1] and len({*column}) > 1 for column in shapes):
            raise NotPaddedError(f"{last.op} at {source} gives an array without elements in some step")
        whole = self._listed(index, calls)
        if whole is not None:
            return Unified(last.op, (), (), shapes, last.types, source, whole)
        try:
            args = self._argument([call.args for call in calls])
            kwargs = [self._argument([dict(call.kwargs)[name] for call in calls]) for name in names]
        except NotPaddedError as why:
            raise NotPaddedError(f"{last.op} at {source} {why}") from None
        return Unified(last.op, args, tuple(zip(names, kwargs, strict=True)), shapes, last.types, source)

    def _argument(self, values: Sequence[Any]) -> Any:
        first, numbers = values[0], self.flat.segment.numbers
        if any(type(value) is not type(first) for value in values) and not all(isinstance(v, TOKENS) for v in values):
            raise NotPaddedError("is called in other ways in some steps")
        if isinstance(first, Number):
            return Numbers(tuple(numbers[value.index] for value in values))
        if isinstance(first, Literal):
            if any((value.dtype, value.shape) != (first.dtype, first.shape) for value in values):
                raise NotPaddedError("reads a tensor that is written out in other shapes")
            size = torch.Size(first.shape).numel()
            rows = [numbers[value.first : value.first + size] for value in values]
            return Literals(first.dtype, first.shape, tuple(map(Numbers, zip(*rows, strict=True))))
        if isinstance(first, tuple):
            if any(len(value) != len(first) for value in values):
                raise NotPaddedError("is given more in some steps than in others")
            return tuple(self._argument(column) for column in zip(*values, strict=True))
        if isinstance(first, TOKENS):
            return self._token([self._slot(value, k) for k, value in enumerate(values)])
        if any(value != first for value in values):
            raise NotPaddedError("is given other constants in some steps")
        return first

    # ------------------------------------------------------------------------------------------ what steps read

    def _slot(self, token: Token, k: int) -> Slot:
        """What a step reads, counted from the step."""
        if not isinstance(token, Made) or token.call < self.repeat.start:
            return token
        step, call = divmod(token.call - self.repeat.start, self.repeat.period)
        return Earlier(k - step, call, token.output)

    def _token(self, column: Sequence[Slot]) -> BodyToken:
        first, last = column[0], column[-1]
        if isinstance(last, Earlier) and last.distance == 0 and all(slot == last for slot in column):
            return Made(last.call, last.output)
        if isinstance(last, Earlier):
            if last.distance != 1 or any(slot != last for slot in column[1:]) or isinstance(first, Earlier):
                raise NotPaddedError("reads what steps further back have made")
            return self._carried(State(_body(first), Made(last.call, last.output)))
        if any(slot != first for slot in column):
            raise NotPaddedError("reads another tensor from before the loop in some steps")
        if self.flat.memory.written(last, self.repeat.start, self.repeat.end):
            return self._carried(State(_body(last), None))
        return _body(last)

    def _carried(self, state: State) -> Carried:
        key = (state.begins, state.made, state.items, state.join, state.dim)
        if key not in self._known:
            self._known[key] = len(self.states)
            self.states.append(state)
        return Carried(self._known[key])

    def _listed(self, index: int, calls: Sequence[Call]) -> int | None:
        """The list that steps join here to one array, if it gets what each of them makes; its state."""
        lists = [call.args[0] if call.args and isinstance(call.args[0], tuple) else () for call in calls]
        if calls[0].op not in (aten.cat.default, aten.stack.default) or len(lists[0]) == len(lists[-1]):
            return None
        made = None
        for k in range(1, self.count):
            old, new = lists[k][:-1], lists[k][-1:]
            slot = self._slot(new[0], k) if new and isinstance(new[0], TOKENS) else None
            if old != lists[k - 1] or not isinstance(slot, Earlier) or slot.distance != 1:
                return None
            if made not in (None, slot):
                return None
            made = slot
        dims = [call.args[1] if len(call.args) > 1 else dict(call.kwargs).get("dim") for call in calls]
        numbers = {self.flat.segment.numbers[dim.index] if isinstance(dim, Number) else 0 for dim in dims}
        if made is None or len(numbers) != 1 or not all(isinstance(item, Outside | Made) for item in lists[0]):
            return None
        items = tuple(_body(item) for item in lists[0])
        rank = len(self.flat.segment.calls[self.repeat.begin(0) + index].types[0].shape)  # type: ignore[union-attr]
        dim = int(numbers.pop()) % rank
        state = State(None, Made(made.call, made.output), items, calls[0].op, dim)
        return self._carried(state).leaf


def before(token: Outside | Prior) -> Token:
    """The recording's name of what is from before the loop."""
    return Made(token.call, token.output) if isinstance(token, Prior) else token


def _body(token: Any) -> Outside | Prior:
    assert isinstance(token, Outside | Made)
    return Prior(token.call, token.output) if isinstance(token, Made) else token


def _shapes(column: Sequence[TensorType | None]) -> tuple[tuple[int, ...], ...] | None:
    found = tuple(kind.shape for kind in column if kind is not None)
    return found if len(found) == len(column) else None

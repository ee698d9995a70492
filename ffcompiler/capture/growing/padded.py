"""A recorded function whose array grows, as a function with a marked loop over a padded one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...loops import fori_loop
from ...trees import flatten, unflatten
from ..record import Call, Carried, Made, Number, Outside, Token
from ..unmarked import STRAIGHT, FlatRun
from .case import Append, Last, Read, Whole
from .loop import Padding
from .performed import Draw, at_line, drawn, filled_in, perform
from .steps import NotPaddedError, Numbers, Prior, State, before

aten = torch.ops.aten
Values = dict[tuple[int, int], Tensor]
"""By call and result."""


@dataclass(slots=True)
class Padded:
    """Gives what the recorded function gives. ``arguments``: how many handles are of the function's arguments."""

    run: FlatRun
    padding: Padding
    arguments: int
    draw: Draw = drawn
    given: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._check_rest()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.given = [leaf for _, leaf in flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        prior = self.prologue()
        steps = self.padding.steps
        init = self.begun(prior)
        if len(init) == 1:
            final = [fori_loop(0, steps.count, lambda k, x: self.step(k, [x], prior)[0][0], init[0])]
        else:
            final = fori_loop(0, steps.count, lambda k, state: self.step(k, state, prior)[0], init)
        return self._result(prior, final)

    # ------------------------------------------------------------------------------------------ recorded calls

    def outside(self, handle: int) -> Tensor:
        return self.given[handle] if handle < self.arguments else self.run.recorder.outside[handle]

    def recorded(self, call: Call, index: int, values: Values) -> None:
        """Make a call of the recording; its tokens and results are in ``values``."""

        def token(value: Token) -> Tensor:
            if isinstance(value, Outside):
                return self.outside(value.handle)
            assert isinstance(value, Made)
            return values[value.call, value.output]

        numbers = self.run.segment.numbers
        with at_line(self.run.segment.sources[index]):
            args = filled_in(call.args, token, lambda number: numbers[number.index])
            kwargs = {name: filled_in(v, token, lambda number: numbers[number.index]) for name, v in call.kwargs}
            results = perform(call.op, args, kwargs, next(iter(call.types), None), self.draw)
        values.update({(index, output): result for output, result in enumerate(results)})

    def prologue(self) -> Values:
        values: Values = {}
        for index in range(self.padding.steps.repeat.start):
            self.recorded(self.run.segment.calls[index], index, values)
        return values

    def _result(self, prior: Values, final: Sequence[Tensor]) -> Any:
        values = {**prior, **self._left(final)}
        joined = self._joined(final)
        for index in range(self.padding.steps.repeat.end, len(self.run.segment.calls)):
            call = self.run.segment.calls[index]
            whole = joined.get((call.op, call.args[0] if call.args else ()))
            if whole is not None:
                values[index, 0] = whole
            else:
                self.recorded(call, index, values)
        leaves, tree = flatten(self.run.result)
        results = iter(self.run.segment.results)
        found = [self._one(next(results), values) if isinstance(leaf, Tensor) else leaf for _, leaf in leaves]
        return unflatten(tree, found)

    def _one(self, token: Any, values: Values) -> Tensor:
        return self.outside(token.handle) if isinstance(token, Outside) else values[token.call, token.output]

    # ------------------------------------------------------------------------------------------ before and after

    def begun(self, prior: Values) -> list[Tensor]:
        """The states before the first step, those that grow at their full length."""
        return [self._begin(leaf, state, prior) for leaf, state in enumerate(self.padding.steps.states)]

    def _begin(self, leaf: int, state: State, prior: Values) -> Tensor:
        append = self.padding.appended.get(leaf)
        if state.items:
            items = [self._one(before(item), prior) for item in state.items]
            first: Tensor = state.join(items, state.dim)
        else:
            assert state.begins is not None
            first = self._one(before(state.begins), prior)
        if append is None:
            return first
        behind = append.length * self.padding.steps.count
        amounts = [0, 0] * (first.dim() - append.dim - 1) + [0, behind]
        with at_line(self._line_of(append)):
            padded: Tensor = aten.constant_pad_nd.default(first, amounts)
        return padded

    def _line_of(self, append: Append) -> str:
        made = self.padding.steps.states[append.leaf].made
        assert made is not None
        return self.padding.steps.calls[made.call].source

    def _left(self, final: Sequence[Tensor]) -> Values:
        """What the rest of the function may read of the steps, by the recording's names."""
        steps, read = self.padding.steps, self._read_after()
        values: Values = {}
        for leaf, state in enumerate(steps.states):
            append = self.padding.appended.get(leaf)
            if state.made is None:
                assert isinstance(state.begins, Prior)
                values[state.begins.call, state.begins.output] = final[leaf]
                continue
            for k in range(steps.count):
                key = steps.repeat.begin(k) + state.made.call, state.made.output
                if key not in read:
                    continue
                if append is None:
                    if k == steps.count - 1:
                        values[key] = final[leaf]
                elif state.items:
                    values[key] = _part(final[leaf], append, k, state)
                else:
                    end = append.starts[k] + append.length
                    whole = k == steps.count - 1
                    values[key] = final[leaf] if whole else aten.slice.Tensor(final[leaf], append.dim, 0, end)
        return values

    def _read_after(self) -> set[tuple[int, int]]:
        """What the steps make that is read after the loop."""
        repeat, segment = self.padding.steps.repeat, self.run.segment
        found: list[Any] = list(segment.results)
        joined = {args for _, args in self._joins()}
        for call in segment.calls[repeat.end :]:
            if not call.args or call.args[0] not in joined:
                found += _tokens([*call.args, *(value for _, value in call.kwargs)])
        made = (token for token in found if isinstance(token, Made))
        return {(token.call, token.output) for token in made if repeat.start <= token.call < repeat.end}

    def _joins(self) -> dict[tuple[Any, Any], int]:
        """What joins all that is in a list after the loop; the list's state."""
        steps = self.padding.steps
        found = {}
        for leaf, state in enumerate(steps.states):
            if state.items and state.made is not None:
                made = (Made(steps.repeat.begin(k) + state.made.call, state.made.output) for k in range(steps.count))
                found[state.join, (*map(before, state.items), *made)] = leaf
        return found

    def _joined(self, final: Sequence[Tensor]) -> dict[tuple[Any, Any], Tensor]:
        return {key: final[leaf] for key, leaf in self._joins().items()}

    def _check_rest(self) -> None:
        """Raises: `NotPaddedError` if more of the steps is read after the loop than is kept."""
        steps = self.padding.steps
        if len(self.run.segment.calls) - steps.repeat.end > STRAIGHT:
            raise NotPaddedError(f"more than {STRAIGHT} operators are called after the steps that can be padded")
        last = steps.count - 1
        kept = set()
        for leaf, state in enumerate(steps.states):
            if state.made is not None:
                which = range(steps.count) if leaf in self.padding.appended else (last,)
                kept |= {(steps.repeat.begin(k) + state.made.call, state.made.output) for k in which}
        lost = sorted(self._read_after() - kept)
        if lost:
            source = self.run.segment.sources[lost[0][0]]
            raise NotPaddedError(f"what a step makes at {source} is read after the loop")

    # ------------------------------------------------------------------------------------------ a step

    def step(self, k: int, state: Sequence[Tensor], prior: Values) -> tuple[list[Tensor], Values]:
        """The states after a step, and all that it makes."""
        steps, now = self.padding.steps, _Now(list(state))
        values: Values = {}
        for index in range(len(steps.calls)):
            self.act(index, k, now, values, prior)
        return self.after(k, now, values), values

    def act(self, index: int, k: int, now: _Now, values: Values, prior: Values) -> None:
        """One call of a padded step."""
        call, action = self.padding.steps.calls[index], self.padding.actions[index]
        at = -1 if isinstance(action, Last) else k

        def token(value: Any) -> Tensor:
            if isinstance(value, Made):
                return values[value.call, value.output]
            if isinstance(value, Carried):
                return self._begun_part(value.leaf, now)
            return self._one(before(value), prior)

        def number(value: Number | Numbers) -> int | float:
            assert isinstance(value, Numbers)
            return value.values[at]

        with at_line(call.source):
            match action:
                case Read(token=of, dim=dim, starts=starts, length=None):
                    values[index, 0] = aten.select.int(token(of), dim, starts[k])
                case Read(token=of, dim=dim, starts=starts, length=int() as length, copied=copied):
                    part = aten.slice.Tensor(token(of), dim, starts[k], starts[k] + length)
                    values[index, 0] = aten.clone.default(part) if copied else part
                case Append(leaf=leaf):
                    now.after[leaf] = values[index, 0] = _written(now.state[leaf], token(action.token), action, k)
                case Whole(leaf=leaf):
                    values[index, 0] = self._begun_part(leaf, now)
                case _:
                    args = filled_in(call.args, token, number)
                    kwargs = {name: filled_in(value, token, number) for name, value in call.kwargs}
                    results = perform(call.op, args, kwargs, next(iter(call.types), None), self.draw)
                    values.update({(index, output): result for output, result in enumerate(results)})

    def _begun_part(self, leaf: int, now: _Now) -> Tensor:
        """A state as the calls of a step read it: one that grows as far as the last step sees it."""
        append = self.padding.appended.get(leaf)
        if append is None:
            return now.state[leaf]
        if leaf not in now.seen:
            part = aten.slice.Tensor(now.state[leaf], append.dim, 0, append.starts[-1])
            now.seen[leaf] = aten.clone.default(part, memory_format=torch.contiguous_format)
        return now.seen[leaf]

    def after(self, k: int, now: _Now, values: Values) -> list[Tensor]:
        """The states that a step hands on."""
        found = []
        for leaf, state in enumerate(self.padding.steps.states):
            append = self.padding.appended.get(leaf)
            if leaf in now.after or state.made is None:
                found.append(now.after.get(leaf, now.state[leaf]))
            elif append is None:
                found.append(values[state.made.call, state.made.output])
            else:
                new = values[state.made.call, state.made.output]
                with at_line(self._line_of(append)):
                    stacked = state.join is aten.stack.default
                    found.append(
                        aten.select_scatter.default(now.state[leaf], new, append.dim, append.starts[k])
                        if stacked
                        else _written(now.state[leaf], new, append, k)
                    )
        return found


@dataclass(slots=True)
class _Now:
    """The states during a step: as they were, as far as they are read, as they will be."""

    state: list[Tensor]
    seen: dict[int, Tensor] = field(default_factory=dict)
    after: dict[int, Tensor] = field(default_factory=dict)


def _written(state: Tensor, new: Tensor, append: Append, k: int) -> Tensor:
    start = append.starts[k]
    written: Tensor = aten.slice_scatter.default(state, new, append.dim, start, start + append.length)
    return written


def _part(final: Tensor, append: Append, k: int, state: State) -> Tensor:
    """What a step has put into a list."""
    start = append.starts[k]
    if state.join is aten.stack.default:
        part: Tensor = aten.select.int(final, append.dim, start)
    else:
        part = aten.slice.Tensor(final, append.dim, start, start + append.length)
    return part


def _tokens(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [token for item in value for token in _tokens(item)]
    return [value] if isinstance(value, Made) else []

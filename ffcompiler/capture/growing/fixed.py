"""Values of a recorded run that depend on weights and constants only, such as masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..draws import Drawing
from ..record import Call, Carried, Made, Outside, Rebind, Tested, Token
from ..unmarked import FlatRun
from .performed import drawn, filled_in, perform
from .steps import BodyToken, Steps, before


@dataclass(slots=True)
class Fixed:
    """Gives the value of a token in the last step; None if it depends on arguments, on the state, or on draws."""

    run: FlatRun
    arguments: int
    _depends: dict[int, bool] = field(default_factory=dict)  # by call
    _values: dict[int, list[Tensor]] = field(default_factory=dict)
    _marked: tuple[int, int] = (-1, -1)

    def __call__(self, token: BodyToken, steps: Steps) -> Tensor | None:
        begin = steps.repeat.begin(steps.count - 1)
        if isinstance(token, Carried):
            return None
        self._mark(steps, begin)
        recorded = Made(begin + token.call, token.output) if isinstance(token, Made) else before(token)
        return None if self._moves(recorded) else self._value(recorded)

    def _mark(self, steps: Steps, begin: int) -> None:
        """Find which calls before the loop, and of the last step, depend on more than weights."""
        if self._marked == (steps.repeat.start, begin):
            return
        self._marked = steps.repeat.start, begin
        self._depends.clear()
        for index in (*range(steps.repeat.start), *range(begin, begin + steps.repeat.period)):
            call = self.run.segment.calls[index]
            plain = not isinstance(call.op, Drawing | Tested | Rebind)
            self._depends[index] = not plain or any(map(self._moves, _tokens(call)))

    def _moves(self, token: Token) -> bool:
        """Whether a value changes: with arguments, with steps, or because something writes there."""
        recorder = self.run.recorder
        if recorder.memory.writes.get(recorder.memory.of.get(token, -1)):
            return True
        if isinstance(token, Outside):
            return token.handle < self.arguments or token.handle in recorder.overwritten
        return not isinstance(token, Made) or self._depends.get(token.call, True)

    def _value(self, token: Token) -> Tensor:
        if isinstance(token, Outside):
            return self.run.recorder.outside[token.handle].detach()
        assert isinstance(token, Made)
        if token.call not in self._values:
            call, numbers = self.run.segment.calls[token.call], self.run.segment.numbers
            args = filled_in(call.args, self._value, lambda number: numbers[number.index])
            kwargs = {name: filled_in(v, self._value, lambda number: numbers[number.index]) for name, v in call.kwargs}
            with torch.no_grad():
                self._values[token.call] = perform(call.op, args, kwargs, None, drawn)
        return self._values[token.call][token.output]


def _tokens(call: Call) -> list[Token]:
    return tokens_of([*call.args, *(value for _, value in call.kwargs)])


def tokens_of(value: object) -> list[Token]:
    """The tensors in an argument of a recorded call."""
    if isinstance(value, tuple | list):
        return [token for item in value for token in tokens_of(item)]
    return [value] if isinstance(value, Made | Outside) else []

"""A pass over a window of steps, level by level: the layers of a stack one step apart from each other (docs/stacks.md).

At level ``v`` of a window the layer ``s`` is at its step ``v - s``. Layers that have not begun, or are past the end,
compute something that nobody reads: that of the former is put back to the first state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ...program import Recurrence
from ...stacks import in_the_loop, parts_sunk, stack_of
from ..cells import spelled_out
from ..graphs import GraphCall, graph_call
from ..plain import plain
from ..watch import Watch, look
from .calls import LevelCalls
from .kept import Item, Kept
from .level import Level, level_of

Made: TypeAlias = tuple[Tensor, ...]
"""What a level keeps."""


@dataclass(frozen=True, slots=True)
class Waves:
    """``waves(env, first, lo, hi)``: for each leaf the states of steps ``lo .. hi - 1``. Threads may share it.

    ``calls``: of a level; `GraphCall` makes the recorded ones, on what these gave: then states have the loop's bits.
    """

    loop: Recurrence
    level: Level
    once: GraphCall
    calls: GraphCall | LevelCalls

    @property
    def recorded(self) -> bool:
        """Whether layers make the recorded calls, each by itself."""
        return isinstance(self.calls, GraphCall)

    @property
    def depth(self) -> int:
        """Of the stack: so many layers, less one, are the levels more than the steps."""
        return self.level.depth

    def __call__(
        self, env: Mapping[str, Tensor], first: Sequence[Tensor], lo: int, hi: int, watch: Watch | None = None
    ) -> Made:
        env = self.once.extend(env)
        steps, count = hi - lo, hi - lo + self.depth - 1
        start = self._start(first)
        numbers = [self._numbers(table, lo, steps, count) for table in self.calls.tables]
        if isinstance(self.calls, GraphCall):
            rows = {name: self._rows(env, items[0], lo, steps, count) for name, (items, _) in self.level.given.items()}
            return self._each(self._recorded(self.calls, env, start, rows, numbers, count, watch), steps)
        given = {name: self._whole(env, name, lo, steps, count) for name in self.level.given}
        return self._states(self.calls(env, start, given, numbers, count, watch), steps)

    def _recorded(
        self,
        call: GraphCall,
        env: Mapping[str, Tensor],
        start: Made,
        given: Mapping[str, Sequence[Tensor]],
        numbers: Sequence[Sequence[int | float]],
        count: int,
        watch: Watch | None,
    ) -> list[Made]:
        """All levels, each call on what others gave, laid out as they gave it."""
        fixed: list[Tensor | None] = [env.get(name) for name in call.inputs]
        place = {name: at for at, name in enumerate(call.inputs)}
        rows = [(place[name], row) for name, row in given.items()]
        past = [(place[name], *past) for name, past in self.level.past.items()]
        lag, function = self.level.lag, call.function
        order = [call.outputs.index(ref) for ref in self.level.graph.outputs]  # equal ones are given once
        made: list[Made] = [start] * lag
        for v in range(count):
            for at, j, back in past:
                fixed[at] = made[v + lag - back][j]
            for at, row in rows:
                fixed[at] = row[v]
            given_once: Made = function(*fixed, *[row[v] for row in numbers])
            new = tuple(given_once[at] for at in order)
            made.append(new if v + 1 >= self.depth else self._held(new, start, v))
            look(watch)
        return made[lag:]

    # ------------------------------------------------------------------------------------------ what goes in

    def _rows(self, env: Mapping[str, Tensor], item: Item, lo: int, steps: int, count: int) -> Sequence[Tensor]:
        """A value that is known ahead, for each level: of its layer's step there, or of one that nobody reads."""
        each = self._stack(env, item, lo, steps).unbind(0)
        return [each[k] for k in _at(item[1], steps, count)]

    def _whole(self, env: Mapping[str, Tensor], name: str, lo: int, steps: int, count: int) -> Tensor:
        """The same in one tensor, that of several layers packed."""
        items, packed = self.level.given[name]
        members = []
        for item in items:
            whole = self._stack(env, item, lo, steps)
            steps_at = torch.tensor(list(_at(item[1], steps, count)), device=whole.device)
            members.append(whole.index_select(0, steps_at))
        return torch.stack(members, 1) if packed else members[0]

    def _stack(self, env: Mapping[str, Tensor], item: Item, lo: int, steps: int) -> Tensor:
        stacks = {given.value.name: given.stack.key for given in self.loop.inputs}
        return env[stacks.get(item[0].key, item[0].key)][lo : lo + steps]

    def _numbers(self, table: int, lo: int, steps: int, count: int) -> Sequence[int | float]:
        of, stage = self.level.numbers[table]
        row = self.loop.tables[of]
        return [row[lo + k] for k in _at(stage, steps, count)]

    def _start(self, first: Sequence[Tensor]) -> Made:
        """What is kept before the first level: the first state, and anything for what is not read of it."""

        def member(kept: Kept, leaf: int | None) -> Tensor:
            if leaf is not None:
                return first[leaf]
            return first[0].new_zeros((), dtype=getattr(torch, kept.kind.dtype)).expand(kept.kind.shape)

        def whole(kept: Kept) -> Tensor:
            parts = [member(kept, leaf) for leaf in kept.leaves]
            return torch.stack(parts) if kept.packed else parts[0]

        return tuple(map(whole, self.level.kept))

    # ------------------------------------------------------------------------------------------ what comes out

    def _held(self, new: Made, start: Made, v: int) -> Made:
        """``new``, but for layers that begin later than level ``v``: they keep the first state."""
        both = zip(self.level.kept, new, start, strict=True)
        return tuple(own if kept.members[0][1] <= v else first for kept, own, first in both)

    def _each(self, made: Sequence[Made], steps: int) -> Made:
        """For each leaf its states, from what was kept of one value each."""
        found: dict[int, Tensor] = {}
        for j, kept in enumerate(self.level.kept):
            ((_, stage),), (leaf,) = kept.members, kept.leaves
            if leaf is not None:
                found[leaf] = torch.stack([values[j] for values in made[stage : stage + steps]])
        return tuple(found[leaf] for leaf in range(len(found)))

    def _states(self, rows: Sequence[Tensor], steps: int) -> Made:
        """For each leaf its states, one after the other."""
        found: dict[int, Tensor] = {}
        for whole, kept in zip(rows, self.level.kept, strict=True):
            for at, ((_, stage), leaf) in enumerate(zip(kept.members, kept.leaves, strict=True)):
                if leaf is not None:
                    own = whole[stage : stage + steps]
                    found[leaf] = own[:, at] if kept.packed else own
        return tuple(found[leaf] for leaf in range(len(found)))


def _at(stage: int, steps: int, count: int) -> Iterable[int]:
    """Which step of a window a layer is at, for each level; the nearest one where it is at none."""
    return (min(max(v - stage, 0), steps - 1) for v in range(count))


def has_alike_layers(loop: Recurrence) -> bool:
    """Whether a level is fewer calls than a step, because some layers are alike."""
    loop = parts_sunk(spelled_out(loop))
    stack = stack_of(loop)
    return stack.depth > 1 and len(level_of(loop, stack, True).graph.nodes) < len(stack.stages) - len(loop.carry)


def make_waves(loop: Recurrence, device: torch.device, recorded: bool) -> Waves:
    """A pass over ``loop`` by the recorded calls, or with layers that are alike in one call."""
    loop = in_the_loop(loop) if recorded else loop
    stack = stack_of(loop)
    level = level_of(loop, stack, not recorded)
    calls = graph_call(level.graph, device, how=plain) if recorded else LevelCalls(level, device)
    return Waves(loop, level, graph_call(level.once, device), calls)

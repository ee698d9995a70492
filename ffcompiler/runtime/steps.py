"""The steps of a loop, one after the other, by the recorded calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import Graph
from ..program import Loop, Recurrence
from .graphs import GraphCall, graph_call
from .plain import plain

Step = Callable[[Sequence[Tensor], int], tuple[Tensor, ...]]
"""From a state and a step's position to the next state, then what the step leaves besides."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The body of a loop compiled for one device; of a recurrence, what is computed ahead belongs to the step again."""

    loop: Loop | Recurrence
    call: GraphCall
    device: torch.device
    order: tuple[int, ...]  # where each output of the body stands among those of the call

    def bind(self, env: Mapping[str, Tensor]) -> Step:
        """One step as a function, for one thread. ``env`` is looked up here, once for all steps."""
        names = [value.name for value in self.loop.carry]
        stacks = {given.value.name: env[given.stack.key] for given in self.loop.inputs}
        own = {*names, *stacks}
        fixed = [None if name in own else env[name] for name in self.call.inputs]
        carried = [(place, names.index(name)) for place, name in enumerate(self.call.inputs) if name in names]
        handed = [(place, stacks[name]) for place, name in enumerate(self.call.inputs) if name in stacks]
        rows = [self.loop.tables[table] for table in self.call.tables]
        function, order = self.call.function, self.order
        as_made = order == tuple(range(len(self.call.outputs)))

        def step(state: Sequence[Tensor], k: int) -> tuple[Tensor, ...]:
            for place, leaf in carried:
                fixed[place] = state[leaf]
            for place, stack in handed:
                fixed[place] = stack.select(0, k)
            made: tuple[Tensor, ...] = function(*fixed, *[row[k] for row in rows])
            return made if as_made else tuple([made[place] for place in order])

        return step

    def finish(
        self, env: Mapping[str, Tensor], state: tuple[Tensor, ...], kept: tuple[Tensor, ...] = (), done: int = 0
    ) -> tuple[Tensor, ...]:
        """The last state, then what all steps collected, after the first ``done`` steps have led to ``state``.

        ``kept``: what those collected, ``[done, *shape]``.
        """
        loop = self.loop
        step, size = self.bind(env), len(loop.carry)
        left: list[tuple[Tensor, ...]] = []
        for k in range(done, loop.hi - loop.lo):
            made = step(state, k)
            state = made[:size]
            if loop.collected:
                left.append(made[size:])
        if not loop.collected:
            return state
        rest = [torch.stack(column) for column in zip(*left, strict=True)]
        if not kept and not rest:  # of no step at all
            kinds = [(value.type.shape, getattr(torch, value.type.dtype)) for value in loop.collected]
            return (*state, *(torch.zeros(shape, dtype=dtype, device=self.device) for shape, dtype in kinds))
        if not kept or not rest:
            return (*state, *(rest or kept))
        return (*state, *(torch.cat([a, b]) for a, b in zip(kept, rest, strict=True)))


def make_steps(loop: Loop | Recurrence, device: torch.device) -> Steps:
    """What running the steps of ``loop`` needs."""
    ahead = loop.ahead.nodes if isinstance(loop, Recurrence) else ()
    call = graph_call(Graph((), (*ahead, *loop.body.nodes), loop.body.outputs), device, how=plain)
    return Steps(loop, call, device, tuple(call.outputs.index(ref) for ref in loop.body.outputs))

"""A recurrence ready to run on one device: block ``k`` is the whole state after step ``k``.

All blocks together are the *trajectory*: for each leaf of the state one tensor ``[steps + 1, *shape]`` whose entry 0 is
the first state, so that what a window of steps reads, and what it writes, are two slices of it.

With `Runs` of several steps a sweep takes a step in every run at once, then the next: what is iterated then are the
last blocks of runs, the others follow from these (docs/runs.md).

With `Waves` a sweep first goes through its window level by level (docs/stacks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..graph import Graph, Node, Ref, TensorType
from ..program import Recurrence
from ..stacks import parts_sunk, stack_of
from .blocks import Env, Values
from .cells import spelled_out
from .graphs import GraphCall, graph_call
from .layout import laid_out
from .lift.lifted import Lifted
from .lift.window import Window, results_of
from .runs import ALONE, Runs
from .stacked.waves import Waves, make_waves
from .steps import Steps, make_steps
from .watch import Watch
from .windowed.windowed import Windowed
from .windowed.workspace import Workspace

Trajectory = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Recurrent:
    """What the solve loop needs of a `Recurrence`. Threads may share it."""

    loop: Recurrence
    device: torch.device
    invariant: GraphCall
    steps: Steps
    ahead: Lifted
    body: Lifted
    kept: Lifted  # what is collected
    inside: bool  # consecutive steps of an element stand side by side in memory
    runs: Runs = ALONE
    waves: Waves | None = None
    bits: bool = True  # what is evaluated once, ahead of sweeps and after them, is so as in single steps

    @property
    def blocks(self) -> int:
        return self.loop.blocks

    @property
    def exact(self) -> bool:
        """Whether a sweep's steps have the bits of single ones: no operator rounds by shape, or all are single."""
        return self._recorded or (self.body.exact and (self.bits or (self.ahead.exact and self.kept.exact)))

    @property
    def unlifted(self) -> list[Node]:
        """Operators that sweeps cannot evaluate: then there are none. What is evaluated once may be, step by step."""
        return [] if self._recorded else [*self.body.unlifted, *self.ahead.uneven, *self.kept.uneven]

    @property
    def inexact(self) -> list[Node]:
        """Operators whose rounding may depend on how many steps are evaluated at once."""
        parts = (self.body,) if self.bits else (self.ahead, self.body, self.kept)
        return [] if self._recorded else [node for part in parts for node in part.inexact]

    @property
    def _recorded(self) -> bool:
        """Whether sweeps make the recorded calls, and no others."""
        return self.waves is not None and self.waves.recorded

    @property
    def ends_anywhere(self) -> bool:
        """Each step reads the one before it and no other."""
        return True

    @property
    def priced_by_width(self) -> bool:
        """A sweep evaluates the steps of its window and no others."""
        return True

    @property
    def levels(self) -> tuple[int, ...]:
        """Each step reads the one before it; a sweep that goes through the levels of its window is one for all."""
        return () if self.waves is None else (self.blocks,)

    @property
    def windowed(self) -> Windowed | None:
        """A sweep computes its window only, whatever the schedule says of windows."""
        return None

    def constants(self, env: Env) -> Env:
        """``env`` with the work that depends on neither state nor step."""
        return self.invariant.extend(env) if self.blocks else env

    def prepare(self, env: Env) -> Env:
        """``env`` with what depends on the step alone, for all steps; recorded calls make it in their step."""
        if not self.blocks or self._recorded:
            return env
        names = [ref.key for ref in self.loop.ahead.outputs]
        values = self.ahead(Window(0, self.blocks, env, self.bits, self._handed(env, slice(0, self.blocks))))
        return {**env, **{name: self._laid_out(t) for name, t in zip(names, values, strict=True)}}

    def _handed(self, env: Env, steps: slice) -> dict[str, Tensor]:
        return {given.value.name: env[given.stack.key][steps] for given in self.loop.inputs}

    def _laid_out(self, t: Tensor) -> Tensor:
        """The same values in the memory order of trajectories."""
        if not self.inside or t.dim() < 2:
            return t.contiguous()
        dims = tuple(reversed(range(t.dim())))
        return t.permute(dims).contiguous().permute(dims)

    def start_from(self, init: tuple[Tensor, ...]) -> Trajectory:
        """A first guess of all blocks: the first state, repeated."""
        return tuple(self._laid_out(leaf.expand(self.blocks + 1, *leaf.shape)).clone() for leaf in init)

    def read(self, state: Trajectory, lo: int, hi: int) -> Values:
        """Of blocks ``lo .. hi - 1`` the last ones of their runs."""
        ends, short = self._ends(lo, hi)
        if not short:
            return tuple(leaf[ends] for leaf in state)
        return tuple(torch.cat([leaf[ends], leaf[hi : hi + 1]]) for leaf in state)

    def write(self, state: Trajectory, lo: int, hi: int, values: Values) -> None:
        """Put new values of these in place."""
        ends, short = self._ends(lo, hi)
        for leaf, new in zip(state, values, strict=True):
            leaf[ends] = new[:-1] if short else new
            if short:
                leaf[hi] = new[-1]

    def _ends(self, lo: int, hi: int) -> tuple[slice, bool]:
        """Where in the trajectory the last blocks of whole runs are, and whether the last run is a shorter one."""
        size = self.runs.size
        return slice(lo - lo % size + size, hi + 1, size), hi % size != 0

    def update(
        self, env: Env, state: Trajectory, lo: int, hi: int, exact: bool, watch: Watch | None = None
    ) -> tuple[Values, list[Tensor]]:
        """New values of the last blocks of runs, those of the others in place: each from the block before it."""
        if self.waves is not None:
            made = self.waves(env, self.at(state, lo), lo, hi, watch)
            self.put(state, range(lo, hi), made)
            if self.waves.recorded:
                return tuple(leaf[-1:] for leaf in made), []
        lasts: list[Values] = []
        for blocks in self.runs.turns(lo, hi):
            values, inner = self.turn(env, state, blocks, watch), self.runs.inner(blocks, hi)
            if inner:
                self.put(state, blocks[:inner], values)
            if inner < len(blocks):  # that of a run which is shorter than others comes first
                lasts.insert(0, self._apart(state, tuple(value[inner:] for value in values)))
        return lasts[0] if len(lasts) == 1 else tuple(map(torch.cat, zip(*lasts, strict=True))), []

    def turn(self, env: Env, state: Trajectory, blocks: range, watch: Watch | None = None) -> Values:
        """New values of some blocks, by one call."""
        return self.body(self._window(env, state, blocks, watch))

    @staticmethod
    def put(state: Trajectory, blocks: range, values: Values) -> None:
        """The first of these values, in place."""
        for leaf, new in zip(state, values, strict=True):
            leaf[blocks.start + 1 : blocks.stop + 1 : blocks.step] = new[: len(blocks)]

    @staticmethod
    def _apart(state: Trajectory, values: Values) -> Values:
        """The same, in no memory of the state: a step may only move elements of it, and it is about to be written."""
        own = {leaf.untyped_storage().data_ptr() for leaf in state}
        return tuple(v.clone() if v.untyped_storage().data_ptr() in own else v for v in values)

    def collect(self, env: Env, state: Trajectory, blocks: int) -> Values:
        """What the first ``blocks`` steps leave besides the state, from final values."""
        if self._recorded:
            step, size = self.steps.bind(env), len(self.loop.carry)
            left = [step(self.at(state, k), k)[size:] for k in range(blocks)]
            return tuple(torch.stack(column) for column in zip(*left, strict=True))
        window = replace(self._window(env, state, range(blocks)), exact=self.bits)
        return tuple(t.contiguous() for t in self.kept(window))

    def _window(self, env: Env, state: Trajectory, blocks: range, watch: Watch | None = None) -> Window:
        steps = slice(blocks.start, blocks.stop, blocks.step)
        given = self._handed(env, steps)
        given |= {ref.key: env[ref.key][steps] for ref in self.loop.ahead.outputs}
        given |= {value.name: leaf[steps] for value, leaf in zip(self.loop.carry, state, strict=True)}
        return Window(blocks.start, blocks.stop, env, False, given, blocks.step, watch)

    def window(
        self, env: Env, workspace: Workspace, state: Trajectory, lo: int, hi: int, watch: Watch | None = None
    ) -> Values:
        """There are no kept values."""
        raise AssertionError("a recurrence has no windowed sweeps")

    def at(self, state: Trajectory, done: int) -> tuple[Tensor, ...]:
        """The state after ``done`` steps, in the layout that the author's loop has."""
        return tuple(laid_out(value.type, leaf[done]) for value, leaf in zip(self.loop.carry, state, strict=True))

    def premises_hold(self, values: list[Tensor], sums: Sequence[float]) -> bool:
        """There are none."""
        return True

    def failed(self, values: list[Tensor]) -> str:
        """No premise."""
        return ""

    def unmoved(self, lo: int, hi: int, compared: int) -> int:
        """What is compared are the last blocks of runs."""
        return self.runs.after(lo, hi, compared)

    def final(self, known: int, computed: int) -> int:
        """The first changed run was computed from final blocks; the next one was not."""
        return self.runs.end(known, computed)

    def steps_done(self, blocks: int) -> int:
        """Blocks are steps."""
        return blocks


def make_recurrent(
    loop: Recurrence, device: torch.device, runs: Runs = ALONE, by_levels: bool = False, bits: bool = True
) -> Recurrent:
    """``loop`` compiled for ``device``; its sweeps compute ``runs`` in order, or go ``by_levels`` where it is a stack.

    By levels and with the ``bits`` of the loop they make the recorded calls only, unless no operator rounds by shape.
    """
    recorded, steps, read_by_steps, loop = loop, make_steps(loop, device), loop.invariant.outputs, spelled_out(loop)
    if by_levels and stack_of(loop).depth > 1:
        if bits and not make_recurrent(recorded, device).exact:
            made = make_recurrent(recorded, device)
            return replace(made, inside=False, runs=Runs(loop.blocks), waves=make_waves(recorded, device, True))
        loop = parts_sunk(loop)
        made = _made(loop, device, steps, read_by_steps, Runs(), bits)
        return replace(made, waves=make_waves(loop, device, False))
    return _made(loop, device, steps, read_by_steps, runs, bits)


def _made(
    loop: Recurrence, device: torch.device, steps: Steps, read_by_steps: tuple[Ref, ...], runs: Runs, bits: bool
) -> Recurrent:
    handed = {given.value.name: given.value.type for given in loop.inputs}
    made = {ref.key: kind for node in loop.ahead.nodes for ref, kind in results_of(node)}
    state = {value.name: value.type for value in loop.carry}
    given = {**handed, **{ref.key: made[ref.key] for ref in loop.ahead.outputs}, **state}
    next_state, left = loop.body.outputs[: len(loop.carry)], loop.body.outputs[len(loop.carry) :]

    def lifted(graph: Graph, outputs: tuple[Ref, ...], lifted_already: dict[str, TensorType]) -> Lifted:
        return Lifted(needed_for(graph, outputs), loop.tables, device, loop.blocks, lifted_already)

    return Recurrent(
        loop,
        device,
        graph_call(loop.invariant, device, read_by_steps),
        steps,
        lifted(loop.ahead, loop.ahead.outputs, handed),
        lifted(loop.body, next_state, given),
        lifted(loop.body, left, given),
        runs.size == 1 and loop.blocks > max((torch.Size(v.type.shape).numel() for v in loop.carry), default=0),
        runs,
        bits=bits,
    )


def needed_for(graph: Graph, outputs: tuple[Ref, ...]) -> Graph:
    """``graph`` with these outputs, and only what they need."""
    read = {ref.name for ref in outputs}
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in read:
            nodes.append(node)
            read |= {ref.name for ref in node.refs()}
    inputs = tuple(value for value in graph.inputs if value.name in read)
    return Graph(inputs, tuple(reversed(nodes)), outputs)

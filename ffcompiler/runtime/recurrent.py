"""A recurrence ready to run on one device: block ``k`` is the whole state after step ``k``.

All blocks together are the *trajectory*: for each leaf of the state one tensor ``[steps + 1, *shape]`` whose entry 0 is
the first state, so that what a window of steps reads, and what it writes, are two slices of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import Graph, Node, Ref, TensorType
from ..program import Recurrence
from .blocks import Env, Values
from .cells import spelled_out
from .graphs import GraphCall, graph_call
from .lift_window import Window, results_of
from .lifted import Lifted
from .steps import Steps, make_steps
from .windowed import Windowed
from .workspace import Workspace

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

    @property
    def blocks(self) -> int:
        return self.loop.blocks

    @property
    def exact(self) -> bool:
        """Whether a lifted step has the bits of a single one, because no operator rounds by shape."""
        return all(part.exact for part in self._parts())

    @property
    def unlifted(self) -> list[Node]:
        """Operators that can be evaluated step by step only: then there are no sweeps."""
        return [node for part in self._parts() for node in part.unlifted]

    @property
    def inexact(self) -> list[Node]:
        """Operators whose rounding may depend on how many steps are evaluated at once."""
        return [node for part in self._parts() for node in part.inexact]

    def _parts(self) -> tuple[Lifted, ...]:
        return self.ahead, self.body, self.kept

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
        """Each step reads the one before it."""
        return ()

    @property
    def windowed(self) -> Windowed | None:
        """A sweep computes its window only, whatever the schedule says of windows."""
        return None

    def constants(self, env: Env) -> Env:
        """``env`` with the work that depends on neither state nor step."""
        return self.invariant.extend(env) if self.blocks else env

    def prepare(self, env: Env) -> Env:
        """``env`` with what depends on the step alone, for all steps."""
        if not self.blocks:
            return env
        names = [ref.key for ref in self.loop.ahead.outputs]
        values = self.ahead(Window(0, self.blocks, env, False, self._handed(env, 0, self.blocks)))
        return {**env, **{name: self._laid_out(t) for name, t in zip(names, values, strict=True)}}

    def _handed(self, env: Env, lo: int, hi: int) -> dict[str, Tensor]:
        return {given.value.name: env[given.stack.key][lo:hi] for given in self.loop.inputs}

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
        """Blocks ``lo .. hi - 1``."""
        return tuple(leaf[lo + 1 : hi + 1] for leaf in state)

    def write(self, state: Trajectory, lo: int, hi: int, values: Values) -> None:
        """Put new values of blocks in place."""
        for leaf, new in zip(state, values, strict=True):
            leaf[lo + 1 : hi + 1] = new

    def update(self, env: Env, state: Trajectory, lo: int, hi: int, exact: bool) -> tuple[Values, list[Tensor]]:
        """New values of blocks ``lo .. hi - 1``, each from the block before it."""
        values = self.body(self._window(env, state, lo, hi))
        own = {leaf.untyped_storage().data_ptr() for leaf in state}
        # a step that only moves elements of the state: it is about to be written
        return tuple(v.clone() if v.untyped_storage().data_ptr() in own else v for v in values), []

    def collect(self, env: Env, state: Trajectory, blocks: int) -> Values:
        """What the first ``blocks`` steps leave besides the state, from final values."""
        return tuple(t.contiguous() for t in self.kept(self._window(env, state, 0, blocks)))

    def _window(self, env: Env, state: Trajectory, lo: int, hi: int) -> Window:
        given = self._handed(env, lo, hi)
        given |= {ref.key: env[ref.key][lo:hi] for ref in self.loop.ahead.outputs}
        given |= {value.name: leaf[lo:hi] for value, leaf in zip(self.loop.carry, state, strict=True)}
        return Window(lo, hi, env, False, given)

    def window(self, env: Env, workspace: Workspace, state: Trajectory, lo: int, hi: int) -> Values:
        """There are no kept values."""
        raise AssertionError("a recurrence has no windowed sweeps")

    def at(self, state: Trajectory, done: int) -> tuple[Tensor, ...]:
        """The state after ``done`` steps, in the layout that the author's loop has."""
        return tuple(
            torch.empty_strided(value.type.shape, value.type.stride, dtype=leaf.dtype, device=leaf.device).copy_(
                leaf[done]
            )
            for value, leaf in zip(self.loop.carry, state, strict=True)
        )

    def premises_hold(self, values: list[Tensor], sums: Sequence[float]) -> bool:
        """There are none."""
        return True

    def failed(self, values: list[Tensor]) -> str:
        """No premise."""
        return ""

    def final(self, known: int, computed: int) -> int:
        """The first changed block was computed from final ones; the next one was not."""
        return min(known + 1, computed)

    def steps_done(self, blocks: int) -> int:
        """Blocks are steps."""
        return blocks


def make_recurrent(loop: Recurrence, device: torch.device) -> Recurrent:
    """``loop`` compiled for ``device``."""
    steps, read_by_steps, loop = make_steps(loop, device), loop.invariant.outputs, spelled_out(loop)
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
        loop.blocks > max((torch.Size(value.type.shape).numel() for value in loop.carry), default=0),
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

"""A chain of unlike blocks ready to run: the state is the values of all blocks, each as its own calls gave it.

No value is stacked or copied: a block that is computed from final values has the bits, and the layout, that the
function's own evaluation gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from ..graph import Graph, Ref, TensorType
from ..plan import Method, Schedule
from ..program import Chain
from .blocks import Env, Values
from .graphs import GraphCall, graph_call
from .unlike import Unlike
from .windowed import Windowed
from .workspace import Workspace

Held: TypeAlias = list[tuple[Tensor, ...]]
"""For each block its values."""


@dataclass(frozen=True, slots=True)
class Chained:
    """What the solve loop needs of a `Chain`. Threads may share it.

    ``run``: so many blocks are computed one after the other within a sweep, each on the new values of those before it.
    """

    chain: Chain
    calls: tuple[GraphCall, ...]
    keys: tuple[tuple[str, ...], ...]  # under which each block's values stand in an environment
    types: tuple[tuple[TensorType, ...], ...]
    reads: tuple[tuple[int, ...], ...]  # for each block the blocks that it reads
    levels: tuple[int, ...]
    device: torch.device
    run: int = 1

    @property
    def blocks(self) -> int:
        return self.chain.blocks

    @property
    def exact(self) -> bool:
        """Every sweep makes the recorded calls."""
        return True

    @property
    def ends_anywhere(self) -> bool:
        """Levels and groups are whole."""
        return False

    @property
    def priced_by_width(self) -> bool:
        """A sweep evaluates the blocks of its window and no others."""
        return True

    @property
    def windowed(self) -> Windowed | None:
        """Blocks are computed whole."""
        return None

    def prepare(self, env: Env) -> Env:
        """Nothing is needed once per run."""
        return env

    def start_from(self, init: tuple[Tensor, ...]) -> Held:
        """Zeros: there is no first state."""
        return [tuple(self._zeros(kind) for kind in kinds) for kinds in self.types]

    def _zeros(self, kind: TensorType) -> Tensor:
        span = 1 + sum(max(n - 1, 0) * step for n, step in zip(kind.shape, kind.stride, strict=True))
        zeros = torch.zeros(span, dtype=getattr(torch, kind.dtype), device=self.device)
        return zeros.as_strided(kind.shape, kind.stride)

    def read(self, state: Held, lo: int, hi: int) -> Values:
        """Blocks ``lo .. hi - 1``."""
        return Unlike.of(state[lo:hi])

    def write(self, state: Held, lo: int, hi: int, values: Values) -> None:
        """Put new values of blocks in place."""
        (state[lo:hi],) = values

    def update(self, env: Env, state: Held, lo: int, hi: int, exact: bool) -> tuple[Values, list[Tensor]]:
        """New values of blocks ``lo .. hi - 1``: in runs, on the new values of their run and the old ones of others."""
        made: Held = []
        for k in range(lo, hi):
            begin = max(k - k % self.run, lo)
            made.append(self._block(env, k, {j: made[j - lo] for j in self.reads[k] if j >= begin}, state))
        return Unlike.of(made), []

    def _block(self, env: Env, k: int, new: Mapping[int, tuple[Tensor, ...]], state: Held) -> tuple[Tensor, ...]:
        given = {
            key: value for j in self.reads[k] for key, value in zip(self.keys[j], new.get(j, state[j]), strict=True)
        }
        call = self.calls[k]
        return call.function(*[given[name] if name in given else env[name] for name in call.inputs])  # type: ignore[no-any-return]

    def finish(self, env: Env, state: Held | None, done: int = 0) -> tuple[Tensor, ...]:
        """The values of all blocks, of which the first ``done`` are those of ``state``: the others one by one."""
        values = dict(env)
        for k, call in enumerate(self.calls):
            made = (
                state[k] if state is not None and k < done else call.function(*[values[name] for name in call.inputs])
            )
            values.update(zip(self.keys[k], made, strict=True))
        return tuple(values[key] for keys in self.keys for key in keys)

    def window(self, env: Env, workspace: Workspace, state: Held, lo: int, hi: int) -> Values:
        """There are no kept values."""
        raise AssertionError("a chain has no windowed sweeps")

    def premises_hold(self, values: list[Tensor], sums: Sequence[float]) -> bool:
        """There are none."""
        return True

    def failed(self, values: list[Tensor]) -> str:
        """No premise."""
        return ""

    def final(self, known: int, computed: int) -> int:
        """How many leading blocks are final after a sweep computed those before ``computed`` from ``known`` final ones.

        The first block that changed has read final ones. So has every later one that reads only blocks before that one,
        or ones of its own run that are final (docs/chains.md).
        """
        front = min(known + 1, computed)
        while front < computed and all(j < known or j >= front - front % self.run for j in self.reads[front]):
            front += 1
        return front

    def steps_done(self, blocks: int) -> int:
        """Blocks are steps."""
        return blocks


def make_chained(chain: Chain, device: torch.device, schedule: Schedule) -> Chained:
    """``chain`` compiled for ``device``."""
    calls = tuple(_compiled(graph, device) for graph in chain.graphs)
    made = {node.name: k for k, graph in enumerate(chain.graphs) for node in graph.nodes}
    reads = tuple(
        tuple(sorted({made[value.name] for value in graph.inputs if value.name in made})) for graph in chain.graphs
    )
    return Chained(
        chain,
        calls,
        tuple(tuple(ref.key for ref in graph.outputs) for graph in chain.graphs),
        tuple(tuple(_type(graph, ref) for ref in graph.outputs) for graph in chain.graphs),
        reads,
        chain.levels if len(chain.levels) < chain.blocks else (),
        device,
        schedule.block or 1 if schedule.method is Method.JACOBI_GS else 1,
    )


@lru_cache(maxsize=4096)
def _compiled(graph: Graph, device: torch.device) -> GraphCall:
    """A block compiled once for all runners of a plan: there are many blocks, and a runner for each candidate."""
    return graph_call(graph, device)


def _type(graph: Graph, ref: Ref) -> TensorType:
    kind = next(node.types for node in graph.nodes if node.name == ref.name)[ref.output or 0]
    assert kind is not None
    return kind

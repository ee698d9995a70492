"""A chain of unlike blocks ready to run: the state is the values of all blocks, each as its own calls gave it.

Under bits no value is stacked or copied: a block that is computed from final values has the bits, and the layout, that
the function's own evaluation gives them. Under a tolerance blocks that are alike are computed in one call, all that are
in a window at once (`together.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from ..graph import Graph, Ref, TensorType
from ..program import Chain
from .blocks import Env, Values
from .graphs import GraphCall, graph_call
from .runs import ALONE, Runs
from .together import Together, make_together
from .unlike import Unlike
from .watch import Watch, look
from .windowed.windowed import Windowed
from .windowed.workspace import Workspace

SOME = 4
"""Blocks between two looks at the watch, besides those that are between the operators of large ones."""

Held: TypeAlias = list[tuple[Tensor, ...]]
"""For each block its values."""


@dataclass(frozen=True, slots=True)
class Chained:
    """What the solve loop needs of a `Chain`. Threads may share it."""

    chain: Chain
    calls: tuple[GraphCall, ...]
    keys: tuple[tuple[str, ...], ...]  # under which each block's values stand in an environment
    types: tuple[tuple[TensorType, ...], ...]
    reads: tuple[tuple[int, ...], ...]  # for each block the blocks that it reads
    levels: tuple[int, ...]
    device: torch.device
    runs: Runs = ALONE
    together: tuple[Together, ...] = ()
    places: Mapping[str, tuple[int, int]] = field(init=False)  # where the value of a key stands in the state

    def __post_init__(self) -> None:
        found = {key: (k, i) for k, keys in enumerate(self.keys) for i, key in enumerate(keys)}
        object.__setattr__(self, "places", found)

    @property
    def blocks(self) -> int:
        return self.chain.blocks

    @property
    def exact(self) -> bool:
        """Every sweep makes the recorded calls, or others that give their bits."""
        return all(family.exact for family in self.together)

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
        """``env`` with the stacked weights of blocks that are computed together."""
        return {**env, **{key: t for family in self.together for key, t in family.stacks(env).items()}}

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

    def update(
        self, env: Env, state: Held, lo: int, hi: int, exact: bool, watch: Watch | None = None
    ) -> tuple[Values, list[Tensor]]:
        """New values of blocks ``lo .. hi - 1``: in runs, on the new values of their run and the old ones of others."""
        found = (self.at_once(family, env, state, lo, hi, watch) for family in self.together)
        at_once = {k: values for family in found for k, values in family.items()}
        made: Held = []
        for k in range(lo, hi):
            if k in at_once:
                made.append(at_once[k])
                continue
            begin = self.runs.begin(k, lo)
            made.append(self._block(env, k, {j: made[j - lo] for j in self.reads[k] if j >= begin}, state, watch))
            if (k + 1 - lo) % SOME == 0 and k + 1 < hi:
                look(watch)
        return Unlike.of(made), []

    def at_once(
        self, family: Together, env: Env, state: Held, lo: int, hi: int, watch: Watch | None = None
    ) -> dict[int, tuple[Tensor, ...]]:
        """New values of those in a window that are computed together, from the old ones of others."""

        def value(key: str) -> Tensor:
            if key not in self.places:
                return env[key]
            block, output = self.places[key]
            return state[block][output]

        return family.made(env, value, lo, hi, watch)

    def _block(
        self, env: Env, k: int, new: Mapping[int, tuple[Tensor, ...]], state: Held, watch: Watch | None
    ) -> tuple[Tensor, ...]:
        given = {
            key: value for j in self.reads[k] for key, value in zip(self.keys[j], new.get(j, state[j]), strict=True)
        }
        call = self.calls[k]
        read = [given[name] if name in given else env[name] for name in call.inputs]
        return call.function(*read, watch)  # type: ignore[no-any-return]

    def finish(self, env: Env, state: Held | None, done: int = 0) -> tuple[Tensor, ...]:
        """The values of all blocks, of which the first ``done`` are those of ``state``: the others one by one."""
        values = dict(env)
        for k, call in enumerate(self.calls):
            made = (
                state[k] if state is not None and k < done else call.function(*[values[name] for name in call.inputs])
            )
            values.update(zip(self.keys[k], made, strict=True))
        return tuple(values[key] for keys in self.keys for key in keys)

    def window(
        self, env: Env, workspace: Workspace, state: Held, lo: int, hi: int, watch: Watch | None = None
    ) -> Values:
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
        while front < computed and all(j < known or j >= self.runs.begin(front) for j in self.reads[front]):
            front += 1
        return front

    def unmoved(self, lo: int, hi: int, compared: int) -> int:
        """Every block is compared."""
        return lo + compared

    def steps_done(self, blocks: int) -> int:
        """Blocks are steps."""
        return blocks


def make_chained(chain: Chain, device: torch.device, runs: Runs = ALONE, loose: bool = False) -> Chained:
    """``chain`` compiled for ``device``; its sweeps compute ``runs`` in order.

    Blocks are computed together where the chain says so, and every operator of theirs can be evaluated so; unless this
    may be ``loose`` with the last bits, only if none rounds by shape. Within runs they follow each other.
    """
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
        runs,
        _together(chain, device, loose) if runs.size == 1 else (),
    )


def _together(chain: Chain, device: torch.device, loose: bool) -> tuple[Together, ...]:
    made = frozenset(ref.key for ref in chain.left)
    found = (make_together(chain.graphs, numbers, device, made) for numbers in chain.together)
    return tuple(family for family in found if family.possible and (loose or family.exact))


@lru_cache(maxsize=4096)
def _compiled(graph: Graph, device: torch.device) -> GraphCall:
    """A block compiled once for all runners of a plan: there are many blocks, and a runner for each candidate."""
    return graph_call(graph, device, watched=True)


def _type(graph: Graph, ref: Ref) -> TensorType:
    kind = next(node.types for node in graph.nodes if node.name == ref.name)[ref.output or 0]
    assert kind is not None
    return kind

"""What a chain of unlike blocks costs with more samples at once: copies of a call go through it, block after block.

Each block is timed on the values of all copies, and on those of one, by the same evaluation: what the copies take more
is what the block costs more. One pass through the blocks costs so many times the function, so that there are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..graph import Graph, Node, TensorType, Value
from ..plan import Costs
from ..program import Program
from ..runtime.chained import Chained
from ..runtime.graphs import GraphCall, graph_call
from ..runtime.lift.lifted import Lifted
from ..runtime.lift.window import Window, results_of
from .timing import now

PASSES = 3
"""Of one copy and of all, in turns. The first are not counted; of the others the least seconds of each block are."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A block, or what comes before all: ``same`` is what all copies have in common, ``lifted`` the rest, for all."""

    same: GraphCall
    lifted: Lifted | None
    given: tuple[str, ...]  # what it reads that each copy has of its own
    keys: tuple[str, ...]

    def values(self, copied: Mapping[str, Tensor], shared: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """What each of the first so many copies has of its own, by key."""
        if self.lifted is None:
            return {}
        given = {key: copied[key][:count] for key in self.given}
        return dict(zip(self.keys, self.lifted(Window(0, count, shared, False, given)), strict=True))


@dataclass(frozen=True, slots=True)
class ChainCopies:
    """A chain begun on the example: ``env`` holds arguments and weights, ``moving`` names what calls differ in."""

    chain: Chained
    program: Program
    env: Mapping[str, Tensor]
    moving: frozenset[str]
    device: torch.device

    @property
    def blocks(self) -> int:
        return self.chain.blocks

    def costs(self, here: Costs, times: int) -> Costs:
        """Those of so many copies: more by what their blocks take more. Bookkeeping is taken not to grow.

        Blocks that one call computes are predicted as if each was computed by itself.
        """
        (before, *each) = self._more(times)
        blocks = tuple(seconds + more for seconds, more in zip(here.blocks, each, strict=True))
        after = here.after * times
        reference = here.step * self.blocks + before + sum(each) + after - here.after
        at_once = sum(seconds - sum(here.blocks[k] for k in family) for family, _, seconds in here.together)
        beside = max(here.sweep - sum(here.blocks) - at_once, 0.0)
        sweep = beside + sum(blocks)
        grown = sweep / here.sweep
        return replace(
            here,
            step=reference / self.blocks,
            sweep=sweep,
            certify=sweep,
            once=here.once + before,
            windows=tuple((width, seconds * grown) for width, seconds in here.windows),
            blocks=blocks,
            together=(),
            after=after,
            draws=here.draws * times,
        )

    def _more(self, times: int) -> list[float]:
        """Seconds that so many copies take more than one: before the blocks, and in each of them."""
        pieces = self._pieces(times)
        passes = [(self._through(pieces, 1), self._through(pieces, times)) for _ in range(PASSES)][1:]
        one, every = (map(min, zip(*turns, strict=True)) for turns in zip(*passes, strict=True))
        return [max(b - a, 0.0) for a, b in zip(one, every, strict=True)]

    def _pieces(self, times: int) -> list[Piece]:
        """What comes before the blocks, and each of these."""
        graphs = (self._prologue(), *self.chain.chain.graphs)
        types = {key: _kind(t) for key, t in self.env.items()}
        types |= {ref.key: kind for graph in graphs for node in graph.nodes for ref, kind in results_of(node)}
        moving = set(self.moving)
        return [self._piece(graph, moving, types, times) for graph in graphs]

    def _piece(self, graph: Graph, moving: set[str], types: Mapping[str, TensorType], times: int) -> Piece:
        """Names of what each copy has of its own are added to ``moving``."""
        outside, own, same = set(moving), list[Node](), list[Node]()
        for node in graph.nodes:
            differs = any(ref.name in moving for ref in node.refs())
            moving |= {node.name} if differs else set()
            (own if differs else same).append(node)
        read = dict.fromkeys(ref for node in own for ref in node.refs())
        made = {node.name for node in same}
        handed = tuple(ref for ref in dict.fromkeys((*read, *graph.outputs)) if ref.name in made)
        given = {ref.key: types[ref.key] for ref in read if ref.name in outside}
        outputs = tuple(ref for ref in graph.outputs if ref.name in moving)
        inner = {node.name for node in own}
        values = tuple(Value(ref.key, types[ref.key]) for ref in read if ref.name not in inner)
        lifted = Lifted(Graph(values, tuple(own), outputs), (), self.device, times, given) if own else None
        alone = graph_call(Graph(graph.inputs, tuple(same), handed), self.device)
        return Piece(alone, lifted, tuple(given), tuple(ref.key for ref in outputs))

    def _prologue(self) -> Graph:
        """With what the blocks read of it."""
        graph = self.program.prologue
        made = {node.name for node in graph.nodes}
        read = dict.fromkeys(ref for block in self.chain.chain.graphs for node in block.nodes for ref in node.refs())
        return replace(graph, outputs=tuple(ref for ref in read if ref.name in made))

    def _through(self, pieces: Sequence[Piece], count: int) -> list[float]:
        copied = {key: _copies(self.env[key], count) for key in self.moving}
        shared, seconds = dict(self.env), list[float]()
        for piece in pieces:
            started = now(self.device)
            shared = piece.same.extend(shared)
            copied |= piece.values(copied, shared, count)
            seconds.append(now(self.device) - started)
        return seconds


def _copies(t: Tensor, times: int) -> Tensor:
    """So many copies one after the other, in the memory order of one."""
    copies = torch.empty_strided((times, *t.shape), (_span(t), *t.stride()), dtype=t.dtype, device=t.device)
    return copies.copy_(t.expand(times, *t.shape))


def _kind(t: Tensor) -> TensorType:
    return TensorType(str(t.dtype).removeprefix("torch."), tuple(t.shape), tuple(t.stride()))


def _span(t: Tensor) -> int:
    return 1 + sum(max(n - 1, 0) * step for n, step in zip(t.shape, t.stride(), strict=True))

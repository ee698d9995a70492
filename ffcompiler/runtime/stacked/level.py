"""One level of a stack of layers as one graph: each layer at a step of its own, layers that are alike in one call.

before:  body: h0 = gru(x[t], c0, w..); h1 = gru(h0, c1, v..); h2 = gru(h1, c2, u..)     (a step: layer after layer)
after:   once: W = stack(w, v, u) ..
         level: H = gru(X, C, W..)      (layer l at step t - l: all that it reads, the levels before have made)

Values of layers that are alike stand in one tensor ``[layers, *shape]``, a *pack*. Packs are asked for from the end:
the new states of all layers, if one operator makes them at the same shapes, are that operator on the packs of its
operands, and so on to weights and old states. Where layers part ways, a pack is put together from what they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...graph import Graph, Node, Ref
from ...program import Recurrence
from ...stacks import Stack
from .kept import Body, Item, Kept, kept_of
from .values import LevelValues


@dataclass(frozen=True, slots=True)
class Level:
    """``graph`` gives what is ``kept``, from values of levels before (``past``), of steps (``given``) and shared ones.

    ``past``: by the name of an input which kept value it is, and of how many levels before. ``given``: values that are
    known ahead for all steps, packed if there are several or ``True``. ``numbers``: by its new number a table of the
    loop, and the layer that reads it. ``once``: packs of shared values.
    """

    graph: Graph
    once: Graph
    kept: tuple[Kept, ...]
    past: Mapping[str, tuple[int, int]]
    given: Mapping[str, tuple[tuple[Item, ...], bool]]
    numbers: tuple[tuple[int, int], ...]
    depth: int

    @property
    def lag(self) -> int:
        """So many levels back values are read."""
        return max((lag for _, lag in self.past.values()), default=1)


def level_of(loop: Recurrence, stack: Stack, together: bool) -> Level:
    """A level of ``loop``; ``together``: with layers that are alike in one call, else by the recorded calls alone.

    Packs are asked for first, so that what stands in one is not computed a second time.
    """
    body = Body.of(loop, stack)
    kept = kept_of(body, together)
    values = LevelValues(body, kept)
    made = {one: _made(values, one) for one in sorted(kept, key=lambda one: not one.packed)}
    outputs = tuple(made[one] for one in kept)
    level, read = _needed(values.level, outputs)
    once, _ = _needed(values.once, [ref for ref in read if ref.name not in values.local])
    own = {node.name for node in once}
    return Level(
        Graph((), level, outputs),
        Graph((), once, tuple(ref for ref in read if ref.name in own)),
        kept,
        {name: past for name, past in values.past.items() if Ref(name) in read},
        {name: given for name, given in values.given.items() if Ref(name) in read},
        tuple(values.numbers),
        stack.depth,
    )


def _made(values: LevelValues, kept: Kept) -> Ref:
    return values.pack(kept.members) if kept.packed else values.single(*kept.members[0])


def _needed(nodes: Sequence[Node], outputs: Iterable[Ref]) -> tuple[tuple[Node, ...], list[Ref]]:
    """Those of the nodes that the outputs need, and all that these and the outputs read, each once."""
    read, kept = dict.fromkeys(outputs), list[Node]()
    names = {ref.name for ref in read}
    for node in reversed(nodes):
        if node.name in names:
            kept.append(node)
            read |= dict.fromkeys(node.refs())
            names |= {ref.name for ref in node.refs()}
    return tuple(reversed(kept)), list(read)

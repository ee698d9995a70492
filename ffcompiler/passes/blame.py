"""From a leaking element back to the loop's state: the operators that carry the dependence, for error messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..graph import Node, Ref, Step
from ..plan import ArrayLoop
from ..proof import Latest
from .latest import Interpretation
from .rules import RULES

Index = tuple[int, ...]
_MIXING = ("mm", "linear", "convolution", "softmax", "sum", "mean", "cumsum", "attention", "norm")


@dataclass(frozen=True, slots=True)
class Hop:
    """``node`` passes the dependence from element ``index`` of value ``of`` to its own element ``to``."""

    node: Node
    of: str
    index: Index
    to: Index

    @property
    def mixes(self) -> bool:
        """Whether the operator combines different elements, so that it may be the one whose mask is wrong."""
        return self.node.op not in RULES or any(part in self.node.op for part in _MIXING)

    def describe(self) -> str:
        if self.node.op not in RULES:
            return " (no dependence rule: taken to depend on all of its inputs)"
        return f" (element {list(self.to)} reads element {list(self.index)})"


def trace(loop: ArrayLoop, it: Interpretation, k: int) -> list[Hop]:
    """The way from the loop's state to what step ``k`` writes, along elements with ``latest >= k``; state first."""
    nodes = {n.name: n for g in (loop.invariant, loop.shared, loop.tail) for n in g.nodes}
    tables = {t: row[k] for t, row in enumerate(loop.tables)}
    name = loop.tail.outputs[0].name
    latest = it.latest[name]
    index = _first(latest >= k)
    path: list[Hop] = []
    while name in nodes and index is not None:
        node = nodes[name]
        step = next(iter(_back(it, node, index, k, tables)), None)
        if step is None:
            break
        path.append(Hop(node, step[0], step[1], index))
        name, index = step
    return path[::-1]


def at(latest: Latest, index: Index) -> Index:
    """``index`` in an array in which a dimension of equal entries has size 1."""
    index = index[len(index) - latest.ndim :]
    return tuple(0 if size == 1 else i for size, i in zip(latest.shape, index, strict=True))


def _back(
    it: Interpretation, node: Node, index: Index, k: int, tables: dict[int, int | float]
) -> Iterator[tuple[str, Index]]:
    """Elements of the operands that may be responsible, the likeliest first."""
    for ref in node.refs():
        latest = it.latest.get(ref.name)
        if latest is None or not (latest >= k).any():
            continue
        for guess in _guesses(it, node, ref, index, tables):
            if latest.ndim <= len(guess) and _inside(latest, guess) and latest[at(latest, guess)] >= k:
                yield ref.name, guess
        found = _weighted(it, node, ref, index, k)
        yield ref.name, found if found is not None else _first(latest >= k) or ()


def _guesses(it: Interpretation, node: Node, ref: Ref, index: Index, tables: dict[int, int | float]) -> Iterator[Index]:
    """Where the element comes from, for elementwise operators and plain views."""
    numbers = [tables[a.table] if isinstance(a, Step) else a for a in node.args]
    shape = it.shape(ref)
    if node.op == "aten.select.int":
        dim = int(numbers[1]) % len(shape)  # type: ignore[arg-type]
        yield (*index[:dim], int(numbers[2]) % shape[dim], *index[dim:])  # type: ignore[arg-type]
    elif node.op == "aten.slice.Tensor":
        dim = int(numbers[1]) % len(shape)  # type: ignore[arg-type]
        yield (*index[:dim], index[dim] + int(numbers[2] or 0), *index[dim + 1 :])  # type: ignore[arg-type]
    elif len(shape) <= len(index) and not any(
        part in node.op for part in (*_MIXING, "view", "permute", ".t", "transpose")
    ):
        yield index


def _weighted(it: Interpretation, node: Node, ref: Ref, index: Index, k: int) -> Index | None:
    """For ``addmm`` and ``mm``: a summed-over element with a weight that is not zero."""
    if node.op not in ("aten.addmm.default", "aten.mm.default"):
        return None
    *_, left, right = (a for a in node.args if isinstance(a, Ref))
    if ref != left or right.name not in it.patterns:
        return None
    latest = it.latest[ref.name]
    row = np.broadcast_to(latest[at(latest, (index[0], 0))[0]], (it.shape(ref)[1],))
    hits = np.flatnonzero((row >= k) & it.patterns[right.name][:, index[1]])
    return (index[0], int(hits[0])) if hits.size else None


def _inside(latest: Latest, index: Index) -> bool:
    index = index[len(index) - latest.ndim :]
    return all(size == 1 or i < size for size, i in zip(latest.shape, index, strict=True))


def _first(mask: np.ndarray) -> Index | None:
    hits = np.argwhere(mask)
    return tuple(int(i) for i in hits[0]) if len(hits) else None

"""From a leaking element back to the loop's state: the operators that carry the dependence, for error messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..graph import Node, Ref
from ..program import ArrayLoop
from ..proof import Latest
from .latest import Interpretation
from .rules import RULES
from .rules.ranges import range_of

Index = tuple[int, ...]
_MIXING = ("mm", "linear", "convolution", "softmax", "sum", "mean", "cumsum", "attention", "norm", "matmul")
_MARK = np.int32(2**30)  # above all step numbers


@dataclass(frozen=True, slots=True)
class Hop:
    """``node`` passes the dependence from element ``index`` of value ``of`` to its own element ``to``."""

    node: Node
    of: str
    index: Index
    to: Index
    remark: str = ""

    @property
    def mixes(self) -> bool:
        """Whether the operator combines different elements, so that it may be the one whose mask is wrong."""
        return self.node.op not in RULES or any(part in self.node.op for part in _MIXING)

    def describe(self) -> str:
        if self.node.op not in RULES:
            return " (no dependence rule: taken to depend on all of its inputs)"
        return f" (element {list(self.to)} reads element {list(self.index)}{self.remark})"


def trace(loop: ArrayLoop, it: Interpretation, k: int, ref: Ref) -> list[Hop]:
    """The way from the loop's state to what step ``k`` makes, along elements with ``latest >= k``; state first.

    ``ref``: what that is, the value that it writes or one that it leaves besides.
    """
    nodes = {n.name: n for g in (loop.invariant, loop.shared, loop.tail, loop.besides) for n in g.nodes}
    tail = {n.name for n in (*loop.tail.nodes, *loop.besides.nodes)}
    tables = {t: row[k] for t, row in enumerate(loop.tables)}
    path = list[Hop]()
    index = _first(it.of(ref) >= k)
    while ref.name in nodes and index is not None:
        node = nodes[ref.name]
        shared = replace(it, use_zeros=node.name not in tail)
        found = _back(shared, node, ref.output, index, k, tables)
        if found is None:
            break
        read, at_index = found
        path.append(Hop(node, read.key, at_index, index, _remark(shared, node, read, at_index, index, k)))
        ref, index = read, at_index
    return path[::-1]


def at(latest: Latest, index: Index) -> Index:
    """``index`` in an array in which a dimension of equal entries has size 1."""
    index = index[len(index) - latest.ndim :]
    return tuple(0 if size == 1 else i for size, i in zip(latest.shape, index, strict=True))


def _back(
    it: Interpretation, node: Node, output: int | None, index: Index, k: int, tables: Mapping[int, int | float]
) -> tuple[Ref, Index] | None:
    """The operand, and the first element of it with ``latest >= k``, that element ``index`` of the result depends on.

    The operator's own rule says it, since it takes a maximum: elements that may be responsible are given numbers above
    all steps in place of ``latest``, the first of them the largest.
    """
    reading = [ref for ref in dict.fromkeys(node.refs()) if (it.of(ref) >= k).any()]
    for ref in reading:
        latest = it.of(ref)
        guilty = np.flatnonzero(latest >= k)
        marked = latest.copy()
        marked.reshape(-1)[guilty] = _MARK + np.arange(guilty.size - 1, -1, -1, dtype=np.int32)
        result = replace(it, latest={**it.latest, ref.key: marked}).evaluate(node, tables, output)
        if result.ndim > len(index):
            continue
        number = int(result[at(result, index)] - _MARK)
        if number >= 0:
            place = np.unravel_index(guilty[guilty.size - 1 - number], latest.shape)
            return ref, tuple(int(i) for i in place)
    first = next(iter(reading), None)
    return None if first is None else (first, _first(it.of(first) >= k) or ())


def _remark(it: Interpretation, node: Node, read: Ref, index: Index, to: Index, k: int) -> str:
    """What is special about the way: a weight that no state changes and that is not zero; statistics."""
    if "norm" in node.op and "no_training" not in node.op:
        return ": both are in what it takes the mean over"
    refs = list(node.refs())
    if "bmm" not in node.op or len(refs) < 2 or read != refs[-1] or len(index) < 2:
        return ""
    weights = it.of(refs[-2])
    weight = (*to[:-1], index[-2])
    attention = bool((range_of(it, refs[-2], len(to)).low >= 0).all())  # of a softmax that was masked
    if not attention or len(weight) < weights.ndim or weights[at(weights, weight)] >= k:
        return ""
    return f", by the weight {list(weight)}, which is not known to be 0: does the mask hide all keys of that row alike?"


def _first(mask: np.ndarray) -> Index | None:
    hits = np.argwhere(mask)
    return tuple(int(i) for i in hits[0]) if len(hits) else None

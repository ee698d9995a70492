"""Products of matrices: over the summed axis, entries where a constant factor is zero are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph import Node, Ref
from ...proof import Latest
from ..latest import NEVER, Interpretation, Rule
from .attention import of_two_states
from .common import joined, named, over, rank_of

Mask = npt.NDArray[np.bool_]


def through(latest: Latest, nonzero: Mask) -> Latest:
    """``latest`` ([.., M, K], compact) of ``state @ w`` from where ``w`` ([K, N] or [.., K, N]) is not zero."""
    if nonzero.all():
        return over(latest, -1)
    if nonzero.ndim > 2:
        return _stacked(latest, nonzero)
    if latest.shape[-1] == 1:
        return np.where(nonzero.any(axis=0), latest, NEVER)
    rows, which = np.unique(latest.reshape(-1, latest.shape[-1]), axis=0, return_inverse=True)
    found = np.stack([_max_over(row, nonzero) for row in rows])
    return found[which.reshape(-1)].reshape(*latest.shape[:-1], nonzero.shape[-1])


def _stacked(latest: Latest, nonzero: Mask) -> Latest:
    """A stack of weights; often all are the same one, expanded."""
    alike = nonzero.reshape(-1, *nonzero.shape[-2:])
    if (alike[0] == alike).all():
        return through(latest, alike[0])
    lead = np.broadcast_shapes(latest.shape[:-2], nonzero.shape[:-2])
    states = np.broadcast_to(latest, (*lead, *latest.shape[-2:]))
    weights = np.broadcast_to(nonzero, (*lead, *nonzero.shape[-2:]))
    parts = [through(states[at], weights[at]) for at in np.ndindex(*lead)]
    shape = np.broadcast_shapes(*(part.shape for part in parts))
    return np.stack([np.broadcast_to(part, shape) for part in parts]).reshape(*lead, *shape)


def _max_over(row: npt.NDArray[np.int32], nonzero: Mask) -> Latest:
    """For each column of ``nonzero`` the largest entry of ``row`` where it is True; -1 where it is nowhere True."""
    order = np.argsort(-row, kind="stable")
    sorted_nonzero = nonzero[order]
    first = sorted_nonzero.argmax(axis=0)
    return np.where(sorted_nonzero.any(axis=0), row[order][first], NEVER).astype(np.int32)


def product(it: Interpretation, node: Node, a: Ref, b: Ref, zeros: bool = True, added: Any = None) -> Latest:
    """``a @ b`` of matrices, or of stacks of them; a vector is a row on the left, a column on the right.

    ``zeros``: whether zeros of a factor may be used; ``added``: what the sums have besides the products.
    """
    la, lb = it.of(a), it.of(b)
    la, lb = (la[None] if la.ndim == 1 else la), (lb[:, None] if lb.ndim == 1 else lb)
    rank = max(la.ndim, lb.ndim)
    if zeros and it.is_constant(b):
        nonzero = it.cut(b, a, node, added)
        result = through(joined([la], rank), nonzero[:, None] if nonzero.ndim == 1 else nonzero)
    elif zeros and it.is_constant(a):
        nonzero = it.cut(a, b, node, added)
        nonzero = nonzero[None] if nonzero.ndim == 1 else nonzero
        result = _flipped(through(_flipped(joined([lb], rank)), _flipped(nonzero)))
    else:
        matrices = min(len(it.shape(a)), len(it.shape(b))) > 1
        zeros = zeros and matrices
        result = of_two_states(it, node, a, b, added) if zeros else joined([over(la, -1), over(lb, -2)], rank)
    column = len(it.shape(b)) == 1
    result = result[..., 0] if column else result
    return result if len(it.shape(a)) > 1 else result[..., 0] if column else result[..., 0, :]


def _flipped(matrices: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.swapaxes(matrices, -1, -2)


def matmul(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``mm``, ``bmm``, ``mv``, ``dot``, ``matmul``: of two states, row and column."""
    return product(it, node, args[0], args[1])


def addmm(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``beta * bias + alpha * (a @ b)``: with an ``alpha`` of which a kernel could scale a factor, no use of zeros."""
    bias, a, b, beta, alpha = args
    return joined([product(it, node, a, b, beta == 1 and alpha == 1, bias), it.of(bias)], rank_of(node))


def addbmm(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``addmm`` summed over a stack."""
    return joined([over(product(it, node, args[1], args[2], False), 0, False), it.of(args[0])], rank_of(node))


def linear(it: Interpretation, node: Node, args: tuple[Any, ...]) -> Latest:
    """``input @ weight.T + bias`` over the last axis, with any leading axes."""
    state, weight, bias = args
    latest, vector = it.of(state), len(it.shape(weight)) == 1
    if it.is_constant(weight):
        nonzero = it.cut(weight, state, node, bias)
        result = through(latest[None], (nonzero[None] if vector else nonzero).T)[0]
    else:
        rows = over(it.of(weight), -1)  # every term
        result = np.maximum(over(latest, -1), rows if vector else rows[:, 0])
    return joined([result[..., 0] if vector else result, it.of(bias)], rank_of(node))


TABLE: dict[str, Rule] = {
    **named(matmul, "mm.default bmm.default mv.default dot.default vdot.default matmul.default"),
    **named(addmm, "addmm.default baddbmm.default addmv.default"),
    **named(addbmm, "addbmm.default"),
    **named(linear, "linear.default"),
}

"""Products of lifted values: with a weight that all steps share one product of steps times rows, else a batch of them.

``torch.vmap`` would make some of the former a product for each step, with the weight repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...graph import Node, Ref, TensorType

Values: TypeAlias = Mapping[str, Tensor]
Call: TypeAlias = Callable[[Values], Any]
Shapes: TypeAlias = Mapping[str, TensorType]  # of operands at one step, by key


def rows_times(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """``x @ w``, ``x @ w + b`` and ``linear(x, w, b)`` with lifted rows ``x`` and a shared weight."""
    if node.kwargs or not all(isinstance(arg, Ref | None) for arg in node.args):
        return None
    refs = [arg.key if isinstance(arg, Ref) else None for arg in node.args]
    bias, rows, weight = _roles(node.op, refs)
    if weight is None or rows not in lifted or len(types[weight].shape) != 2:
        return None
    if weight in lifted:
        return _rows_times_own(node.op, bias, rows, weight, lifted)
    if bias is not None and (bias in lifted or len(types[bias].shape) != 1 or types[bias].shape[0] == 1):
        return None
    by_rows = node.op == "aten.linear.default"  # its weight has one row for each column of the result

    def call(values: Values) -> Tensor:
        w = values[weight]
        return rows_by(values[rows], w if by_rows else w.t(), None if bias is None else values[bias])

    return call


def _roles(op: str, refs: Sequence[str | None]) -> tuple[str | None, str, str | None]:
    """Bias, rows and weight among the operands."""
    if op == "aten.addmm.default":
        return refs[0], refs[1] or "", refs[2]
    return (refs[2] if len(refs) > 2 else None), refs[0] or "", refs[1]


def _rows_times_own(op: str, bias: str | None, rows: str, weight: str, lifted: frozenset[str]) -> Call:
    """The same where each step has a weight of its own: a batch of products."""
    by_rows = op == "aten.linear.default"

    def call(values: Values) -> Tensor:
        x, w = values[rows], values[weight]
        columns = w.transpose(1, 2) if by_rows else w
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        if bias is None:
            product = torch.bmm(flat, columns)
        else:
            b = values[bias]
            product = torch.baddbmm(b.unsqueeze(1) if bias in lifted and b.dim() == 2 else b, flat, columns)
        return product.view(*x.shape[:-1], columns.shape[-1])

    return call


def rows_by(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ w.t() + bias`` over the last dimension of ``x``, in the memory order of ``x``: as one product.

    Where steps are innermost in memory they stay so: then rows of ``w`` meet columns that are as long as the steps.
    """
    if x.dim() > 1 and steps_are_innermost(x):
        columns = x.permute(*reversed(range(x.dim()))).reshape(x.shape[-1], -1)
        product = torch.mm(w, columns) if bias is None else torch.addmm(bias.unsqueeze(1), w, columns)
        return product.view(w.shape[0], *reversed(x.shape[:-1])).permute(*reversed(range(x.dim())))
    flat = x.reshape(-1, x.shape[-1])
    product = torch.mm(flat, w.t()) if bias is None else torch.addmm(bias, flat, w.t())
    return product.view(*x.shape[:-1], w.shape[0])


def steps_are_innermost(x: Tensor) -> bool:
    """Whether consecutive steps of an element stand side by side in memory, and the last dimension is outermost."""
    return x.stride(0) == 1 and x.shape[0] > 1 and x.stride(-1) >= max(x.stride())


def matrix_times(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """``w @ x`` with a shared matrix and lifted columns: ``x [k]`` (``mv``) or ``[k, n]`` (``mm``)."""
    if node.kwargs or len(node.args) != 2 or not all(isinstance(arg, Ref) for arg in node.args):
        return None
    weight, columns = (arg.key for arg in node.args if isinstance(arg, Ref))
    if columns not in lifted:
        return None
    if weight in lifted:
        own = node.op == "aten.mv.default"
        return (lambda values: torch.bmm(values[weight], values[columns].unsqueeze(2)).squeeze(2)) if own else None
    if node.op == "aten.mv.default":
        return lambda values: torch.mm(values[weight], values[columns].t()).t()

    def call(values: Values) -> Tensor:
        x = values[columns]
        product = torch.mm(values[weight], x.permute(1, 2, 0).reshape(x.shape[1], -1))
        return product.view(-1, x.shape[2], x.shape[0]).permute(2, 0, 1)

    return call


def product_with_matrix(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """``mm``, whichever of its operands is lifted."""
    return rows_times(node, op, types, lifted) or matrix_times(node, op, types, lifted)


def product_of_steps(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """``bmm`` of lifted operands: the batches of all steps as one."""
    keys = [arg.key for arg in node.args if isinstance(arg, Ref)]
    if node.kwargs or len(keys) != 2 or not all(key in lifted for key in keys):
        return None

    def call(values: Values) -> Tensor:
        a, b = (values[key] for key in keys)
        return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).view(*a.shape[:2], a.shape[2], b.shape[3])

    return call

"""Products of lifted values with a weight that all steps share: one product of steps times rows.

``torch.vmap`` would make some of them a product for each step, with the weight repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..graph import Node, Ref, TensorType

Values: TypeAlias = Mapping[str, Tensor]
Call: TypeAlias = Callable[[Values], Any]
Shapes: TypeAlias = Mapping[str, TensorType]  # of operands at one step, by key


def rows_times(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """``x @ w``, ``x @ w + b`` and ``linear(x, w, b)`` with lifted rows ``x`` and a shared weight."""
    if node.kwargs or not all(isinstance(arg, Ref | None) for arg in node.args):
        return None
    refs = [arg.key if isinstance(arg, Ref) else None for arg in node.args]
    bias, rows, weight = _roles(node.op, refs)
    if weight is None or rows not in lifted or weight in lifted or len(types[weight].shape) != 2:
        return None
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
    if weight in lifted or columns not in lifted:
        return None
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

"""Elementwise operators that take a Python number, as ones that take a tensor: with a number for each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...graph import Node, Step
from ..graphs import OVERLOADS

SAME_ARGUMENTS = {
    f"aten.{scalar}": f"aten.{tensor}"
    for scalar, tensor in (
        *((f"{name}.Scalar", f"{name}.Tensor") for name in "lt le gt ge eq ne remainder fmod lerp".split()),
        *((f"{name}.Scalar", f"{name}.Tensor") for name in "bitwise_and bitwise_or bitwise_xor".split()),
        *((f"{name}.Scalar", f"{name}.Tensor") for name in "__lshift__ __rshift__".split()),
        *((f"{name}.default", f"{name}.Tensor") for name in "clamp clamp_min clamp_max".split()),
        ("pow.Tensor_Scalar", "pow.Tensor_Tensor"),
        ("pow.Scalar", "pow.Tensor_Tensor"),
    )
}
"""The operator of the same arguments, any of which may be a tensor."""


def _reversed_difference(x: Any, y: Any, alpha: Any = 1) -> Tensor:
    return y - (x if isinstance(alpha, int) and alpha == 1 else x * alpha)  # type: ignore[no-any-return]


def _sum(x: Any, y: Any, alpha: Any = 1) -> Tensor:
    return x + (y if isinstance(alpha, int) and alpha == 1 else y * alpha)  # type: ignore[no-any-return]


def _difference(x: Any, y: Any, alpha: Any = 1) -> Tensor:
    return x - (y if isinstance(alpha, int) and alpha == 1 else y * alpha)  # type: ignore[no-any-return]


def _masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    return torch.where(mask, value, x)


def _leaky_relu(x: Tensor, slope: Any) -> Tensor:
    return torch.where(x > 0, x, x * slope)


def _threshold(x: Tensor, threshold: Any, value: Any) -> Tensor:
    return torch.where(x <= threshold, value, x)


def _hardtanh(x: Tensor, low: Any = -1.0, high: Any = 1.0) -> Tensor:
    return torch.minimum(torch.maximum(x, torch.as_tensor(low)), torch.as_tensor(high))


OTHER_ARGUMENTS: dict[str, Callable[..., Tensor]] = {
    "aten.rsub.Scalar": _reversed_difference,
    "aten.masked_fill.Scalar": _masked_fill,
    "aten.leaky_relu.default": _leaky_relu,
    "aten.threshold.default": _threshold,
    "aten.hardtanh.default": _hardtanh,
}
SCALED: dict[str, Callable[..., Tensor]] = {
    f"aten.{name}": call
    for names, call in (("add.Tensor add.Scalar", _sum), ("sub.Tensor sub.Scalar", _difference))
    for name in names.split()
}
"""Of these only ``alpha`` has to be a Python number."""


def of_tensors(node: Node) -> Any:
    """What to call in place of an operator that is given a number of its own in every step; None: itself."""
    if not any(node.steps()):
        return None
    if any(isinstance(value, Step) for _, value in node.kwargs) or len(node.args) > 2:
        scaled = SCALED.get(node.op)
        if scaled is not None:
            return scaled
    if node.op in SAME_ARGUMENTS:
        return OVERLOADS.get(SAME_ARGUMENTS[node.op])
    return OTHER_ARGUMENTS.get(node.op)

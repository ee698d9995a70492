"""Operators called with less work than by their ATen name, and with memory for the result."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor


def _relu(x: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.clamp_min(x, 0, out=out)


_POSITIONAL = """add.Tensor sub.Tensor mul.Tensor mul.Scalar div.Tensor div.Scalar
tanh.default sigmoid.default exp.default log.default neg.default sqrt.default rsqrt.default abs.default erf.default
exp2.default expm1.default log1p.default sin.default cos.default reciprocal.default square.default
maximum.default minimum.default pow.Tensor_Scalar clamp.default clamp_min.default clamp_max.default
where.self cat.default addmm.default mm.default bmm.default""".split()
"""Their torch functions take the arguments of the ATen operator, and ``out``."""

DIRECT: dict[str, Any] = {f"aten.{name}": getattr(torch, name.split(".")[0]) for name in _POSITIONAL}
DIRECT |= {
    "aten.relu.default": _relu,
    "aten.silu.default": torch._C._nn.silu,
    "aten.gelu.default": torch._C._nn.gelu,
    "aten.elu.default": torch._C._nn.elu,
    "aten.softplus.default": torch._C._nn.softplus,
    "aten.leaky_relu.default": torch._C._nn.leaky_relu,
}
"""By the name of the operator. All give a tensor of their own, never a view, and can write into a given one."""

_SLOW = frozenset(
    f"aten.{name}.default" for name in "sigmoid exp log erf exp2 expm1 log1p sin cos silu gelu elu softplus".split()
)
_LARGE = 2**14
"""Elements from which a copy of a scattered operand costs less than it saves."""

_MINUS_ONE = torch.tensor(-1.0)


def guess(op: str, args: list[Any]) -> Any:
    """How to call an operator of `DIRECT` on a CPU where the result need not round as the operator's own does.

    On a part of the channels vector instructions have a few elements at a time: on many, they do better on a copy.
    """
    x = args[0]
    if op == "aten.tanh.default" and x.is_floating_point():
        return _tanh
    if op in _SLOW and x.numel() >= _LARGE and _has_gaps(x) and len(args) == 1:
        return partial(_on_a_copy, DIRECT[op])
    return DIRECT[op]


def _has_gaps(x: Tensor) -> bool:
    return x.numel() <= sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True))


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    """``2 sigmoid(2 x) - 1``, in a third of the time of a tanh that is right in every bit of a small result."""
    torch.mul(x, 2, out=out)
    torch.sigmoid(out, out=out)
    return torch.add(_MINUS_ONE, out, alpha=2, out=out)


def _on_a_copy(function: Any, x: Tensor, out: Tensor) -> Tensor:
    out.copy_(x)
    result: Tensor = function(out, out=out)
    return result

"""Operators by the torch function that their author would call: the same kernels and bits in less time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..graph import Node
from .graphs import OVERLOADS

_NAMES = """gru_cell.default lstm_cell.default rnn_tanh_cell.default rnn_relu_cell.default
mm.default addmm.default bmm.default baddbmm.default mv.default select.int narrow.default t.default transpose.int
permute.default unsqueeze.default
cat.default stack.default add.Tensor sub.Tensor mul.Tensor div.Tensor addcmul.default neg.default abs.default
sqrt.default rsqrt.default tanh.default sigmoid.default relu.default exp.default log.default sin.default cos.default
rsub.Scalar remainder.Scalar pow.Tensor_Scalar minimum.default maximum.default clamp.default
where.self argmax.default embedding.default index_select.default gather.default _softmax.default
_log_softmax.default native_layer_norm.default""".split()

_PLAIN: dict[str, Callable[..., Any]] = {f"aten.{name}": getattr(torch, name.split(".")[0]) for name in _NAMES}
_PLAIN["aten.linear.default"] = torch._C._nn.linear
_PLAIN["aten.view.default"] = torch.Tensor.view


def plain(node: Node) -> Any:
    """How a node is called: a torch function takes its arguments by position, as the operator does."""
    return OVERLOADS[node.op] if node.kwargs else _PLAIN.get(node.op, OVERLOADS[node.op])

"""Operators by torch functions: each makes the very call that it stands for, of the overload that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ffcompiler.runtime.plain import _PLAIN

A, B = torch.rand(4, 4) + 0.5, torch.rand(4, 4) + 0.5
ROW, AT = torch.rand(4), torch.tensor([2, 0])
GATES = (A, B, torch.rand(12, 4), torch.rand(12, 4), torch.rand(12), torch.rand(12))
FOUR = (A, [A, B], torch.rand(16, 4), torch.rand(16, 4), torch.rand(16), torch.rand(16))
ONE = (A, B, torch.rand(4, 4), torch.rand(4, 4), ROW, ROW)
BATCH = A.unsqueeze(0)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "gru_cell.default": GATES,
    "lstm_cell.default": (A, [A, B], *FOUR[2:]),
    "rnn_tanh_cell.default": ONE,
    "rnn_relu_cell.default": ONE,
    "mm.default": (A, B),
    "addmm.default": (ROW, A, B),
    "bmm.default": (BATCH, BATCH),
    "baddbmm.default": (BATCH, BATCH, BATCH),
    "mv.default": (A, ROW),
    "select.int": (A, 0, 1),
    "narrow.default": (A, 0, 1, 2),
    "transpose.int": (A, 0, 1),
    "permute.default": (A, [1, 0]),
    "unsqueeze.default": (A, 0),
    "cat.default": ([A, B], 1),
    "stack.default": ([A, B],),
    "addcmul.default": (A, A, B),
    "where.self": (A > B, A, B),
    "argmax.default": (A, 1),
    "embedding.default": (A, AT),
    "index_select.default": (A, 0, AT),
    "gather.default": (A, 0, AT.view(1, 2)),
    "_softmax.default": (A, 1, False),
    "_log_softmax.default": (A, 1, False),
    "native_layer_norm.default": (A, [4], ROW, ROW, 1e-5),
    "linear.default": (A, B, ROW),
    "rsub.Scalar": (A, 2.0),
    "remainder.Scalar": (AT, 2147483648),
    "pow.Tensor_Scalar": (A, 0.5),
    "clamp.default": (A, None, 0.7),
    "view.default": (A, [2, 8]),
}
BINARY = {f"{name}.Tensor" for name in ("add", "sub", "mul", "div")} | {"minimum.default", "maximum.default"}
WITHIN = {"gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell", "narrow", "stack", "linear"}
"""Made of others where they are dispatched: a recorder sees these."""


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("op", sorted(_PLAIN))
def test_the_function_calls_the_operator_with_the_same_bits(op: str) -> None:
    name = op.removeprefix("aten.")
    arguments = ARGUMENTS.get(name, (A, B) if name in BINARY else (A,))
    function: Callable[..., Any] = _PLAIN[op]
    packet, overload = name.split(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload)
    with Calls() as calls:
        found = function(*arguments)
    with Calls() as named:
        expected = operator(*arguments)
    assert calls.seen == named.seen and (packet in WITHIN or calls.seen == [op])
    for ours, theirs in zip(
        torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(expected), strict=True
    ):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride() and ours.dtype == theirs.dtype

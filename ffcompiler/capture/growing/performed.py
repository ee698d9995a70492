"""Recorded calls, made again: with other tensors in the places of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import (
    _disable_current_modes,
    _get_current_dispatch_mode,
    _pop_mode_temporarily,
)

from ...errors import CaptureError
from ...graph import TensorType
from ...randomness import fill
from ..draws import Drawing
from ..facts import told_line
from ..record import TOKENS, Literal, Number, Recorder, Tested
from .steps import Literals, Numbers, Prior

aten = torch.ops.aten
Draw: TypeAlias = Callable[[Drawing, TensorType, Sequence[int | float]], Tensor]
"""Where random numbers come from."""


def drawn(drawing: Drawing, kind: TensorType, numbers: Sequence[int | float]) -> Tensor:
    """Fresh random numbers, as a draw of the recorder that is at work, if one is."""
    recorder = _get_current_dispatch_mode()
    if not isinstance(recorder, Recorder):
        out = _room(drawing, kind)
        fill(drawing.op, out, numbers)
        return out
    with _pop_mode_temporarily():
        out = _room(drawing, kind)
        if isinstance(out, FakeTensor):
            return recorder.draw(drawing.op, out, numbers)
        recorder.stream.check(out.device)
        found = recorder.draw(drawing.op, out, numbers)
        recorder.stream.note(out.device)
        return found


def _room(drawing: Drawing, kind: TensorType) -> Tensor:
    return torch.empty_strided(kind.shape, kind.stride, dtype=getattr(torch, kind.dtype), device=drawing.device)


def perform(op: Any, args: Sequence[Any], kwargs: dict[str, Any], kind: TensorType | None, draw: Draw) -> list[Any]:
    """The results of a call, its arguments given. ``kind``: the type of the first result, as it was."""
    if isinstance(op, Drawing):
        assert kind is not None
        return [draw(op, kind, args)]
    if isinstance(op, Tested):
        if bool(args[0]) != op.holds:
            raise CaptureError("a test on values comes out otherwise in the padded loop than in the function's own")
        return []
    out = op(*args, **kwargs)
    return list(out) if isinstance(out, tuple | list) else [out]


def filled_in(value: Any, token: Callable[[Any], Tensor], number: Callable[[Any], int | float]) -> Any:
    """An argument with tensors and numbers in their places."""
    if isinstance(value, (*TOKENS, Prior)):
        return token(value)
    if isinstance(value, Number | Numbers):
        return number(value)
    if isinstance(value, Literals):
        return _written_out([number(element) for element in value.elements], value.dtype, value.shape)
    if isinstance(value, Literal):
        places = range(value.first, value.first + torch.Size(value.shape).numel())
        return _written_out([number(Number(i, False)) for i in places], value.dtype, value.shape)
    return [filled_in(item, token, number) for item in value] if isinstance(value, tuple) else value


def _written_out(elements: list[int | float], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    with _disable_current_modes():
        return torch.tensor(elements, dtype=dtype).reshape(shape)


@contextmanager
def at_line(source: str) -> Iterator[None]:
    """Calls within are the user's, made in this line."""
    token = told_line.set(source)
    try:
        yield
    finally:
        told_line.reset(token)

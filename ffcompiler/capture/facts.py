"""Facts about calls and tensors: what a call writes, draws or gives away, where it stands, where a tensor lies."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ..graph import TensorType

aten = torch.ops.aten

_TORCH_DIR = str(Path(torch.__file__).parent)
_DISTRIBUTIONS_DIR = str(Path(_TORCH_DIR) / "distributions")
_OWN_DIR = str(Path(__file__).parent.parent)
_USER_DIRS = (str(Path(_OWN_DIR) / "zoo"),)


def exact_number(value: int | float) -> Hashable:
    """Equal for numbers of the same type and bits: 0.0 is not -0.0, and NaN is NaN."""
    return value.hex() if isinstance(value, float) else (value,)


def tensor_type(t: Tensor) -> TensorType:
    return TensorType(str(t.dtype).removeprefix("torch."), tuple(t.shape), tuple(t.stride()))


@dataclass(frozen=True, slots=True)
class Place:
    """Which memory a tensor shows, and how."""

    storage: int
    offset: int
    type: TensorType


def place_of(t: Tensor) -> Place:
    return Place(storage_of(t), int(t.storage_offset()), tensor_type(t))


def storage_of(t: Tensor) -> int:
    return int(t.untyped_storage()._cdata)


def span_of(t: Tensor) -> tuple[int, int]:
    """The addresses of a tensor's storage."""
    start = t.untyped_storage().data_ptr()
    return start, start + t.untyped_storage().nbytes()


def tensors_in(tree: Any) -> Iterable[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from tensors_in(item)
    elif isinstance(tree, dict):
        yield from tensors_in(list(tree.values()))


def mutated(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that a call writes, from its schema; of batch norm in training mode its statistics too."""
    written: list[Tensor] = []
    if func in UNDECLARED and args[5]:
        written.extend(tensors_in(args[3:5]))
    for position, name in _written_arguments(func):
        written.extend(tensors_in(args[position] if position < len(args) else kwargs.get(name)))
    return written


@cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Places and names of the arguments that an operator writes."""
    arguments = enumerate(func._schema.arguments)
    return tuple((i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write)


UNDECLARED = {
    getattr(aten, name).default
    for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
    if hasattr(aten, name)
}
"""``(input, weight, bias, running_mean, running_var, training, ..)``: they write two arguments and do not say so."""


def leaves_tensors(func: Any, args: Any) -> bool:
    """Whether a call gives a Python value, or a shape, that depends on the elements of its arguments."""
    tags = _tags(func)
    if torch.Tag.data_dependent_output in tags:
        return True
    if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        return any(t.dtype in (torch.bool, torch.uint8) for t in tensors_in(args[1]))
    return torch.Tag.dynamic_output_shape in tags


@cache
def _tags(func: Any) -> frozenset[Any]:
    return frozenset(func.tags)


def draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call consumes the random generator: by tag, except where its dropout probability is 0."""
    if torch.Tag.nondeterministic_seeded not in _tags(func):
        return False
    for position, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout_p", "dropout"):
            value = args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
            return bool(value)
    return True


def user_line() -> str:
    """``file.py:31 in forward``: the innermost frame that is neither torch's nor ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_user(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "unknown"
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-2:])}:{frame.f_lineno} in {frame.f_code.co_name}"


def validates() -> bool:
    """Whether it is `torch.distributions` that makes the call: within it, values are looked at to refuse bad ones."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_user(frame.f_code.co_filename):
        if frame.f_code.co_filename.startswith(_DISTRIBUTIONS_DIR):
            return True
        frame = frame.f_back
    return False


@cache
def is_user(filename: str) -> bool:
    """Whether a file is neither torch's nor ours."""
    if filename.startswith(_USER_DIRS):
        return True
    return not (filename.startswith((_TORCH_DIR, _OWN_DIR, "<frozen")) or "/contextlib.py" in filename)

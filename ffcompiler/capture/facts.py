"""Facts about calls and tensors: what a call writes, draws or gives away, where it stands, where a tensor lies."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Hashable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

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
    return _type(t.dtype, t.shape, t.stride())


@lru_cache(maxsize=4096)
def _type(dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]) -> TensorType:
    return TensorType(str(dtype).removeprefix("torch."), tuple(shape), tuple(stride))


class Place(NamedTuple):
    """Which memory a tensor shows, and how."""

    storage: int
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def type(self) -> TensorType:
        return _type(self.dtype, self.shape, self.stride)


def place_of(t: Tensor) -> Place:
    return Place(storage_of(t), int(t.storage_offset()), t.dtype, t.shape, t.stride())


def storage_of(t: Tensor) -> int:
    return int(t.untyped_storage()._cdata)


def span_of(t: Tensor) -> tuple[int, int]:
    """The addresses of a tensor's storage."""
    start = t.untyped_storage().data_ptr()
    return start, start + t.untyped_storage().nbytes()


def tensors_in(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _gather(tree, found)
    return found


def _gather(tree: Any, found: list[Tensor]) -> None:
    if isinstance(tree, Tensor):
        found.append(tree)
    elif isinstance(tree, list | tuple):
        for item in tree:
            _gather(item, found)
    elif isinstance(tree, dict):
        for item in tree.values():
            _gather(item, found)


def mutated(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that a call writes, from its schema; of batch norm in training mode its statistics too."""
    facts = _facts_of(func)
    written: list[Tensor] = []
    if facts.undeclared and args[5]:
        written.extend(tensors_in(args[3:5]))
    for position, name in facts.writes:
        written.extend(tensors_in(args[position] if position < len(args) else kwargs.get(name)))
    return written


def mutated_names(func: Any) -> tuple[str, ...]:
    """The arguments that a call writes, by the operator's schema."""
    return tuple(name for _, name in _facts_of(func).writes)


UNDECLARED = {
    getattr(aten, name).default
    for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
    if hasattr(aten, name)
}
"""``(input, weight, bias, running_mean, running_var, training, ..)``: they write two arguments and do not say so."""


def leaves_tensors(func: Any, args: Any) -> bool:
    """Whether a call gives a Python value, or a shape, that depends on the elements of its arguments."""
    facts = _facts_of(func)
    if facts.indexes and not facts.gives_values:
        return any(t.dtype in (torch.bool, torch.uint8) for t in tensors_in(args[1]))
    return facts.gives_values or facts.gives_shapes


def draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call consumes the random generator: by tag, except where its dropout probability is 0."""
    if not _facts_of(func).draws:
        return False
    for position, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout_p", "dropout"):
            value = args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
            return bool(value)
    return True


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of an operator, whatever it is called with."""

    op: Any
    writes: tuple[tuple[int, str], ...]  # places and names of arguments
    undeclared: bool
    gives_values: bool
    gives_shapes: bool
    indexes: bool
    draws: bool


_FACTS: dict[int, _Facts] = {}
"""By ``id``: operators hash themselves slowly, and every call is asked about. An entry keeps its operator alive."""


def _facts_of(op: Any) -> _Facts:
    known = _FACTS.get(id(op))
    if known is None:
        known = _FACTS[id(op)] = _look_up(op)
    return known


def _look_up(op: Any) -> _Facts:
    arguments = enumerate(op._schema.arguments)
    return _Facts(
        op,
        tuple((i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write),
        op in UNDECLARED,
        torch.Tag.data_dependent_output in op.tags,
        torch.Tag.dynamic_output_shape in op.tags,
        op in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default),
        torch.Tag.nondeterministic_seeded in op.tags,
    )


told_line: ContextVar[str] = ContextVar("ffcompiler_told_line", default="")
"""The user's line that calls are made for, while recorded ones are made again."""


def user_line() -> str:
    """``file.py:31 in forward``: the innermost frame that is neither torch's nor ours."""
    if told := told_line.get():
        return told
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_user(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "unknown"
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-2:])}:{frame.f_lineno} in {frame.f_code.co_name}"


def line_of(error: BaseException) -> str:
    """The user's line from which an error came, as `user_line` has it."""
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    users = [(code, line) for code, line in frames if is_user(code.co_filename)]
    if not users:
        return "unknown"
    code, line = users[-1]
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{line} in {code.co_name}"


def is_users(error: BaseException) -> bool:
    """Whether it was the user's code that raised, or torch called by it, and not ours."""
    names = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    raising = next((name for name in reversed(names) if is_user(name) or name.startswith(_OWN_DIR)), "")
    return is_user(raising)


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


DEFINED_CREATION: dict[Any, Any] = {
    aten.empty.memory_format: aten.zeros.default,
    aten.empty_like.default: aten.zeros_like.default,
    aten.new_empty.default: aten.new_zeros.default,
}
"""What a tensor of unspecified contents becomes: a program whose answer depends on them has no answer to keep.

In a recorded run such a tensor is filled with zeros too, so that what is not written yet compares equal.
"""

"""The recorder: what ATen calls a piece of the user's function makes, with real values, one *segment* at a time.

A segment is the prologue, one step of the marked loop, or the epilogue. Calls are kept in a form in which two steps
can be compared at once: tensors are tokens (which call made it, which state leaf, which outside tensor), numbers stand
apart from the structure. A value that leaves the tensor world while it depends on data is refused where it happens.
"""

from __future__ import annotations

import hashlib
import sys
import weakref
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import CaptureError
from ..graph import TensorType

aten = torch.ops.aten
LITERAL_LIMIT = 16
"""Literal tensors up to this many elements are compared number by number; larger ones by digest."""

_TORCH_DIR = str(Path(torch.__file__).parent)
_OWN_DIR = str(Path(__file__).parent.parent)
_USER_DIRS = (str(Path(_OWN_DIR) / "zoo"),)


@dataclass(frozen=True, slots=True)
class Made:
    """The ``output``-th result of the ``call``-th call of the same segment."""

    call: int
    output: int


@dataclass(frozen=True, slots=True)
class Carried:
    """Leaf ``leaf`` of the loop's state at the start of the step."""

    leaf: int


@dataclass(frozen=True, slots=True)
class Outside:
    """A tensor from outside the segment; ``handle`` indexes ``Recorder.outside``."""

    handle: int


@dataclass(frozen=True, slots=True)
class Number:
    """Place of a number; the number itself stands in ``Segment.numbers[index]``."""

    index: int
    is_float: bool


@dataclass(frozen=True, slots=True)
class Literal:
    """A small tensor written out in the code (``torch.tensor([i])``); its elements stand in ``Segment.numbers``."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    first: int


Token: TypeAlias = Made | Carried | Outside


@dataclass(frozen=True, slots=True)
class Call:
    """One ATen call. ``args`` and ``kwargs`` hold tokens, numbers, literals and plain constants in tuples."""

    op: Any
    args: tuple[Hashable, ...]
    kwargs: tuple[tuple[str, Hashable], ...]
    types: tuple[TensorType | None, ...]


@dataclass(slots=True)
class Segment:
    calls: list[Call] = field(default_factory=list)
    numbers: list[int | float] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    results: tuple[Hashable, ...] = ()


def exact_number(value: int | float) -> Hashable:
    """Equal for numbers of the same type and bits: 0.0 is not -0.0, and NaN is NaN."""
    return value.hex() if isinstance(value, float) else (value,)


def tensor_type(t: Tensor) -> TensorType:
    return TensorType(str(t.dtype).removeprefix("torch."), tuple(t.shape), tuple(t.stride()))


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every ATen call into the current segment. One per capture; not shared between threads."""

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.segment = Segment()
        self.outside: list[Tensor] = []  # tensors by handle, kept alive so that identity stays meaningful
        self.literals: set[int] = set()  # handles of large literals
        self.with_sources = True
        self._local: dict[int, Token] = {}  # of this segment, by id
        self._global: dict[int, Outside] = {}  # of all segments, by id
        self._alive: list[Tensor] = []
        self._tainted: set[int] = set()  # storages that hold something of the inputs, the weights or the state
        self._made: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()  # in any segment
        self._foreign: set[int] = set()  # storages of arguments and weights: never written
        self._closed: set[int] = set()  # storages that the prologue made: not written by the loop
        self._written: set[int] = set()  # storages that segments so far have written
        self._digests: dict[bytes, Outside] = {}
        for t in inputs:
            self._meet(t)

    # ------------------------------------------------------------------------------------------ segments

    def begin(self, state: Iterable[Tensor] = ()) -> Segment:
        """Start a new segment that is handed ``state``; the results of the previous one are forgotten."""
        for t in self._alive:
            self._tainted.discard(_storage(t))
        self._local.clear()
        self._alive.clear()
        self.segment = Segment()
        for leaf, t in enumerate(state):
            self._local[id(t)] = Carried(leaf)
            self._tainted.add(_storage(t))
            self._alive.append(t)
        return self.segment

    def close_prologue(self, state: Iterable[Tensor]) -> dict[int, Made]:
        """Make what the prologue made visible to the steps, which may write only into ``state``.

        Gives, for each outside handle that is such a tensor, the call that made it.
        """
        made = {}
        for t in self._alive:
            token = self._local[id(t)]
            self._global[id(t)] = outside = self._add_outside(t)
            self._closed.add(_storage(t))
            if isinstance(token, Made):
                made[outside.handle] = token
        self._alive.clear()
        self._local.clear()
        self._closed.difference_update(_storage(t) for t in state)
        self._written.clear()
        return made

    def has_written(self, tensors: Iterable[Tensor]) -> bool:
        """Whether the steps so far have written into one of these."""
        return any(_storage(t) in self._written for t in tensors)

    # ------------------------------------------------------------------------------------------ recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question about a tensor without values, not an operator
            return func(*args, **kwargs)
        self._check(func, args, kwargs)
        if func is aten.lift_fresh.default:
            encoded: tuple[Hashable, ...] = (self._literal(args[0]),)
        else:
            encoded = tuple(self._encode(a) for a in args)
        encoded_kwargs = tuple((k, self._encode(v)) for k, v in kwargs.items())
        tainted = self._is_tainted((args, kwargs))
        out = func(*args, **kwargs)
        results = tuple(out) if isinstance(out, tuple | list) else (out,)
        outputs = tuple(tensor_type(r) if isinstance(r, Tensor) else None for r in results)
        self.segment.calls.append(Call(func, encoded, encoded_kwargs, outputs))
        self.segment.sources.append(user_line() if self.with_sources else "")
        self._admit(results, tainted)
        return out

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        if leaves_tensors(func, args) and self._is_tainted((args, kwargs)):
            raise CaptureError(
                f"a tensor's value becomes a Python number or a shape at {user_line()} ({func}), and it depends on the "
                "inputs\n"
                "  a branch or an index taken from it would be baked into the compiled program\n"
                "  keep the decision in tensors (torch.where), or compute it before calling the function"
            )
        if draws(func, args, kwargs):
            raise CaptureError(
                f"{func} draws random numbers at {user_line()}; draws inside the function are not lifted yet\n"
                "  draw the noise before and pass it as an argument"
            )
        for t in mutated(func, args, kwargs):
            if _storage(t) in self._foreign or _storage(t) in self._closed:
                raise CaptureError(
                    f"{func} at {user_line()} writes into a tensor that exists outside the loop's state\n"
                    "  clone it first, or return the changed tensor from the loop body instead"
                )
            self._written.add(_storage(t))

    def _admit(self, results: tuple[Any, ...], tainted: bool) -> None:
        call = len(self.segment.calls) - 1
        for output, r in enumerate(results):
            if not isinstance(r, Tensor):
                continue
            if id(r) not in self._local and id(r) not in self._global:  # else it is the written, or an own, argument
                self._local[id(r)] = Made(call, output)
                self._alive.append(r)
                self._made[id(r)] = r
            if tainted:
                self._tainted.add(_storage(r))

    def _is_tainted(self, arguments: Any) -> bool:
        return any(_storage(t) in self._tainted for t in _tensors(arguments))

    def _encode(self, value: Any) -> Hashable:
        if isinstance(value, Tensor):
            return self.token(value)
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int | float):
            self.segment.numbers.append(value)
            return Number(len(self.segment.numbers) - 1, isinstance(value, float))
        if isinstance(value, list | tuple):
            return tuple(self._encode(v) for v in value)
        if isinstance(value, str | torch.dtype | torch.device | torch.layout | torch.memory_format):
            return value
        raise CaptureError(f"an argument of type {type(value).__name__} at {user_line()} cannot be captured")

    # ------------------------------------------------------------------------------------------ tensors

    def _literal(self, t: Tensor) -> Hashable:
        """The argument of ``lift_fresh``: a tensor that ``torch.tensor(...)`` is just making."""
        if t.numel() <= LITERAL_LIMIT:
            first = len(self.segment.numbers)
            self.segment.numbers.extend(t.reshape(-1).tolist())
            return Literal(t.dtype, tuple(t.shape), first)
        digest = hashlib.sha256(
            f"{t.dtype}{tuple(t.shape)}".encode() + t.flatten().view(torch.uint8).numpy().tobytes()
        ).digest()
        if digest not in self._digests:
            self._digests[digest] = self._add_outside(t)
            self.literals.add(self._digests[digest].handle)
        return self._digests[digest]

    def token(self, t: Tensor) -> Token:
        """What is known of a tensor; one that no recorded call made is outside from now on."""
        local = self._local.get(id(t))
        if local is not None:
            return local
        known = self._global.get(id(t))
        if known is not None and _storage(t) in self._written:
            raise CaptureError(
                f"{user_line()} reads, through a name from outside the loop, a tensor that its body writes in place\n"
                "  read it through the body's argument, or clone the state in the body before writing"
            )
        return known or self._meet(t)

    def _meet(self, t: Tensor) -> Outside:
        """First sight of a tensor that no recorded call made: an argument, a weight, a closed-over constant."""
        if self._made.get(id(t)) is t:
            raise CaptureError(
                f"{user_line()} reads a tensor that an earlier step, or the loop's body, made and kept\n"
                "  hand it on in the state that the body returns; what is kept on the side is not seen"
            )
        token = self._global[id(t)] = self._add_outside(t)
        self._tainted.add(_storage(t))
        self._foreign.add(_storage(t))
        return token

    def _add_outside(self, t: Tensor) -> Outside:
        self.outside.append(t)
        return Outside(len(self.outside) - 1)


def _storage(t: Tensor) -> int:
    return int(t.untyped_storage()._cdata)


def _tensors(tree: Any) -> Iterable[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def mutated(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that a call writes, from its schema."""
    written: list[Tensor] = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            written.extend(_tensors(value))
    return written


def leaves_tensors(func: Any, args: Any) -> bool:
    """Whether a call gives a Python value, or a shape, that depends on the elements of its arguments."""
    if torch.Tag.data_dependent_output in func.tags:
        return True
    if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        return any(t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1]))
    return torch.Tag.dynamic_output_shape in func.tags


def draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call consumes the random generator: by tag, except where its dropout probability is 0."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for position, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout_p", "p", "dropout"):
            value = args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
            return bool(value)
    return True


def user_line() -> str:
    """``file.py:31 in forward``: the innermost frame that is neither torch's nor ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_user(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "unknown"
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-2:])}:{frame.f_lineno} in {frame.f_code.co_name}"


def _is_user(filename: str) -> bool:
    if filename.startswith(_USER_DIRS):
        return True
    return not (filename.startswith((_TORCH_DIR, _OWN_DIR, "<frozen")) or "/contextlib.py" in filename)

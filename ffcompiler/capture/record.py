"""The recorder: what ATen calls a piece of the user's function makes, with real values, one *segment* at a time.

A segment is the prologue, one step of the marked loop, or the epilogue. Calls are kept in a form in which two steps
can be compared at once: tensors are tokens (which call made it, which state leaf, which outside tensor), numbers stand
apart from the structure. A value that leaves the tensor world while it depends on data is refused where it happens.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes, _pop_mode_temporarily

from ..errors import CaptureError
from ..graph import TensorType
from ..randomness import fill
from .dispatch import Dispatching
from .draws import Drawing, Stream, lift
from .facts import (
    DEFINED_CREATION,
    UNDECLARED,
    Place,
    draws,
    leaves_tensors,
    mutated,
    place_of,
    span_of,
    storage_of,
    tensor_type,
    tensors_in,
    user_line,
    validates,
)
from .restore import Kept

aten = torch.ops.aten
Span: TypeAlias = tuple[int, int]
INPUT = frozenset({-1})
"""The taint of what depends on arguments, on the state, or on random numbers."""
LITERAL_LIMIT = 16
"""Literal tensors up to this many elements are compared number by number; larger ones by digest."""


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
class Each:
    """What a step is handed besides the state: entry ``index`` of the loop's per-step inputs."""

    index: int


@dataclass(frozen=True, slots=True)
class Collected:
    """After the loop: what all steps left, one after the other along a new first dimension."""

    index: int


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


Token: TypeAlias = Made | Carried | Outside | Each | Collected
TOKENS = (Made, Carried, Outside, Each, Collected)


@dataclass(frozen=True, slots=True)
class Call:
    """One ATen call. ``args`` and ``kwargs`` hold tokens, numbers, literals and plain constants in tuples."""

    op: Any
    args: tuple[Hashable, ...]
    kwargs: tuple[tuple[str, Hashable], ...]
    types: tuple[TensorType | None, ...]


class Rebind:
    """In place of an operator: the tensor ``args[0]`` took on the memory of ``args[1]`` (``weight.data = value``)."""

    def __str__(self) -> str:
        return "an assignment to .data"


REBIND = Rebind()


@dataclass(frozen=True, slots=True)
class Tested:
    """In place of an operator: Python was told whether ``args[0]``, one element, is true; it was as ``holds`` says."""

    holds: bool

    def __str__(self) -> str:
        return f"a test that came out {self.holds}"


class OtherwiseError(CaptureError):
    """A test on values came out in another way than in the run, or the step, that this one has to be like."""


@dataclass(slots=True)
class Segment:
    calls: list[Call] = field(default_factory=list)
    numbers: list[int | float] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    results: tuple[Hashable, ...] = ()
    tests: list[bool] = field(default_factory=list)  # how each test on values came out
    behind: tuple[Token | None, ...] = ()  # what is left in attributes and entries, as far as this segment knows it


class Recorder(Dispatching):
    """Records every ATen call into the current segment. One per capture; not shared between threads."""

    def __init__(self, inputs: Iterable[Tensor], kept: Kept | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept = kept  # told of each write into a tensor that the run has not made
        self.in_loop = False
        self.overwritten: dict[int, str] = {}  # handles of the weights that steps write, and where they do
        self.rebound: set[int] = set()  # those of them that take on other memory
        self.otherwise = ""  # what was recorded by operators that round otherwise than the function's own
        self.compiled = ""  # what was recorded by the operators that torch compiles in it, and from which it runs
        self.segment = Segment()
        self.expected: Sequence[bool] = ()  # how the tests of this segment came out before
        self.stream = Stream()  # of random numbers
        self.tried: set[Hashable] = set()
        self.outside: list[Tensor] = []  # tensors by handle, kept alive so that identity stays meaningful
        self.literals: set[int] = set()  # handles of large literals
        self.with_sources = True
        self._local: dict[int, Token] = {}  # of this segment, by id
        self._global: dict[int, Outside] = {}  # of all segments, by id
        self._alive: dict[int, weakref.ref[Tensor]] = {}  # the same, in the order in which they were made
        self._latest: dict[int, dict[Place, Token]] = {}  # of this segment, by storage: what was last made there
        self._moving: tuple[int, ...] = ()  # handles of those whose memory earlier runs have replaced
        self._in_place: dict[int, Span] = {}  # of weights that were written where they began
        self._homes: dict[int, int] = {}  # of this segment, by id: the storage that each was made in
        self._tenants: Counter[int] = Counter()  # how many of them live in each storage
        self._lasting: set[int] = set()  # storages of what is outside, which is kept alive
        self._taint: dict[int, frozenset[int]] = {}  # storages that hold something of weights (handles), or of `INPUT`
        self.folded: set[int] = set()  # handles of weights whose values became Python numbers
        self._made: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()  # in any segment
        self._foreign: dict[int, int] = {}  # storages of arguments and weights, and their handles
        self._places: dict[int, Place] = {}  # by handle: where an argument or weight is in memory
        self._closed: set[int] = set()  # storages that the prologue made: not written by the loop
        self._written: set[int] = set()  # storages that segments so far have written
        self._digests: dict[bytes, Outside] = {}
        self._arguments: int | None = None  # not known yet: what is met now is one
        for t in inputs:
            self._meet(t)
        self._arguments = len(self.outside)
        moved = () if kept is None else kept.moved()
        self._moving = tuple((self._global.get(id(t)) or self._meet(t)).handle for t in moved)

    # ------------------------------------------------------------------------------------------ segments

    def begin(self, state: Iterable[Tensor] = (), collected: Iterable[Tensor] = ()) -> Segment:
        """Start a new segment that is handed ``state``; the results of the previous one are forgotten.

        ``collected``: what the steps of the loop left besides, for the segment after it.
        """
        for storage in self._tenants:
            self._forget(storage)
        self._let_go()
        self.segment, self.expected = Segment(), ()
        for leaf, t in enumerate(state):
            self._hold(t, Carried(leaf))
            self._taint[storage_of(t)] = INPUT
        for index, t in enumerate(collected):
            self._hold(t, Collected(index))
            self._taint[storage_of(t)] = INPUT
        return self.segment

    def _hold(self, t: Tensor, token: Token) -> None:
        """Know a tensor of this segment as ``token``, for as long as it lives: a later one may have its id."""
        key, storage = id(t), storage_of(t)
        self._local[key], self._homes[key] = token, storage
        self._tenants[storage] += 1
        self._alive[key] = weakref.ref(t, lambda _: self._died(key, storage))

    def _died(self, key: int, storage: int) -> None:
        self._local.pop(key, None)
        self._homes.pop(key, None)
        self._alive.pop(key, None)
        self._tenants[storage] -= 1
        if self._tenants[storage] == 0:
            del self._tenants[storage]
            self._note_taken(storage)
            self._latest.pop(storage, None)
            self._forget(storage)

    def _forget(self, storage: int) -> None:
        """Nobody holds a tensor of this segment there any more: what is outside may still be there."""
        if storage not in self._lasting:
            self._taint.pop(storage, None)

    def _let_go(self) -> None:
        self._latest.clear()
        self._local.clear()
        self._homes.clear()
        self._alive.clear()
        self._tenants.clear()

    def living(self) -> list[tuple[Tensor, Token]]:
        """The tensors of this segment that somebody still holds, oldest first."""
        found = ((ref(), self._local[key]) for key, ref in [*self._alive.items()])
        return [(t, token) for t, token in found if t is not None]

    def close_prologue(self, state: Iterable[Tensor]) -> dict[int, Made]:
        """Make what the prologue made visible to the steps, which may write only into ``state``.

        Gives, for each outside handle that is such a tensor, the call that made it.
        """
        made = {}
        self.check_places(range(len(self.outside)))
        self.in_loop = True
        for t, token in self.living():
            self._global[id(t)] = outside = self._add_outside(t)
            self._closed.add(storage_of(t))
            if isinstance(token, Made):
                made[outside.handle] = token
        self._let_go()
        self._closed.difference_update(storage_of(t) for t in state)
        self._written.clear()
        return made

    def apart(self, t: Tensor) -> Tensor:
        """``t`` as the loop's first state: an argument is handed on under another name, so that the two are told apart.

        A body may read its noise as the argument that it is, in a loop that starts from that noise.
        """
        if storage_of(t) not in self._foreign:
            return t
        with _disable_current_modes():
            return t.detach()

    def has_written(self, tensors: Iterable[Tensor]) -> bool:
        """Whether the steps so far have written into one of these."""
        return any(storage_of(t) in self._written for t in tensors)

    # ------------------------------------------------------------------------------------------ recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question about a tensor without values, not an operator
            return func(*args, **kwargs)
        self.look()
        if draws(func, args, kwargs):
            return lift(self, func, args, kwargs)
        if func is aten._local_scalar_dense.default and self._is_test(args[0]):
            return self._test(args[0])
        self._check(func, args, kwargs)
        if func is aten.lift_fresh.default:
            encoded: tuple[Hashable, ...] = (self._literal(args[0]),)
        else:
            encoded = tuple(self._encode(a) for a in args)
        encoded_kwargs = tuple((k, self._encode(v)) for k, v in kwargs.items())
        taint = self._taint_of((args, kwargs))
        out = func(*args, **kwargs)
        if func in DEFINED_CREATION:
            out.zero_()
        results = tuple(out) if isinstance(out, tuple | list) else (out,)
        self._note(func, encoded, encoded_kwargs, results, taint)
        return out

    def look(self) -> None:
        """Before each call."""
        self.check_places(self._moving)

    def draw(self, op: str, out: Tensor, numbers: Sequence[int | float]) -> Tensor:
        """Fresh numbers in ``out``, as a call of `Drawing` in the segment."""
        encoded = tuple(self._encode(n) for n in numbers)
        if not isinstance(out, FakeTensor):
            fill(op, out, numbers)
        self._note(Drawing(op, out.device.type), encoded, (), (out,), INPUT)
        return out

    def call(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """What ``op`` gives, recorded like a call that the user's function makes."""
        return self.__torch_dispatch__(op, (), args, kwargs)

    def whole(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a composite operator gives, recorded as one call in place of those that it is made of.

        For use outside of `__torch_dispatch__`, where the recorder is the innermost mode.
        """
        with _pop_mode_temporarily():
            return self.__torch_dispatch__(op, (), args, kwargs)

    def note_compiled(self, what: str) -> None:
        """``what`` is recorded by the operators that it is compiled to, and may run otherwise."""
        self.compiled = self.compiled or what

    def _note(self, op: Any, args: Any, kwargs: Any, results: tuple[Any, ...], taint: frozenset[int]) -> None:
        """Add a call, its arguments encoded already, with what it has given."""
        outputs = tuple(tensor_type(r) if isinstance(r, Tensor) else None for r in results)
        self.segment.calls.append(Call(op, args, kwargs, outputs))
        self.segment.sources.append(user_line() if self.with_sources else "")
        self._admit(results, taint)

    def is_outside(self, t: Tensor) -> bool:
        """Whether a tensor that no call made was read."""
        return any(t is known for known in self.outside)

    def depends_on_inputs(self, arguments: Any) -> bool:
        """Whether some of these values depend on arguments, on the state, or on random numbers."""
        return bool(self._taint_of(arguments) & INPUT)

    def _is_test(self, t: Tensor) -> bool:
        """Whether Python is told the truth of a boolean that depends on inputs."""
        return t.dtype == torch.bool and self.depends_on_inputs(t)

    def _test(self, t: Tensor) -> bool:
        """The truth of a boolean that depends on inputs: the way that the function goes from here on rests on it."""
        if self.otherwise or self.compiled:
            raise CaptureError(
                f"a test on values at {user_line()} may read what {self.otherwise or self.compiled} gives, which is "
                "recorded by operators that may round otherwise\n  test before it, or compile it alone"
            )
        seen = len(self.segment.tests)
        expected = self.expected[seen] if seen < len(self.expected) else None
        if isinstance(t, FakeTensor):  # of a step that is like the others, or else is refused for that
            holds = bool(expected)
        else:
            holds = bool(t)
        if expected is not None and holds != expected:
            raise OtherwiseError(f"the test at {user_line()} was {expected} before and is {holds} now")
        self.segment.tests.append(holds)
        self._note(Tested(holds), (self._encode(t),), (), (), frozenset())
        return holds

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        self._check_leaving(func, args, kwargs)
        self._check_writes(func, args, kwargs)

    def _check_leaving(self, func: Any, args: Any, kwargs: Any) -> None:
        if leaves_tensors(func, args):
            self.leave(func, (args, kwargs))

    def leave(self, func: Any, arguments: Any) -> None:
        """By a call of ``func`` Python is given what these tensors hold.

        Raises: `CaptureError` if that depends on the inputs. What is held by weights is compared in each call.
        """
        for t in tensors_in(arguments):
            self.token(t)  # one that was not seen before is outside
        taint = self._taint_of(arguments)
        self.folded |= taint - INPUT
        if taint & INPUT:
            raise CaptureError(
                f"a tensor's value becomes a Python number or a shape at {user_line()} ({func}), and it depends on the "
                "inputs\n"
                "  an index or a number taken from it would be baked into the compiled program\n"
                "  keep the decision in tensors (torch.where), or compute it before calling the function; a test of it "
                "(if x.any():) can be compiled\n"
                "  a number that is only printed or logged: return the tensor, and print it after the call"
                + ("\n  torch.distributions checks its arguments there: give it validate_args=False" * validates())
            )

    def _check_writes(self, func: Any, args: Any, kwargs: Any) -> None:
        for t in mutated(func, args, kwargs):
            if id(t) not in self._local and id(t) not in self._global:
                self._meet(t)
            if storage_of(t) in self._foreign or storage_of(t) in self._closed:
                self._overwrite(func, t)
            else:
                self._written.add(storage_of(t))

    def _overwrite(self, func: Any, t: Tensor) -> None:
        """A step may write a weight (``weight.data *= mask``); nothing else that exists outside the loop's state."""
        if self.kept is not None:
            self.kept.before_write(t)
        handle = self._foreign.get(storage_of(t), -1)
        if not self.in_loop or self._is_argument(handle) or storage_of(t) in self._closed or func in UNDECLARED:
            counts = func in UNDECLARED
            raise CaptureError(
                f"{func} at {user_line()} writes into a tensor that exists outside the loop's state\n"
                "  clone it first, or return the changed tensor from the loop body instead"
                + ("\n  batch norm in training mode writes its statistics: model.eval() makes it read them" * counts)
            )
        self.overwritten.setdefault(handle, user_line())
        if handle not in self.rebound and handle not in self._in_place:
            self._in_place[handle] = span_of(t)
            self._check_apart(handle, span_of(t))

    def _is_argument(self, handle: int) -> bool:
        return self._arguments is None or handle < self._arguments

    def _admit(self, results: tuple[Any, ...], taint: frozenset[int]) -> None:
        call = len(self.segment.calls) - 1
        for output, r in enumerate(results):
            if not isinstance(r, Tensor):
                continue
            if id(r) not in self._local and id(r) not in self._global:  # else it is the written, or an own, argument
                made = Made(call, output)
                self._hold(r, made)
                place = place_of(r)
                self._latest.setdefault(place.storage, {})[place] = made
                self._made[id(r)] = r
            if taint:
                storage = storage_of(r)
                self._taint[storage] = _joined(taint, self._taint.get(storage, frozenset()))

    def _taint_of(self, arguments: Any) -> frozenset[int]:
        """What values depend on: handles of weights, or `INPUT`."""
        found: frozenset[int] = frozenset()
        for t in tensors_in(arguments):
            held = self._taint.get(storage_of(t))
            if held:
                found = _joined(found, held) if found else held
        return found

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
        raise CaptureError(
            f"an argument of type {type(value).__name__} at {user_line()} cannot be captured\n"
            "  give the operator tensors, numbers, dtypes and devices"
        )

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
            self._check_home(t)
            return local
        known = self._global.get(id(t))
        if known is not None:
            self.check_places([known.handle])
        if known is not None and known.handle not in self.overwritten and storage_of(t) in self._written:
            raise CaptureError(
                f"{user_line()} reads, through a name from outside the loop, a tensor that its body writes in place\n"
                "  read it through the body's argument, or clone the state in the body before writing"
            )
        return known or self._meet(t)

    def left_behind(self, t: Tensor) -> Token | None:
        """What is known of a tensor that the function leaves behind; None if that is no value of this segment."""
        local = self._local.get(id(t))
        if local is not None:
            return local if self._homes[id(t)] == storage_of(t) else None
        known = self._global.get(id(t))
        if known is None or storage_of(t) in self._written:
            return None
        return known if self._is_argument(known.handle) or storage_of(t) in self._closed else None

    def _meet(self, t: Tensor) -> Outside:
        """First sight of a tensor that no recorded call made: an argument, a weight, a closed-over constant."""
        if self._made.get(id(t)) is t:
            raise CaptureError(
                f"{user_line()} reads a tensor that an earlier step, or the loop's body, made and kept\n"
                "  hand it on in the state that the body returns; what is kept on the side is not seen"
            )
        token = self._global[id(t)] = self._add_outside(t)
        own = INPUT if self._arguments is None else frozenset({token.handle})
        self._taint[storage_of(t)] = _joined(own, self._taint.get(storage_of(t), frozenset()))
        self._foreign[storage_of(t)] = token.handle
        self._places[token.handle] = place_of(t)
        return token

    # ------------------------------------------------------------------------------------------ .data = ...

    def check_places(self, handles: Iterable[int]) -> None:
        """Note arguments and weights that have taken on other memory: ``weight.data = value`` calls no operator."""
        for handle in handles:
            place = self._places.get(handle)
            if place is not None and place_of(self.outside[handle]) != place:
                self._rebind(handle, place)

    def _note_taken(self, storage: int) -> None:
        """Before it is forgotten what was made in a storage: a weight may have taken it over. Raises nothing."""
        made = self._latest.get(storage, {})
        for handle in self._moving if self.in_loop and made else ():
            was, now = self._places[handle], place_of(self.outside[handle])
            if now != was and now in made and not self._is_argument(handle):
                self._rebind(handle, was)

    def _rebind(self, handle: int, was: Place) -> None:
        t = self.outside[handle]
        now = place_of(t)
        source = self._latest.get(now.storage, {}).get(now)
        if not self.in_loop or self._is_argument(handle) or source is None:
            raise CaptureError(
                f"the .data of a tensor from outside the loop ({was.type}) is replaced, as seen at {user_line()}\n"
                "  within a step it may be replaced by what the same step has computed from it"
            )
        line = self.segment.sources[source.call] if isinstance(source, Made) else user_line()
        self.segment.calls.append(Call(REBIND, (Outside(handle), source), (), (tensor_type(t),)))
        self.segment.sources.append(line)
        self._places[handle] = now
        self._leave(was.storage, handle)
        self._foreign[now.storage], self._taint[now.storage] = handle, INPUT
        self._lasting.add(now.storage)
        self.rebound.add(handle)
        self.overwritten.setdefault(handle, line)

    def _leave(self, storage: int, handle: int) -> None:
        """The weight ``handle`` has gone from a storage; if no other is there, that may be given to anything now."""
        others = (other for other, place in self._places.items() if place.storage == storage)
        if (other := next(others, None)) is not None:
            self._foreign[storage] = other
        elif self._foreign.get(storage) == handle:
            del self._foreign[storage]
            self._lasting.discard(storage)
            if storage not in self._tenants:
                self._forget(storage)

    def _check_home(self, t: Tensor) -> None:
        """What the function has made is in the memory where it was made."""
        if self._homes[id(t)] != storage_of(t):
            raise CaptureError(
                f"the .data of a tensor that the function has made ({tensor_type(t)}) is replaced, as seen at "
                f"{user_line()}\n  give the new value a name of its own, or write into the tensor (t.copy_(value))"
            )

    def check_unread(self, moved: Iterable[Tensor]) -> None:
        """Tensors in the function's reach that took on other memory are weights that steps write."""
        for t in moved:
            known = self._global.get(id(t))
            if known is None or known.handle not in self.rebound:
                raise CaptureError(
                    f"the function replaces the .data of a tensor ({tensor_type(t)}) that its loop does not read\n"
                    "  return what it should keep as a result, or write into the tensor before the call"
                )

    def check_overwritten(self) -> None:
        """No other tensor that the function uses lies in the memory of one that steps write."""
        if not self.overwritten:
            return
        for handle in self.overwritten:
            self._check_apart(handle, span_of(self.outside[handle]))
        for handle, span in self._in_place.items():
            self._check_apart(handle, span)

    def _check_apart(self, handle: int, span: Span) -> None:
        start, end = span
        others = (span_of(t) for other, t in enumerate(self.outside) if other != handle)
        if any(a < end and start < b for a, b in others):
            raise CaptureError(
                f"the weight that is written at {self.overwritten[handle]} shares its memory with another tensor that "
                "the function uses\n  read it under one name, or clone it"
            )

    def _add_outside(self, t: Tensor) -> Outside:
        self.outside.append(t)
        self._lasting.add(storage_of(t))
        return Outside(len(self.outside) - 1)


def _joined(a: frozenset[int], b: frozenset[int]) -> frozenset[int]:
    """The taint of what depends on both."""
    return INPUT if a & INPUT or b & INPUT else a | b

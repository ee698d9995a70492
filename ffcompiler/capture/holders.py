"""Where a function keeps things from call to call: attributes, entries, variables, generators; as they are, put back.

A function is run several times while it is compiled. A module that carries its last state in an attribute, a counter,
a generator of one's own would be further on after that than before.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from ..errors import CaptureError
from ..trees import flatten, unflatten
from .surroundings import PLAIN, View, is_library, look

Entries: TypeAlias = dict[Any, Any]


class Holder(Protocol):
    """Something that holds values under keys."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def entries(self) -> Entries: ...

    def put(self, entries: Mapping[Any, Any]) -> None:
        """Hold these and no others."""
        ...


@dataclass(frozen=True, slots=True)
class _Dict:
    name: str
    held: dict[Any, Any]

    def entries(self) -> Entries:
        return dict(self.held)

    def put(self, entries: Mapping[Any, Any]) -> None:
        for key in [key for key in self.held if key not in entries]:
            del self.held[key]
        for key, value in entries.items():
            if key not in self.held or self.held[key] is not value:
                self.held[key] = value


@dataclass(frozen=True, slots=True)
class _Sequence:
    name: str
    held: list[Any] | deque[Any]

    def entries(self) -> Entries:
        return dict(enumerate(self.held))

    def put(self, entries: Mapping[Any, Any]) -> None:
        if len(self.held) != len(entries) or any(a is not b for a, b in zip(self.held, entries.values(), strict=True)):
            self.held.clear()
            self.held.extend(entries.values())


@dataclass(frozen=True, slots=True)
class _Set:
    name: str
    held: set[Any]

    def entries(self) -> Entries:
        return {value: value for value in self.held}

    def put(self, entries: Mapping[Any, Any]) -> None:
        self.held.intersection_update(entries)
        self.held.update(entries)


@dataclass(frozen=True, slots=True)
class _Variables:
    """Those outside of a function that it, or a function inside it, assigns: ``global``, and ``nonlocal``."""

    name: str
    function: Any

    def entries(self) -> Entries:
        known, names = self.function.__globals__, _assigned(self.function.__code__)
        found: Entries = {name: known[name] for name in names if name in known}
        for name, cell in zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=True):
            try:
                found[name, id(cell)] = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
        return found

    def put(self, entries: Mapping[Any, Any]) -> None:
        cells = {id(cell): cell for cell in self.function.__closure__ or ()}
        for key, value in entries.items():
            if isinstance(key, tuple):
                cells[key[1]].cell_contents = value
            else:
                self.function.__globals__[key] = value
        known = self.function.__globals__
        for name in _assigned(self.function.__code__):
            if name in known and name not in entries:
                del known[name]


@dataclass(frozen=True, slots=True)
class _Generator:
    name: str
    held: torch.Generator

    def entries(self) -> Entries:
        return {"state": bytes(self.held.get_state().numpy())}

    def put(self, entries: Mapping[Any, Any]) -> None:
        if self.entries() != dict(entries):
            self.held.set_state(torch.frombuffer(bytearray(entries["state"]), dtype=torch.uint8))


@functools.lru_cache(maxsize=4096)
def _assigned(code: CodeType) -> tuple[str, ...]:
    """The globals that the code assigns."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")}
    for constant in code.co_consts:
        names |= set(_assigned(constant)) if inspect.iscode(constant) else set()
    return tuple(sorted(names))


def _holders(view: View) -> Iterator[Holder]:
    for value in view.things():
        kind = type(value).__name__
        if isinstance(value, nn.Module):
            own = {**vars(value)}
            yield _Dict(kind, vars(value))
            yield from (_Dict(kind, own[name]) for name in ("_parameters", "_buffers") if name in own)
        elif isinstance(value, list | deque):
            yield _Sequence(kind, value)
        elif isinstance(value, dict):
            yield _Dict(kind, value)
        elif isinstance(value, set):
            yield _Set(kind, value)
        elif isinstance(value, torch.Generator):
            yield _Generator("torch.Generator", value)
        elif inspect.isfunction(value):
            yield _Variables(value.__name__, value)
        elif not isinstance(value, type) and not is_library(type(value)) and hasattr(value, "__dict__"):
            yield _Dict(kind, vars(value))


@dataclass(slots=True)
class Held:
    """What all holders in a function's reach held at one time."""

    view: View
    was: list[tuple[Holder, Entries]] = field(init=False)

    def __post_init__(self) -> None:
        self.was = [(holder, holder.entries()) for holder in _holders(self.view)]

    def moved(self) -> Iterator[tuple[Holder, Any, Any, Any]]:
        """Holder, key, what it held then, and what it holds now, where these are not the same."""
        for holder, then in self.was:
            now = holder.entries()
            for key in then.keys() | now.keys():
                was, is_ = then.get(key, _NOTHING), now.get(key, _NOTHING)
                if not _same(was, is_):
                    yield holder, key, was, is_

    def restore(self) -> None:
        """All as it was then."""
        for holder, then in self.was:
            holder.put(then)


_NOTHING = object()
"""Held under a key that is not there."""


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, PLAIN) and type(a) is type(b) and a == b)


@dataclass(slots=True)
class Anew:
    """A function each of whose runs begins with what its surroundings hold at the time of ``begin``.

    What the first run loads, and the second finds, is loaded once and stays. What each run moves is the function's
    state: `end` leaves it as it was before the first one.
    """

    function: Callable[..., Any]
    _before: Held = field(init=False)
    _loaded: Held | None = field(init=False, default=None)
    _state: set[tuple[int, Any]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._before = Held(look(self.function))

    def begin(self, view: View) -> None:
        """The first run is over; ``view`` is what is in reach now."""
        self._loaded = Held(view)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert self._loaded is not None
        self._loaded.restore()
        try:
            return self.run(*args, **kwargs)
        finally:
            self._state |= {(id(_of(holder)), key) for holder, key, _, _ in self._loaded.moved()}

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The function with containers of its own for its arguments. Raises: `CaptureError` if it changes one."""
        leaves, tree = flatten((args, kwargs))
        own, named = unflatten(tree, [leaf for _, leaf in leaves])
        result = self.function(*own, **named)
        after, left = flatten((own, named))
        if tree != left or any(a is not b for (_, a), (_, b) in zip(leaves, after, strict=True)):
            raise CaptureError(
                "the function changes a list or a dict that it is given; a compiled call would not\n"
                "  return what is to be handed on, or make a copy where the function begins"
            )
        return result

    def check(self, read: Callable[[torch.Tensor], bool]) -> tuple[str, ...]:
        """The names under which a run leaves tensors, which the next one does not read.

        Raises: `CaptureError` for a tensor that was ``read``, and for a number or a text: the next run begins with it.
        """
        assert self._loaded is not None
        left: list[str] = []
        for holder, key, was, now in self._loaded.moved():
            name = key[0] if isinstance(key, tuple) else key
            if _is_tensor(now):
                left.append(f"{name!r} of {holder.name}")
            if isinstance(holder, _Generator) or not (isinstance(was, PLAIN) or (_is_tensor(was) and read(was))):
                continue
            if isinstance(now, PLAIN) or _is_tensor(now):
                raise CaptureError(
                    f"each call of the function leaves something else in {name!r} of {holder.name}, which the next one "
                    "begins with; a compiled call would leave it as it is\n"
                    "  give it as an argument and return it, or set it where the function begins"
                )
        return tuple(left)

    def undo(self) -> None:
        """All as it was before the first run."""
        self._before.restore()

    def end(self) -> None:
        """Its state as it was before the first run, and what was loaded as it is."""
        assert self._loaded is not None
        self._loaded.restore()
        for holder, then in self._before.was:
            own = {key for held, key in self._state if held == id(_of(holder))}
            if own:
                now = holder.entries()
                kept = {key: value for key, value in now.items() if key not in own}
                holder.put(kept | {key: then[key] for key in own if key in then})


def _of(holder: Holder) -> Any:
    return holder.function if isinstance(holder, _Variables) else holder.held  # type: ignore[attr-defined]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


@contextmanager
def unmoved(function: Callable[..., Any]) -> Iterator[None]:
    """Whatever runs of ``function`` move is put back at the end."""
    held = Held(look(function))
    try:
        yield
    finally:
        held.restore()

"""Where a function keeps things from call to call: attributes, entries, variables, generators; as they are, put back.

A function is run several times while it is compiled. A module that carries its last state in an attribute, a counter,
a generator of one's own would be further on after that than before.
"""

from __future__ import annotations

import dis
import functools
import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from ..given import NAMESPACES, is_library
from .instances import slots_of
from .reach import PLAIN
from .stateful import Slots, stateful
from .surroundings import View, look

Entries: TypeAlias = dict[Any, Any]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where something is held: the ``thing`` at this path, or a ``part`` of it, under ``key``."""

    thing: str
    part: str
    key: Any
    name: str = field(compare=False)  # for people, and for programs


class Holder(Protocol):
    """Something that holds values under keys."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def part(self) -> str:
        """Of the thing that it belongs to; empty for the thing itself."""
        ...

    def hold(self, key: Any, value: Any) -> None:
        """One value, under a key that a `Spot` has."""
        ...

    def entries(self) -> Entries: ...

    def put(self, entries: Mapping[Any, Any]) -> None:
        """Hold these and no others."""
        ...


@dataclass(frozen=True, slots=True)
class Dict:
    name: str
    held: dict[Any, Any]
    part: str = ""
    attributes: bool = False  # of an object, and not the entries of a dictionary

    def hold(self, key: Any, value: Any) -> None:
        self.held[key] = value

    def entries(self) -> Entries:
        return dict(self.held)

    def put(self, entries: Mapping[Any, Any]) -> None:
        for key in [key for key in self.held if key not in entries]:
            del self.held[key]
        for key, value in entries.items():
            if key not in self.held or self.held[key] is not value:
                self.held[key] = value


@dataclass(frozen=True, slots=True)
class Sequence:
    name: str
    held: list[Any] | deque[Any]
    part: str = ""

    def hold(self, key: Any, value: Any) -> None:
        self.held[key] = value

    def entries(self) -> Entries:
        return dict(enumerate(self.held))

    def put(self, entries: Mapping[Any, Any]) -> None:
        if len(self.held) != len(entries) or any(a is not b for a, b in zip(self.held, entries.values(), strict=True)):
            self.held.clear()
            self.held.extend(entries.values())


@dataclass(frozen=True, slots=True)
class Set:
    name: str
    held: set[Any]
    part: str = ""

    def hold(self, key: Any, value: Any) -> None:
        raise AssertionError("nothing is left in sets")

    def entries(self) -> Entries:
        return {value: value for value in self.held}

    def put(self, entries: Mapping[Any, Any]) -> None:
        self.held.intersection_update(entries)
        self.held.update(entries)


@dataclass(frozen=True, slots=True)
class Variables:
    """Those outside of a function that it, or a function inside it, assigns: ``global``, and ``nonlocal``."""

    name: str
    function: Any
    part: str = ""

    def hold(self, key: Any, value: Any) -> None:
        if key in self.function.__code__.co_freevars:
            self.function.__closure__[self.function.__code__.co_freevars.index(key)].cell_contents = value
        else:
            self.function.__globals__[key] = value

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
class Generator:
    name: str
    held: torch.Generator
    part: str = ""

    def hold(self, key: Any, value: Any) -> None:
        raise AssertionError("nothing is left in generators")

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


def _holders(view: View) -> Iterator[tuple[str, Holder]]:
    """All that hold things, each with the path of what it belongs to."""
    for path, value in view.things():
        yield from ((path, holder) for holder in _of_thing(value))


_OPEN = (*NAMESPACES, threading.local)
"""Types of the standard library in whose instances a function may keep things."""


def _of_thing(value: Any) -> Iterator[Holder]:
    kind = type(value).__name__
    if isinstance(value, nn.Module):
        own = {**vars(value)}
        yield Dict(kind, vars(value), attributes=True)
        yield from (
            Dict(kind, own[name], name, True) for name in ("_parameters", "_buffers") if isinstance(own.get(name), dict)
        )
    elif isinstance(value, list | deque):
        yield Sequence(kind, value)
    elif isinstance(value, dict):
        yield Dict(kind, value)
    elif isinstance(value, set):
        yield Set(kind, value)
    elif isinstance(value, torch.Generator):
        yield Generator("torch.Generator", value)
    elif inspect.isfunction(value):
        yield Variables(value.__name__, value)
    elif not isinstance(value, type) and (isinstance(value, _OPEN) or not is_library(type(value))):
        yield from [Dict(kind, vars(value), attributes=True)] if hasattr(value, "__dict__") else []
        yield from [Slots(kind, value)] if slots_of(value) else []
    yield from stateful(value)


def held_at(view: View, spot: Spot) -> Any:
    """What is held in a spot now; None if nothing is."""
    holder = _found(view, spot)
    entries = {} if holder is None else holder.entries()
    return next((value for key, value in entries.items() if _plain(holder, key) == spot.key), None)


def put(view: View, spot: Spot, value: Any) -> None:
    """Hold ``value`` in a spot; nothing is done where its thing is no longer there."""
    if (holder := _found(view, spot)) is not None:
        holder.hold(spot.key, value)


def _found(view: View, spot: Spot) -> Holder | None:
    thing = view.at(spot.thing)
    return next((holder for holder in _of_thing(thing) if holder.part == spot.part), None)


def _plain(holder: Holder | None, key: Any) -> Any:
    """A variable of an enclosing function by its name alone."""
    return key[0] if isinstance(holder, Variables) and isinstance(key, tuple) else key


@dataclass(slots=True)
class Held:
    """What all holders in a function's reach held at one time."""

    view: View
    was: list[tuple[str, Holder, Entries]] = field(init=False)

    def __post_init__(self) -> None:
        self.was = [(path, holder, holder.entries()) for path, holder in _holders(self.view)]

    def moved(self) -> Iterator[Moved]:
        """What is held otherwise now."""
        for path, holder, then in self.was:
            now = holder.entries()
            for key in dict.fromkeys((*then, *now)):
                was, is_ = then.get(key, NOTHING), now.get(key, NOTHING)
                if not _same(was, is_):
                    yield Moved(path, holder, key, was, is_)

    def restore(self) -> None:
        """All as it was then."""
        for _, holder, then in self.was:
            holder.put(then)


NOTHING = object()
"""Held under a key that is not there."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a holder, of the thing at ``path``, held under a key then, and what it holds now."""

    path: str
    holder: Holder
    key: Any
    was: Any
    now: Any

    @property
    def told(self) -> str:
        return f"{_plain(self.holder, self.key)!r} of {self.holder.name}"

    @property
    def spot(self) -> Spot | None:
        """Where another call can leave the same; None for a place in a list, or in a set, that is not always there."""
        holder = self.holder
        if isinstance(holder, Set | Generator) or (isinstance(holder, Sequence) and NOTHING in (self.was, self.now)):
            return None
        return Spot(self.path, holder.part, _plain(holder, self.key), self.name)

    @property
    def name(self) -> str:
        """By where it is found."""
        holder, key = self.holder, _plain(self.holder, self.key)
        if isinstance(holder, Variables | Slots) or (isinstance(holder, Dict) and holder.attributes):
            return f"{self.path}.{key}".lstrip(".")
        return f"{self.path}[...]" if isinstance(holder, Set) else f"{self.path}[{key!r}]"


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, PLAIN) and type(a) is type(b) and a == b)


def takes_more(holder: Holder) -> bool:
    """Whether it is a container, in which there may be more after each run."""
    return isinstance(holder, Sequence | Set) or (isinstance(holder, Dict) and not holder.attributes)


def held_by(holder: Holder) -> Any:
    return holder.function if isinstance(holder, Variables) else holder.held  # type: ignore[attr-defined]


@contextmanager
def unmoved(function: Callable[..., Any]) -> Iterator[None]:
    """Whatever runs of ``function`` move is put back at the end."""
    held = Held(look(function))
    try:
        yield
    finally:
        held.restore()

"""What holds a state of its own that a run may move: generators of random numbers, arrays, iterators, slots."""

from __future__ import annotations

import operator
import random
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .instances import slots_of

LARGE = 2**26
"""Bytes: larger arrays are not copied to be put back, but compared all the same, by a sum of them."""
_ITERATORS: tuple[type, ...] = (
    type(iter([])),
    type(iter(())),
    type(iter({})),
    type(iter("")),
    type(iter(range(0))),
    type(iter(set())),
)


@dataclass(frozen=True, slots=True)
class Stateful:
    """Something whose state can be had, and set; it is compared by its text."""

    name: str
    held: Any
    get: Callable[[], Any]
    set: Callable[[Any], Any]
    part: str = ""
    _states: dict[Any, Any] = field(default_factory=dict)  # by their texts

    def hold(self, key: Any, value: Any) -> None:
        raise AssertionError("nothing is left in such")

    def entries(self) -> dict[Any, Any]:
        state = self.get()
        text = state if isinstance(state, str | bytes | int) else repr(state)
        self._states[text] = state
        return {"state": text}

    def put(self, entries: Mapping[Any, Any]) -> None:
        if self.entries() != dict(entries):
            self.set(self._states[entries["state"]])


@dataclass(frozen=True, slots=True)
class Slots:
    """The attributes of an object that has no ``__dict__``."""

    name: str
    held: Any
    part: str = "slots"

    def hold(self, key: Any, value: Any) -> None:
        setattr(self.held, key, value)

    def entries(self) -> dict[Any, Any]:
        return {name: getattr(self.held, name) for name in slots_of(self.held) if hasattr(self.held, name)}

    def put(self, entries: Mapping[Any, Any]) -> None:
        now = self.entries()
        for name in now.keys() - entries.keys():
            delattr(self.held, name)
        for name, value in entries.items():
            if name not in now or now[name] is not value:
                object.__setattr__(self.held, name, value)


def stateful(value: Any) -> Iterator[Stateful]:
    """How the state of ``value`` is had and set, if it has one of a kind that is known."""
    found = _how(value)
    if found is not None:
        yield Stateful(type(value).__name__, value, *found)


def _how(value: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    if isinstance(value, np.random.Generator):
        return lambda: value.bit_generator.state, lambda state: setattr(value.bit_generator, "state", state)
    if isinstance(value, np.random.RandomState):
        return lambda: [part.tolist() if isinstance(part, np.ndarray) else part for part in _legacy(value)], (
            lambda state: value.set_state(tuple(state))
        )
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return lambda: _bytes(value.tobytes()), lambda was: _write(value, was)
    if isinstance(value, array):
        return lambda: _bytes(value.tobytes()), lambda was: _fill(value, was)
    if isinstance(value, _ITERATORS):
        return lambda: operator.length_hint(value), lambda was: None  # how many are left: there is no way back
    if type(value).__module__ == "itertools":
        return lambda: repr(value), lambda was: None
    return None


def _legacy(value: np.random.RandomState) -> Any:
    return value.get_state()


def _bytes(whole: bytes) -> bytes | int:
    return whole if len(whole) <= LARGE else hash(whole)


def _write(value: Any, was: bytes | int) -> None:
    if isinstance(was, bytes) and value.flags.writeable:
        np.copyto(value, np.frombuffer(was, value.dtype).reshape(value.shape))


def _fill(value: Any, was: bytes | int) -> None:
    if isinstance(was, bytes):
        value[:] = array(value.typecode, was)

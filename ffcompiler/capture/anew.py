"""A function each of whose runs begins in the same surroundings, and what its runs leave there.

What a run leaves and the next one begins with is state, which compiled calls would not carry on: it is refused. What
each run sets anew can be left by compiled calls as well (`behind.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..constants import PLAIN as CONSTANTS
from ..errors import CaptureError
from ..given import is_library
from ..trees import flatten, unflatten
from .holders import NOTHING, Generator, Held, Moved, Spot, held_by, takes_more
from .reach import PLAIN
from .surroundings import View, look


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
    silent: bool = False  # of nothing that runs leave it is known to be left by all of them

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
            self._state |= {(id(held_by(moved.holder)), moved.key) for moved in self._loaded.moved()}

    def left(self) -> tuple[tuple[Spot, Any], ...]:
        """What the run that has just ended has left behind, of that which another can leave: where, and what."""
        return () if self.silent else tuple((spot, moved.now) for moved, spot in self._moved() if spot is not None)

    def _moved(self) -> Iterator[tuple[Moved, Spot | None]]:
        assert self._loaded is not None
        for moved in self._loaded.moved():
            yield moved, moved.spot if can_be_left(moved.now) else None

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

    def check(self, read: Callable[[Tensor], bool]) -> tuple[str, ...]:
        """The names under which a run leaves what compiled calls cannot, and the next one does not read.

        Raises: `CaptureError` for a tensor that was ``read``, and for a number or a text: the next run begins with it.
        """
        told: list[str] = []
        for moved, spot in self._moved():
            was, now = contents(moved.was), contents(moved.now)
            if (spot is None or self.silent) and now.tensors:
                told.append(moved.name)
            added = moved.was is NOTHING and takes_more(moved.holder)
            if isinstance(moved.holder, Generator) or (NOTHING in (moved.was, moved.now) and not added):
                continue
            plain = not now.tensors if added else isinstance(moved.was, PLAIN) or was.plain != now.plain
            what = f"leaves something else in {moved.told}, which the next one begins with"
            if added:
                what = f"adds to {moved.path}, a {moved.holder.name}"
            if plain or any(map(read, was.tensors)):
                raise CaptureError(
                    f"each call of the function {what}; a compiled call would leave it as it is\n"
                    "  give it as an argument and return it, or set it where the function begins"
                )
        return tuple(told)

    def overwritten(self) -> tuple[str, ...]:
        """Paths of what each run leaves there anew, none of whose tensors it reads: `check` has seen to that."""
        assert self._loaded is not None
        return tuple(moved.name for moved in self._loaded.moved() if NOTHING not in (moved.was, moved.now))

    def undo(self) -> None:
        """All as it was before the first run."""
        self._before.restore()

    def end(self) -> None:
        """Its state as it was before the first run, and what was loaded as it is."""
        assert self._loaded is not None
        self._loaded.restore()
        loaded = {id(held_by(holder)): entries for _, holder, entries in self._loaded.was}
        for _, holder, then in self._before.was:
            own = {key for held, key in self._state if held == id(held_by(holder))}
            if takes_more(holder) and not own <= loaded.get(id(held_by(holder)), {}).keys():
                holder.put(then)  # each run adds to it, and so has the first one
            elif own:
                now = holder.entries()
                kept = {key: value for key, value in now.items() if key not in own}
                holder.put(kept | {key: then[key] for key in own if key in then})


def can_be_left(value: Any) -> bool:
    """Whether a value is made of tensors, at least one, and constants."""
    leaves = [leaf for _, leaf in flatten(value)[0]]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    plain = all(type(leaf) in CONSTANTS for leaf in leaves if not isinstance(leaf, Tensor))
    return bool(tensors) and plain and all(type(t) in (Tensor, FakeTensor) and not t.requires_grad for t in tensors)


@dataclass(slots=True)
class Contents:
    """The tensors and the plain values in a container, or in an object's attributes."""

    tensors: list[Tensor] = field(default_factory=list)
    plain: list[Any] = field(default_factory=list)
    _seen: dict[int, Any] = field(default_factory=dict)

    def add(self, value: Any, listed: bool = True) -> None:
        """``listed``: plain values in it count; those of a library's objects are its own affair."""
        if isinstance(value, Tensor):
            self.tensors.append(value)
        elif isinstance(value, PLAIN):
            self.plain += [(type(value), repr(value))] if listed else []
        elif id(value) not in self._seen and len(self._seen) < MOST:
            self._seen[id(value)] = value
            for inner in _inside(value):
                self.add(inner, listed and (type(value) in _CONTAINERS or not is_library(type(value))))


MOST = 1000
"""So many containers and objects are looked into."""
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | deque):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    opaque = isinstance(value, nn.Module | type) or callable(value)
    return [] if opaque else list(getattr(value, "__dict__", {}).values())


def contents(value: Any) -> Contents:
    """What is in a value."""
    found = Contents()
    found.add(value)
    return found

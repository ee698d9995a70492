"""Where a recorded function repeats itself: the iterations of its Python loops, found in the sequence of its calls.

Each call has a *footprint*: its operator, and the instructions of the user's code through which it was reached.
Iterations of a loop leave the same footprints, one after the other. Where an iteration begins is where the execution of
the user's code jumped backwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt

from .facts import is_user, user_line

Place = tuple[tuple[int, int], ...]  # (code object, instruction) of each of the user's frames, outermost first

LEAST = 3
"""Fewer iterations than this are not a loop worth finding."""
CANDIDATES = 64
"""Periods that are looked at, those that the most calls suggest."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """``count`` iterations of ``period`` calls each, from call ``start`` on."""

    start: int
    period: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.period * self.count

    def begin(self, step: int) -> int:
        """The first call of an iteration, or, for ``count``, the first one after the loop."""
        return self.start + self.period * step


@dataclass(slots=True)
class Footprints:
    """The footprints of a recorded run, as numbers, and the places of its calls."""

    numbers: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    _places: dict[Place, int] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)  # for each place, the user's line
    _known: dict[tuple[Any, int], int] = field(default_factory=dict)

    def add(self, op: Any) -> str:
        """The next call, made from where the program stands now; gives the user's line."""
        place = self._places.setdefault(_place(), len(self._places))
        if place == len(self._lines):
            self._lines.append(user_line())
        self.places.append(place)
        self.numbers.append(self._known.setdefault((op, place), len(self._known)))
        return self._lines[place]

    def add_here(self, op: Any) -> str:
        """What was noticed after the last call, as if it had been made from the same place."""
        place = self.places[-1] if self.places else self._places.setdefault((), len(self._places))
        if place == len(self._lines):
            self._lines.append(user_line())
        self.places.append(place)
        self.numbers.append(self._known.setdefault((op, place), len(self._known)))
        return self._lines[place]

    def repeats(self, begin: int = 0, end: int | None = None) -> list[Repeat]:
        """Possible loops among the calls ``begin .. end - 1``: most calls first, then the shortest steps."""
        end = len(self.numbers) if end is None else end
        keys = np.array(self.numbers[begin:end], dtype=np.int64)
        periods = _periods(keys, self._jumps(begin + 1, end))
        found = {replace(r, start=r.start + begin) for period in periods for r in _runs(keys, period)}
        ordered = sorted(found, key=lambda r: (-r.period * r.count, r.period, r.start))
        return list(dict.fromkeys(self._from_its_beginning(r, end) for r in ordered))

    def _jumps(self, first: int = 1, end: int | None = None) -> list[tuple[int, int, int]]:
        """(depth, instruction, call) for each of some calls before which the execution jumped backwards."""
        by_number = list(self._places)
        found = []
        for call in range(first, min(end or len(self.places), len(self.places))):
            before, now = self.places[call - 1], self.places[call]
            jump = None if before == now else _backwards(by_number[before], by_number[now])
            if jump is not None:
                found.append((*jump, call))
        return found

    def _from_its_beginning(self, repeat: Repeat, end: int) -> Repeat:
        """The same loop, from the first call of an iteration of the user's code on."""
        inside = self._jumps(repeat.start + 1, repeat.start + repeat.period + 1)
        if not inside:
            return repeat
        offset = (min(inside)[2] - repeat.start) % repeat.period
        count = (self._length(repeat, end) - offset) // repeat.period
        return repeat if count < LEAST else Repeat(repeat.start + offset, repeat.period, count)

    def _length(self, repeat: Repeat, end: int) -> int:
        """How many calls from the start of ``repeat`` on, and before ``end``, go on like it."""
        keys = np.array(self.numbers[repeat.start : end], dtype=np.int64)
        same = keys[: -repeat.period] == keys[repeat.period :]
        different = np.flatnonzero(~same)
        return (int(different[0]) if len(different) else len(same)) + repeat.period


def _place() -> Place:
    frame: FrameType | None = sys._getframe(2)
    found = []
    while frame is not None:
        code = frame.f_code
        if is_user(code.co_filename):
            found.append((id(code), frame.f_lasti))
        frame = frame.f_back
    return tuple(reversed(found))


def _backwards(before: Place, now: Place) -> tuple[int, int] | None:
    """How deep, and to which instruction, the execution jumped back; None if it went on."""
    for depth, (a, b) in enumerate(zip(before, now, strict=False)):
        if a != b:
            return (depth, b[1]) if a[0] == b[0] and b[1] < a[1] else None
    return None


def _periods(keys: npt.NDArray[np.int64], jumps: Sequence[tuple[int, int, int]]) -> list[int]:
    """Distances at which calls come again."""
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    gaps = np.diff(order)[same]
    counts = np.bincount(gaps) if len(gaps) else np.zeros(1, np.int64)
    by_calls = [int(p) for p in np.argsort(-counts * np.arange(len(counts)))[:CANDIDATES] if counts[p] > 0]
    by_jumps = []
    for depth in sorted({depth for depth, _, _ in jumps})[:4]:
        at = np.array([call for d, _, call in jumps if d == depth])
        steps, times = np.unique(np.diff(at), return_counts=True)
        by_jumps += [int(s) for s in steps[np.argsort(-times)][:8]]
    return list(dict.fromkeys([*by_calls, *by_jumps]))


def _runs(keys: npt.NDArray[np.int64], period: int) -> Iterator[Repeat]:
    """The longest stretches in which every call comes again after ``period`` calls."""
    if period < 1 or period * LEAST > len(keys):
        return
    different = np.flatnonzero(keys[:-period] != keys[period:])
    edges = np.concatenate([[-1], different, [len(keys) - period]])
    lengths = np.diff(edges) - 1 + period
    for run in np.argsort(-lengths, kind="stable")[:4]:
        count = int(lengths[run]) // period
        if count >= LEAST:
            yield Repeat(int(edges[run]) + 1, period, count)

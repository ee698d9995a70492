"""Where the elements of each `latest` stand: their bounding box, for any range of steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...proof import Latest
from ...windows import Box

Bounds = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Extent:
    """For each step, the bounding box of the elements whose `latest` it is: first [n, rank] and last [n, rank]."""

    first: Bounds
    last: Bounds

    def box(self, lo: int, hi: int) -> Box | None:
        """The box of the elements with ``lo <= latest < hi``; None if there is none."""
        if lo >= hi:
            return None
        first, last = self.first[lo:hi].min(axis=0), self.last[lo:hi].max(axis=0)
        if bool((first > last).any()):
            return None
        return tuple((int(a), int(b) + 1) for a, b in zip(first, last, strict=True))


def extent_of(latest: Latest, shape: tuple[int, ...], steps: int, orders: dict[int, npt.NDArray[np.intp]]) -> Extent:
    """The extent of a value of this shape; ``orders`` gives, for some axes, which entry comes at each place."""
    for axis, order in orders.items():
        latest = latest.take(order, axis=axis)
    flat = latest.reshape(-1)
    known = np.flatnonzero(flat >= 0)
    rank = len(shape)
    first = np.full((steps, rank), np.iinfo(np.int64).max, np.int64)
    last = np.full((steps, rank), -1, np.int64)
    coordinates = np.unravel_index(known, latest.shape) if latest.ndim else ()
    at_steps = flat[known]
    for dim, at in enumerate(coordinates):
        if latest.shape[dim] == 1:
            first[at_steps, dim], last[at_steps, dim] = 0, shape[dim] - 1
        else:
            np.minimum.at(first[:, dim], at_steps, at)
            np.maximum.at(last[:, dim], at_steps, at)
    return Extent(first, last)


def scattered_order(latest: Latest) -> tuple[int, npt.NDArray[np.intp]] | None:
    """The axis along which `latest` varies and an order that sorts it, if it varies along one and is not in order."""
    varying = [dim for dim, size in enumerate(latest.shape) if size > 1]
    if len(varying) != 1:
        return None
    line = latest.reshape(-1)
    known = line[line >= 0]
    steps = np.diff(known)
    if (steps >= 0).all() or (steps <= 0).all():
        return None
    return varying[0], np.argsort(line, kind="stable")


def sorted_runs(line: npt.NDArray[np.int32]) -> list[tuple[int, int]]:
    """``line`` cut where it stops rising; -1 goes with anything."""
    runs, start, last = [], 0, -1
    for place, step in enumerate(line.tolist()):
        if 0 <= step < last:
            runs.append((start, place))
            start = place
        last = step if step >= 0 else last
    return [*runs, (start, len(line))]


def only(latest: Latest, axis: int, run: tuple[int, int]) -> Latest:
    """``latest`` for the entries of a run along ``axis``; the others change never."""
    places = np.arange(latest.shape[axis]).reshape([-1 if d == axis else 1 for d in range(latest.ndim)])
    return np.where((places >= run[0]) & (places < run[1]), latest, -1).astype(np.int32)

"""Schedules on so many workers, simulated: no run, no torch, only seconds that were measured and windows that occurred.

It is the paper's own count for DenseNet: a sweep takes as long as its slowest block, if each has a processor. Here

    a task     is what one worker does without waiting: a block, or a run of blocks in order (``jacobi-gs``);
    a sweep    gives its tasks to the workers, longest first, each to the one that is free first;
    sweeps     are barriers: the next begins when all workers have ended.

Nothing is sent from worker to worker, and old and new values are compared in no time: both cost something on a machine.
A machine that lets a block begin its next sweep as soon as what it reads is there would be faster than this.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

Tasks: TypeAlias = tuple[float, ...]
"""Seconds of each task of a sweep."""
SIMULATED = "simulated on P workers, not measured"


def makespan(tasks: Tasks, processors: int) -> float:
    """Seconds until all are done, by the rule above: at most 4/3 of the best, and never more on more workers.

    >>> makespan((3.0, 3.0, 2.0, 2.0, 2.0), 2), makespan((3.0, 3.0, 2.0, 2.0, 2.0), 5)
    (7.0, 3.0)
    """
    if not tasks:
        return 0.0
    if min(tasks) == max(tasks):  # thousands, where blocks are alike
        return math.ceil(len(tasks) / processors) * tasks[0]
    busy = [0.0] * min(processors, len(tasks))
    for seconds in sorted(tasks, reverse=True):
        heapq.heapreplace(busy, busy[0] + seconds)
    return max(busy)


def window_tasks(seconds: Sequence[float], lo: int, hi: int, run: int = 1) -> Tasks:
    """The tasks of a sweep over blocks ``lo .. hi - 1``, of which ``run`` at a time are computed in order.

    >>> window_tasks((1.0, 2.0, 4.0, 8.0, 16.0), 1, 5, run=2)
    (2.0, 12.0, 16.0)
    """
    cuts = [lo, *range(lo - lo % run + run, hi, run), hi]
    return tuple(sum(seconds[a:b]) for a, b in pairwise(cuts) if a < b)


def even_tasks(seconds: float, count: int) -> Tasks:
    """A sweep of so many seconds over blocks that are computed in one call, each with its share of it."""
    return (seconds / count,) * count if count else ()


def critical_path(seconds: Sequence[float], reads: Sequence[Sequence[int]]) -> float:
    """Seconds of the longest way through the blocks: without iteration no number of workers is faster.

    ``reads[k]``: the blocks before ``k`` that it reads.
    """
    ends: list[float] = []
    for k, own in enumerate(seconds):
        ends.append(own + max((ends[j] for j in reads[k]), default=0.0))
    return max(ends, default=0.0)


# ---------------------------------------------------------------------------------------------------- simulations


@dataclass(frozen=True, slots=True)
class Course:
    """The sweeps that one schedule made. ``stopped`` says why they did not reach the last block, if they did not."""

    schedule: str
    sweeps: tuple[Tasks, ...]
    stopped: str = ""

    def seconds(self, processors: int) -> float:
        """The makespan of all sweeps."""
        return sum(count * makespan(tasks, processors) for tasks, count in Counter(self.sweeps).items())


@dataclass(frozen=True, slots=True)
class Makespan:
    """One schedule on so many workers; ``speedup`` against one worker that runs the function block by block."""

    processors: int
    seconds: float
    speedup: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """What schedules would take on ``processors`` workers. ``str`` of it, and its JSON, say that it is a simulation.

    ``block``: what stands for the seconds of one block, in words. ``sequential``: seconds of all blocks in order on
    one worker; ``once``: seconds of what is done once per call, by one worker. ``note`` says why there is no course,
    if there is none.
    """

    processors: tuple[int, ...]
    blocks: int = 0
    block: str = ""
    sequential: float = 0.0
    once: float = 0.0
    path: float | None = None  # the critical path, where blocks are not in a row
    courses: tuple[Course, ...] = ()
    note: str = ""

    def of(self, course: Course) -> tuple[Makespan, ...]:
        """A schedule on each number of workers; of one that was stopped, seconds are a lower bound."""
        found = [(p, self.once + course.seconds(p)) for p in self.processors]
        return tuple(Makespan(p, s, self.sequential / s if s > 0 else math.inf) for p, s in found)

    @property
    def json(self) -> dict[str, Any]:
        return {
            "what": SIMULATED,
            "assumptions": list(self._assumptions()),
            "blocks": self.blocks,
            "sequential_seconds": self.sequential,
            "once_seconds": self.once,
            "critical_path_seconds": self.path,
            "schedules": [self._data(course) for course in self.courses],
            "note": self.note,
        }

    def _data(self, course: Course) -> dict[str, Any]:
        workers = [{"processors": m.processors, "seconds": m.seconds, "speedup": m.speedup} for m in self.of(course)]
        return {
            "schedule": course.schedule,
            "sweeps": len(course.sweeps),
            "stopped": course.stopped,
            "simulated": workers,
        }

    def _assumptions(self) -> tuple[str, ...]:
        if not self.courses:
            return ()
        once = f"; what is done once per call, {self.once:.4g} s, is done by one of them" if self.once else ""
        return (
            f"seconds of a block: {self.block}",
            f"workers wait for each other after every sweep; nothing is sent between them, nothing is compared{once}",
            "the sweeps are those of runs without the guard",
        )

    def __str__(self) -> str:
        """Assumptions, then a table: for each schedule seconds and speed-up on each number of workers."""
        if not self.courses:
            return f"  - {self.note}"
        lines = [f"  - {line}" for line in self._assumptions()]
        one = f"  - one worker, block after block: {self.sequential:.4g} s"
        path = "" if self.path is None else f"; the longest way through the blocks: {self.path:.4g} s"
        return "\n".join([*lines, one + path, *self._table()])

    def _table(self) -> list[str]:
        """The figures, one line for each schedule."""
        heads = ["schedule", "sweeps", *(f"P={p}" for p in self.processors)]
        rows = [heads, *(self._cells(course) for course in self.courses)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = [[f"{row[0]:<{widths[0]}}", *map(str.rjust, row[1:], widths[1:])] for row in rows]
        notes = ["", *(f"  {course.stopped}" if course.stopped else "" for course in self.courses)]
        return [f"  {'  '.join(row)}{note}" for row, note in zip(aligned, notes, strict=True)]

    def _cells(self, course: Course) -> list[str]:
        less, more = ("> ", "< ") if course.stopped else ("", "")
        figures = [f"{less}{m.seconds:.4g} s {more}{m.speedup:.2f}x" for m in self.of(course)]
        return [course.schedule, str(len(course.sweeps)), *figures]

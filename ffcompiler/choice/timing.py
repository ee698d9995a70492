"""Seconds of calls on a device, and seconds that are left of a budget."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

LONG = 0.5
"""Seconds: what takes longer is timed once."""
OTHERS = 1 << 22
"""Numbers of four bytes: so many are read and written between calls, more than a processor's nearer caches hold."""


@dataclass(slots=True)
class Left:
    """Seconds that are left of a budget, from now on."""

    seconds: float
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = time.perf_counter() + self.seconds

    def __call__(self) -> float:
        return self.end - time.perf_counter()

    def share(self, part: float) -> Left:
        """A part of what is left, from now on."""
        return Left(part * max(self(), 0.0))


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def elsewhere(device: torch.device) -> None:
    """What a program does between two calls: the caches hold other values when the next one begins."""
    if device.type == "cpu":
        torch.zeros(OTHERS).add_(1.0)


@contextmanager
def heap_aside() -> Iterator[None]:
    """The garbage collector looks at objects that are made from now on, and no others.

    A look at all that a program holds takes a tenth of a second, in whichever call it falls: longer than many a run
    that is timed. Where the program has set objects aside itself, nothing is changed.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def median_seconds(call: Callable[[], Any], device: torch.device) -> float:
    return mean_seconds([call], device)


def mean_seconds(calls: Sequence[Callable[[], Any]], device: torch.device) -> float:
    """The mean over calls of the median over rounds, in which they take turns. A first round is not counted."""
    rounds = _rounds(max(_seconds(call, device) for call in calls))
    times = [[_seconds(call, device) for call in calls] for _ in range(rounds)]
    return statistics.fmean(map(statistics.median, zip(*times, strict=True)))


def _rounds(first: float) -> int:
    """More of what is quick, where a machine that does something else for a moment weighs more."""
    return 1 if first > LONG else 3 if first > LONG / 100 else 7


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    started = now(device)
    call()
    return now(device) - started

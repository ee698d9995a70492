"""The loops a user marks for capture: ordinary Python loops when run eagerly.

``fori_loop`` asks the call-local *driver* how its steps are to be run. Without one it is the plain loop, so the
user's function stays its own reference. Capture, replay and the handover from a parallel schedule to sequential
execution are all drivers: there is one mechanism, and it belongs to the call (a ``ContextVar``), not to the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .trees import flatten, unflatten

Body = Callable[[int, Any], Any]


class LoopDriver(Protocol):
    """Runs the steps ``lo .. hi - 1`` of one loop in place of the plain loop."""

    def run(self, lo: int, hi: int, body: Body, init: Any) -> Any: ...


_driver: ContextVar[LoopDriver | None] = ContextVar("ffcompiler_loop_driver", default=None)


def fori_loop(lo: int, hi: int, body: Body, init: Any) -> Any:
    """The state after ``for i in range(lo, hi): state = body(i, state)``, starting from ``init``.

    ``i`` is a Python int, so the body may index and slice with it. Run eagerly this is exactly that loop; compiled,
    it marks the loop whose steps become the equations of the triangular system.

    >>> fori_loop(0, 4, lambda i, total: total + i, 0)
    6
    """
    driver = _driver.get()
    if driver is None:
        return run_steps(range(lo, hi), body, init)
    with drive_loops(None):  # a loop inside the body is the body's own business
        return driver.run(lo, hi, body, init)


def run_steps(steps: range, body: Body, state: Any) -> Any:
    """The plain loop."""
    for i in steps:
        state = body(i, state)
    return state


@contextmanager
def drive_loops(driver: LoopDriver | None) -> Iterator[None]:
    """Let ``driver`` run the marked loops of this call (of this thread, or asyncio task) only."""
    token = _driver.set(driver)
    try:
        yield
    finally:
        _driver.reset(token)


@dataclass(frozen=True)
class Resume:
    """Start the marked loop at step ``start`` from ``state``: the first ``start - lo`` steps are already the answer.

    A body that writes into the first state (``in_place``) may have it read under its old name after the loop: then the
    first state itself takes on ``state``.
    """

    start: int
    state: Tensor
    in_place: bool

    def run(self, lo: int, hi: int, body: Body, init: Any) -> Any:
        leaves, tree = flatten(init)
        state = leaves[0][1].copy_(self.state) if self.in_place else self.state
        return run_steps(range(max(lo, self.start), hi), body, unflatten(tree, [state]))


@dataclass
class TimedSteps:
    """Run steps of the marked loop for a limited time, to tell how long all of them would take."""

    seconds: float
    whole: float = 0.0  # seconds for all steps, extrapolated

    def run(self, lo: int, hi: int, body: Body, init: Any) -> Any:
        started, state, done = time.perf_counter(), init, 0
        for i in range(lo, hi):
            state = body(i, state)
            done += 1
            if time.perf_counter() - started > self.seconds:
                break
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        self.whole = (time.perf_counter() - started) * (hi - lo) / max(done, 1)
        return state


@dataclass(frozen=True)
class FirstStep:
    """Run the marked loop's first step only: enough for a function to load, once and for all, what it loads lazily."""

    def run(self, lo: int, hi: int, body: Body, init: Any) -> Any:
        return run_steps(range(lo, min(lo + 1, hi)), body, init)

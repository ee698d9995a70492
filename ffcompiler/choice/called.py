"""What a call takes besides its sweeps, and what its sweeps take in their place: measured on calls begun anew.

A sweep that is timed over and over finds everything in the processor's caches. A call comes after other work: it looks
whether anything has changed, its first sweeps find nothing there, and the later ones go on from what the last one left.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..plan import Costs
from ..runtime.runner import Execution, Runner
from ..runtime.solve import always_certifies
from ..runtime.unmoved import look
from .timing import LONG, elsewhere, now
from .traces import begun, first_guess

CALLS = 5
"""Calls that are begun; one where it takes long."""
SWEEPS = 8
"""Of each so many sweeps are made at most: the second half of them is taken for what all later ones cost."""
ENOUGH = 0.1
"""Seconds: no further sweep is begun after them, since what comes before sweeps of that length weighs little."""
DEARER = 2.0
"""So many times as long as by itself a sweep may take within a call; more is the machine's doing."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A call that was begun: seconds before its sweeps without those of its draws, and of each sweep."""

    before: float
    sweeps: tuple[float, ...]

    @property
    def steady(self) -> float | None:
        """Seconds of a sweep once the first ones are made; None where there were too few."""
        later = self.sweeps[len(self.sweeps) // 2 :]
        return statistics.median(later) if len(self.sweeps) >= SWEEPS // 2 else None

    @property
    def start(self) -> float:
        """Seconds that the first sweeps take longer than later ones."""
        steady = self.steady
        first = self.sweeps[: len(self.sweeps) // 2]
        return 0.0 if steady is None else sum(max(s - steady, 0.0) for s in first)


def as_called(costs: Costs, runner: Runner, begin: Callable[[], Execution]) -> Costs:
    """``costs``, of sweeps timed by themselves, as a call has them. ``begin`` begins a run as a call does.

    A call whose sweeps raise, or do not meet a premise, leaves theirs as they are.
    """
    calls: list[Begun] = []
    try:
        while len(calls) < CALLS and (len(calls) < 2 or calls[0].before + sum(calls[0].sweeps) < LONG / CALLS):
            calls.append(_begun(runner, begin))
    except AssertionError:  # our own logic
        raise
    except Exception:  # what comes before sweeps raises: so would every call
        return costs
    known = calls[1:]  # the first call of all makes what is kept from call to call
    # the least: what else the machine did is in the others; steps of a repeated map are the reference's, first ones too
    start = 0.0 if runner.repeat is not None else min(call.start for call in known)
    costs = replace(costs, once=min(call.before for call in known), start=start)
    steady = [call.steady for call in known if call.steady is not None]
    return _dearer(costs, runner, statistics.median(steady)) if steady and runner.solving is not None else costs


def _dearer(costs: Costs, runner: Runner, steady: float) -> Costs:
    """``costs`` where a sweep over the whole takes ``steady`` seconds; where width is what costs, every sweep."""
    assert runner.solving is not None
    if not always_certifies(runner.solving, runner.plan.schedule, runner.plan.equality):
        return replace(costs, sweep=costs.sweep * _ratio(steady, costs.sweep))
    ratio = _ratio(steady, costs.certify)
    costs = replace(costs, sweep=costs.sweep * ratio, certify=costs.certify * ratio)
    if not runner.solving.priced_by_width:
        return costs
    windows = tuple((width, seconds * ratio) for width, seconds in costs.windows)
    return replace(costs, windows=windows, runs=tuple((run, width, s * ratio) for run, width, s in costs.runs))


def _ratio(within: float, by_itself: float) -> float:
    return min(max(within / max(by_itself, 1e-9), 1.0), DEARER)


def _begun(runner: Runner, begin: Callable[[], Execution]) -> Begun:
    device = runner.device
    elsewhere(device)
    started = now(device)
    execution = begin()
    sweeps: list[float] = []
    whole = now(device)
    made = _steps(runner, execution) if runner.repeat is not None else _sweeps(runner, execution)
    next(made)  # what is made once, before the first sweep
    before = now(device) - started - execution.drawing_seconds
    try:
        while len(sweeps) < SWEEPS and now(device) - whole < ENOUGH:
            began = now(device)
            if not next(made):
                break
            sweeps.append(now(device) - began)
    except AssertionError:  # our own logic
        raise
    except Exception:  # the user's operators on states that never occur
        sweeps = []
    return Begun(max(before, 0.0), tuple(sweeps))


def _sweeps(runner: Runner, execution: Execution) -> Iterator[bool]:
    """Jacobi from the beginning: True for every sweep that was made, False for one that was not or was the last."""
    solve, state = begun(runner, execution), first_guess(runner, execution)
    yield True
    while solve.working < solve.system.blocks:
        yield solve.sweep(state, solve.polish)
    yield False


def _steps(runner: Runner, execution: Execution) -> Iterator[bool]:
    """Steps of a repeated map, each with a look at what it left."""
    assert runner.repeat is not None
    step, state = runner.repeat.steps(execution.env), execution.init
    yield True
    for _ in range(runner.repeat.blocks):
        after = step(state)
        look(state, after, runner.plan.equality)
        state = after
        yield True
    yield False

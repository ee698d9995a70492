"""After how many steps the state of a repeated map repeats, recorded; and what a run takes that looks for it.

The trace of such a loop is that of plain Jacobi, of which its steps are the sweeps: after each of them one more step is
done, and after the one that repeats the state all are. No other schedule is to be simulated on it (docs/repeated.md).
"""

from __future__ import annotations

from collections.abc import Callable

from ..plan import Costs, Equality, Schedule
from ..runtime.repeat import State, StepGuard
from ..runtime.unmoved import look
from .convergence import Fresh, Run, Shape, Trace


def repetition(
    step: Callable[[State], State], blocks: int, init: State, equality: Equality, left: Callable[[], float]
) -> Trace:
    """The steps from ``init`` on until one leaves the state as it is, with a look after each, as far as there is time.

    Raises: what a step raises, which is what the loop itself would raise.
    """
    state, done = init, 0
    while done < blocks and left() > 0.0:
        after = step(state)
        done += 1
        if look(state, after, equality).same:
            return Trace(blocks, (Fresh(0, (*range(1, done), blocks)),))
        state = after
    return Trace(blocks, (Fresh(0, tuple(range(1, done + 1))),))


def simulate_steps(schedule: Schedule, shape: Shape, trace: Trace, costs: Costs) -> Run:
    """The run that the trace lets expect: steps with a look after some of them, as `RepeatRun` makes them.

    Of a trace that was cut short nothing is known of later steps: they are taken to be needed.
    """
    guard = StepGuard(costs, shape.blocks, handover=shape.handover)
    every, settled, done, sweeps = guard.every, trace.sweeps, 0, 0
    while done < shape.blocks:
        looks = (done + 1) % every == 0 and done + 1 < shape.blocks
        if not guard.allows_step(done, looks):
            break
        guard.charge(looks, 0.0)
        sweeps, done = sweeps + 1, done + 1
        if looks and sweeps >= settled:
            done = shape.blocks
    return Run(guard.spent + guard.rest(done), sweeps, sweeps, done)

"""The rest of a loop over a padded array, once the guard has stopped its sweeps: block after block (docs/growing.md).

Nothing is tried any more: each block is computed from final ones, so that what this costs is known beforehand. In
windows it is what others write by hand as a cache of keys and values; a certifying sweep at the end looks at all blocks
at once. Where that finds a block otherwise, windows round otherwise here, and the rest goes on without them: as the
captured loop does, but for a look at the premises in each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..plan import Method, Schedule
from .blocks import Blocks, State
from .guard import SHARED, Guard, Way, Window
from .record import Ending
from .solve import Solution, Solve
from .windowed.windowed import Windowed

ALONE = Schedule(Method.GAUSS_SEIDEL)


class Resettable(Blocks, Protocol):
    """Blocks in an array, the later ones of which can be as at the start again."""

    def reset_from(self, state: State, init: State, front: int) -> State: ...


def shared_windows(blocks: int) -> Iterator[tuple[int, int]]:
    """Those in which one block after the other is computed: each holds a few blocks, and the one before them."""
    for lo in range(0, blocks, SHARED):
        yield max(lo - 1, 0), min(lo + SHARED, blocks)


def ready(windowed: Windowed | None, blocks: int) -> bool:
    """Whether they are there."""
    return windowed is not None and windowed.ready(shared_windows(blocks))


def finished(system: Resettable, solve: Solve, found: Solution, init: State) -> tuple[Solution, bool]:
    """What ``solve`` has found of ``system``, gone on with from ``init`` in the cheapest way; did it cost as foreseen?

    Blocks are left over where that is the function from its beginning, and where a block raises or breaks a premise.
    """
    guard, record = replace(solve.guard, cached=ready(system.windowed, system.blocks)), solve.record
    known, ways = (record.spent, record.reference), list[Way]()
    while found.certified < system.blocks and found.ending is Ending.GUARD:
        way = guard.way(found.certified)
        if way is Way.ANEW:
            break
        found = _gone_on(system, solve, found, init, way)
        guard.cached = False  # windows that have ended before the last block round otherwise
        ways.append(way)
    record.spent, record.reference = known
    tried_in_vain = len(ways) - (found.certified == system.blocks)
    return found, found.ending not in (Ending.PREMISE, Ending.RAISED) and tried_in_vain <= 0


@dataclass(slots=True)
class _Unasked(Guard):
    """The rest is paid for: sweeps may go on, in windows up to one that certifies them all."""

    windows: bool = False
    certified: bool = field(default=False, init=False)

    def allows(self, certified: int, exact: bool, window: Window | None = None, making: float = 0.0) -> bool:
        return not (self.windows and self.certified)

    def charge(self, exact: bool, seconds: float, window: Window | None = None) -> None:
        self.certified = self.certified or exact

    def why(self, certified: int, exact: bool, window: Window | None, sweeps: int, making: float = 0.0) -> str:
        return f"there block {certified} came out otherwise"


def _gone_on(system: Resettable, solve: Solve, found: Solution, init: State, way: Way) -> Solution:
    """Up to the end, or to where this way ends."""
    windows = way is Way.WINDOWS
    rest = Solve(
        system,
        replace(ALONE, windows=windows),
        solve.equality,
        _Unasked(None, system.blocks, windows=windows),
        solve.env,
        solve.record,
        solve.clock,
        solve.observe,
        solve.reach,
        makes=False,
    )
    rest.polish = not windows
    rest.working = rest.certified = rest.settled = rest.reached = found.certified
    more = rest.run(system.reset_from(found.state, init, found.certified))
    ending = found.ending if more.ending is Ending.SWEEPS else more.ending
    return replace(more, ending=ending, detail="; ".join(filter(None, [found.detail, way.value, more.detail])))

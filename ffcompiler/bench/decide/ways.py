"""Every way in which a system is run: each candidate of its plan; of several loops in a row, each form of the function.

Of a plan of several parts the candidates are the plan as it is, all of it sequential, and what differs from it in one
part, by a candidate of that part. The function with loops as one is another form, with candidates of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...calls import parameters_of
from ...choice.calibrate import Effort
from ...choice.choose import to_try
from ...compiled import Compiled
from ...driver import compile as compile_function
from ...errors import CaptureError, ScheduleError
from ...plan import Candidate, Method, Plan, Schedule, in_a_row
from ...recipe import Recipe
from ..samplers import with_schedule
from .decision import NEXT
from .system import Function, System

SEQUENTIAL, WAVEFRONT = Schedule(Method.SEQUENTIAL), Schedule(Method.WAVEFRONT)

Seconds = Callable[[Candidate], float | None]


@dataclass(frozen=True, slots=True)
class Way:
    """A plan, run as it is; ``compiled`` can do so."""

    compiled: Compiled

    @property
    def plan(self) -> Plan:
        return self.compiled.plan

    @property
    def name(self) -> str:
        """The schedules of its parts; one word if all of them are sequential."""
        schedules = [str(part.schedule) for part in self.plan.parts]
        return str(SEQUENTIAL) if {*schedules} == {str(SEQUENTIAL)} else NEXT.join(schedules)

    def seconds(self, of: Seconds) -> float | None:
        """Of all parts together, each ``of`` the candidate that it is run by; None if one of them is not known."""
        parts = self.plan.parts
        solved = any(part.schedule.method is not Method.SEQUENTIAL for part in parts)
        found = [_seconds_of(part, of, len(parts) > 1 and solved) for part in parts]
        known = [seconds for seconds in found if seconds is not None]
        return sum(known) if len(known) == len(parts) else None


def predicted(candidate: Candidate) -> float | None:
    """Before it was tried; of sequential execution, the reference's."""
    return candidate.seconds if candidate.predicted is None else candidate.predicted


def on_example(candidate: Candidate) -> float | None:
    """As it was tried."""
    return candidate.seconds if candidate.measured else None


def _seconds_of(part: Plan, of: Seconds, beside: bool) -> float | None:
    """Of one part. ``beside`` others that are solved a sequential one is run by its captured loop."""
    costs = part.costs
    if beside and part.schedule == SEQUENTIAL:
        known = costs is not None and costs.captured is not None and part.system is not None
        return costs.captured * part.system.blocks if known else None  # type: ignore[union-attr, operator]
    return next((of(candidate) for candidate in part.candidates if candidate.schedule == part.schedule), None)


def ways_of(system: System, function: Function, auto: Compiled) -> list[Way]:
    """What ``auto`` gave first, then all others, each once."""
    found = [Way(auto), *map(Way, _others(auto))]
    for form in _other_forms(system, function, auto):
        found += [Way(form), *map(Way, _others(form))]
    once: dict[str, Way] = {}
    for way in found:
        once.setdefault(way.name, way)
    return list(once.values())


def refusal_of(plan: Plan) -> str | None:
    """Why there is nothing to choose from: of several parts, if there is nothing in any."""
    refusals = [part.refusal for part in plan.parts]
    return refusals[0] if all(refusals) else None


def _others(compiled: Compiled) -> Iterator[Compiled]:
    """The same plan with other schedules."""
    parts = compiled.plan.parts
    if len(parts) == 1:
        if compiled.plan.refusal is None:
            yield from (with_schedule(compiled, schedule) for schedule in others(compiled))
        return
    yield _with(compiled, [SEQUENTIAL] * len(parts))
    chosen = [part.schedule for part in parts]
    for k, part in enumerate(parts):
        for candidate in part.candidates:
            if not candidate.excluded:
                yield _with(compiled, [*chosen[:k], candidate.schedule, *chosen[k + 1 :]])


def others(auto: Compiled) -> list[Schedule]:
    """What `auto` did not choose: the other candidates of its plan, and those that it left out for lack of time."""
    table = auto.plan.candidates
    every = (SEQUENTIAL, *(c.schedule for c in table), *to_try(auto.plan, auto.proof, None))
    never = {auto.plan.schedule, *(c.schedule for c in table if c.excluded)}
    return [schedule for schedule in dict.fromkeys(every) if schedule not in never]


def _with(compiled: Compiled, schedules: Sequence[Schedule]) -> Compiled:
    """The same parts by other schedules."""
    parts = [replace(part, schedule=s) for part, s in zip(compiled.plan.parts, schedules, strict=True)]
    return Compiled(in_a_row(parts), compiled.proofs, compiled.prove, compiled.live)


def _other_forms(system: System, function: Function, auto: Compiled) -> Iterable[Compiled]:
    """The function as the loops it has, where ``auto`` took some as one, or the other way round."""
    if system.loops == 1:
        return []
    example = system.inputs(0)
    if len(auto.plan.parts) < system.loops:
        recipe = Recipe(function, system.equality, None, False, None, Effort(), joined=False)
        return [recipe.compile(*parameters_of(function).canonical(example, {}), lambda what, done, of: None)]
    try:
        one = compile_function(function, example, equality=system.equality, schedule=WAVEFRONT, cache=False)
    except (CaptureError, ScheduleError):
        return []
    return [one] if len(one.plan.parts) < system.loops else []

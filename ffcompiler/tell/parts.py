"""Several parts of one plan told as a whole: which of them are solved in parallel, and their seconds together."""

from __future__ import annotations

import math

from ..plan import Candidate, Method, Plan
from ..rules.scopes import Subject

SEQUENTIAL = Method.SEQUENTIAL.value


def chosen_of(plan: Plan) -> Candidate | None:
    """The candidate with the plan's own schedule."""
    return next((c for c in plan.candidates if c.schedule == plan.schedule), None)


def seconds_of(plan: Plan) -> tuple[float, float] | None:
    """Of one part, and of its reference; None where they were not measured."""
    chosen = chosen_of(plan)
    if chosen is None or plan.costs is None or plan.system is None:
        return None
    return chosen.seconds, plan.costs.step * plan.system.blocks


def speed(seconds: float, reference: float) -> str:
    ratio = reference / seconds if seconds else math.inf
    return f"{ratio:.1f}x the reference's speed ({seconds:.4g} s against {reference:.4g} s)"


def verdict_of_all(parts: tuple[Plan, ...]) -> str:
    """How each is run, and the seconds of all against the reference's."""
    ways: dict[str, list[int]] = {}
    for k, part in enumerate(parts, 1):
        ways.setdefault(str(part.schedule), []).append(k)
    sequential = ways.pop(SEQUENTIAL, [])
    how = [f"{_named(numbers)} by {way}" for way, numbers in ways.items()]
    if not how:
        return f"{len(parts)} parts, one for each loop: all of them sequential"
    if sequential:
        how.append(f"{_named(sequential)} sequentially")
    return f"{len(parts)} parts, one for each loop: {', '.join(how)}{_speed_of_all(parts)}, {parts[0].equality}"


def _beside_others(plan: Plan) -> tuple[float, float] | None:
    """The same of a part beside others that are solved: a sequential one is then run by its captured loop."""
    seconds, costs = seconds_of(plan), plan.costs
    if seconds is None or costs is None or costs.captured is None or plan.schedule.method is not Method.SEQUENTIAL:
        return seconds
    reference = seconds[1]
    return costs.captured * reference / costs.step if costs.step else reference, reference


def seconds_of_all(parts: tuple[Plan, ...]) -> tuple[float, float] | None:
    """Of the parts that were measured, and of their references; None if none was."""
    known = _known(parts).values()
    return (sum(a for a, _ in known), sum(b for _, b in known)) if known else None


def _known(parts: tuple[Plan, ...]) -> dict[int, tuple[float, float]]:
    """By the number of the part."""
    if len(parts) == 1:
        seconds = seconds_of(parts[0])
        return {} if seconds is None else {1: seconds}
    return {k: seconds for k, part in enumerate(parts, 1) if (seconds := _beside_others(part)) is not None}


def _speed_of_all(parts: tuple[Plan, ...]) -> str:
    known, whole = _known(parts), seconds_of_all(parts)
    if whole is None:
        return ""
    text = f"; {speed(*whole)}"
    missing = [k for k in range(1, len(parts) + 1) if k not in known]
    return text + (f" in {_named([*known])}; {_named(missing)} not measured" if missing else "")


def _named(numbers: list[int]) -> str:
    """``part 1``, ``parts 2 and 3``, ``parts 1, 2 and 4``."""
    *others, last = map(str, numbers)
    return f"parts {', '.join(others)} and {last}" if others else f"part {last}"


def source_of(plan: Plan) -> str:
    """Where the first operator of the loop stands."""
    inner = (scope for scope in Subject.of(plan).scopes if scope.name not in {"prologue", "epilogue"})
    source = next((node.source for scope in inner for node in scope.graph.nodes if node.source), "")
    return f", from {source} on" if source else ""

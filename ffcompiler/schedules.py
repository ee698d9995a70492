"""Schedules by name, and which ones `auto` considers. What a schedule does: `Schedule.ahead` in `plan.py`."""

from __future__ import annotations

import re

from .errors import ScheduleError
from .plan import Method, Schedule

_WITH_BLOCK = (Method.GS_JACOBI, Method.SLIDING)
_NAME = re.compile(r"([a-z-]+)(?:\((\d+)\))?")


def parse_schedule(name: str) -> Schedule | None:
    """The schedule of that name; None for ``auto``.

    >>> str(parse_schedule("sliding(98)"))
    'sliding(98)'

    Raises: `ScheduleError` for any other name.
    """
    if name == "auto":
        return None
    match = _NAME.fullmatch(name)
    method = next((m for m in Method if match and m.value == match[1]), None)
    if match is None or method is None or (method in _WITH_BLOCK) != (match[2] is not None) or match[2] == "0":
        known = ", ".join(f"{m.value}(BLOCKS)" if m in _WITH_BLOCK else m.value for m in Method)
        raise ScheduleError(f"there is no schedule {name!r}; there are auto, {known}")
    return Schedule(method, int(match[2]) if match[2] else None)


def candidates_for(blocks: int) -> tuple[Schedule, ...]:
    """The parallel schedules that are tried on the example inputs, each once per size."""
    sliding = (Schedule(Method.SLIDING, -(-blocks // parts)) for parts in (2, 4, 8) if blocks >= 4 * parts)
    grouped = (Schedule(Method.GS_JACOBI, -(-blocks // parts)) for parts in (2, 4) if blocks >= 4 * parts)
    return (Schedule(Method.JACOBI), *sliding, *grouped)

"""Schedules by name, and which ones `auto` considers. What a schedule does: `Schedule.ahead` in `plan.py`."""

from __future__ import annotations

import re

from .errors import ScheduleError
from .plan import Method, Schedule

_WITH_BLOCK = (Method.GS_JACOBI, Method.GROWING, Method.JACOBI_GS, Method.SLIDING)
_NAME = re.compile(r"([a-z-]+)(?:\((\d+)\))?(\+windows)?")


def parse_schedule(name: str) -> Schedule | None:
    """The schedule of that name; None for ``auto``.

    >>> str(parse_schedule("sliding(98)+windows"))
    'sliding(98)+windows'

    Raises: `ScheduleError` for any other name.
    """
    if name == "auto":
        return None
    match = _NAME.fullmatch(name)
    method = next((m for m in Method if match and m.value == match[1]), None)
    if match is not None and method in _WITH_BLOCK and match[2] is None:
        raise ScheduleError(f"{name} needs a number of blocks, as in {match[1]}(16){match[3] or ''}")
    if match is None or method is None or (method in _WITH_BLOCK) != (match[2] is not None) or match[2] == "0":
        raise ScheduleError(f"there is no schedule {name!r}; there are auto, {_known()}")
    if match[3] and not Schedule(method).sweeps:
        raise ScheduleError(f"{method.value} execution computes whole steps; with windows it is gauss-seidel+windows")
    return Schedule(method, int(match[2]) if match[2] else None, bool(match[3]))


def _known() -> str:
    names = ", ".join(f"{m.value}(BLOCKS)" if m in _WITH_BLOCK else m.value for m in Method)
    return f"{names}; and each but sequential and captured with +windows"


AT_ONCE = (32, 128, 512, 2048)
"""Runs of a recurrence that `auto` considers: so many at once. Fewer gain little; more are shorter than memories."""


def candidates_for_recurrence(blocks: int) -> tuple[Schedule, ...]:
    """Those for a recurrence: its sweeps cost what their window has, and a window must be as long as its memory."""
    sizes = [-(-blocks // parts) for parts in (2, 4, 8, 16, 32, 64) if blocks >= 8 * parts]
    sliding = [Schedule(Method.SLIDING, size) for size in sizes]
    groups = [Schedule(Method.GS_JACOBI, size) for size in sizes]
    firsts = [-(-blocks // parts) for parts in (3, 15, 63) if blocks >= 8 * parts]  # a group ends at the last
    growing = [Schedule(Method.GROWING, size) for size in firsts]
    runs = [Schedule(Method.JACOBI_GS, -(-blocks // count)) for count in AT_ONCE if blocks >= 4 * count]
    return (Schedule(Method.JACOBI), *sliding, *groups, *growing, *runs)


def candidates_for_chain(blocks: int, levels: int) -> tuple[Schedule, ...]:
    """Those for a chain of unlike blocks: its sweeps cost what the blocks in their window do."""
    groups = [Schedule(Method.JACOBI_GS, -(-blocks // parts)) for parts in (2, 8) if blocks >= 2 * parts]
    waves = [Schedule(Method.WAVEFRONT)] if levels < blocks else []
    return (Schedule(Method.JACOBI), *groups, *waves)


CACHED = Schedule(Method.GAUSS_SEIDEL, windows=True)
"""One position after another, of each tensor only what the last one changed: the sampler that others write by hand."""


def candidates_for(blocks: int, row: int = 1, levels: bool = False) -> tuple[Schedule, ...]:
    """The parallel schedules that are considered, each once per size: predicted, and the best of them run.

    ``row``: blocks in a row of the array, for windows of whole rows. ``levels``: some blocks do not depend on each
    other, so that there are fewer levels than blocks.
    """
    if blocks < 2:
        return (Schedule(Method.JACOBI),)
    sizes = [-(-blocks // parts) for parts in (2, 4, 8, 16, 32, 64) if blocks >= 2 * parts]
    if row > 1:
        sizes = [rows * row for rows in (1, 2, 3, 4, 8) if rows * row < blocks] + [max(row // 2, 2)]
    windows = [Schedule(Method.SLIDING, size, windows=True) for size in dict.fromkeys(sizes)]
    waves = [Schedule(Method.WAVEFRONT), Schedule(Method.WAVEFRONT, windows=True)] if levels else []
    return (Schedule(Method.JACOBI), *windows, Schedule(Method.JACOBI, windows=True), *waves, CACHED)


def quantum(schedule: Schedule, blocks: int, row: int = 1) -> int:
    """Windows begin and end at multiples of this, so that few different ones occur: rows where there are rows."""
    alone = schedule.method in (Method.GAUSS_SEIDEL, Method.WAVEFRONT)
    block = 1 if alone else schedule.block or max(blocks // 4, 1)
    return row if row > 1 and block >= row else max(1, block // 8)

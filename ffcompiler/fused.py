"""A captured function of several loops in a row, with those as one that can be (`passes/fuse.py`)."""

from __future__ import annotations

from dataclasses import replace

from .capture import Captured, Checkpoint, Replay
from .passes.fuse import fuse
from .proof import Refusal


def fused(captured: Captured) -> Captured | None:
    """``captured`` with each loop joined to the one before it, where it can be; None if none can."""
    parts = list(captured.parts)
    joined = [parts[0]]
    for part in parts[1:]:
        both = _both(joined[-1], part)
        joined[-1:] = [joined[-1], part] if both is None else [both]
    if len(joined) == len(parts):
        return None
    found: Captured | None = None
    for part in reversed(joined):
        found = replace(part, rest=found)
    return found


def _both(first: Captured, second: Captured) -> Captured | None:
    made = fuse(first.program, second.program)
    if isinstance(made, Refusal):
        return None
    places = {made.weights[name]: place for name, place in second.places.items()}
    rebound = frozenset(made.weights[name] for name in second.rebound)
    counts = first.program.result.returned, second.program.result.returned
    replays = tuple(_one_run(a, b, *counts) for a, b in zip(first.replays, second.replays, strict=True))
    return replace(
        first,
        program=made.program,
        places={**places, **first.places},
        replays=replays,
        in_place=first.in_place or second.in_place,
        rebound=first.rebound | rebound,
        folded={**first.folded, **second.folded},
        marked=False,
        rest=None,
    )


def _one_run(first: Replay, second: Replay, handed: int, returned: int) -> Replay:
    """What both loops did in one recorded run; so many of their results are handed on, and returned, others left."""
    later = {c.position: c for c in second.checkpoints}
    both = [(c, later[c.position]) for c in first.checkpoints if c.position in later]
    return replace(
        first,
        init=(*first.init, *second.init),
        checkpoints=tuple(Checkpoint(a.position, (*a.before, *b.before), (*a.after, *b.after)) for a, b in both),
        final=(*first.final, *second.final),
        results=(*second.results[:returned], *first.results[handed:], *second.results[returned:]),
        complete=first.complete and second.complete,
        left=(),
    )

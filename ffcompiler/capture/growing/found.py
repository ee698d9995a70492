"""Where in a recorded function the loop is whose array grows, and the same function with a padded one."""

from __future__ import annotations

from ..unmarked import GrowingLoopError, flat_of
from .fixed import Fixed
from .loop import padding
from .padded import Padded
from .steps import NotPaddedError

ADVICE = (
    "  under a tolerance one array may grow, of which each step computes what is added: keep no cache, and give the "
    "model all of it in each step; or allocate it before the loop and write one position (x[:, i] = ...)"
)


def find_padded(why: GrowingLoopError, arguments: int) -> Padded:
    """The function with its array padded. Raises: `GrowingLoopError` with what is in the way."""
    run = why.run
    if run.recorder.overwritten:
        line = next(iter(run.recorder.overwritten.values()))
        raise GrowingLoopError(
            f"{_head(why)}\n  it is not padded, since {line} writes into a weight\n{ADVICE}", run, ()
        )
    flat, fixed = flat_of(run, arguments), Fixed(run, arguments)
    reasons: list[str] = []
    for repeat in why.repeats:
        try:
            return Padded(run, padding(flat, repeat, fixed), arguments)
        except NotPaddedError as reason:
            reasons.append(str(reason))
    raise GrowingLoopError(f"{_head(why)}\n  it is not one over a padded array: {reasons[0]}\n{ADVICE}", run, ())


def _head(why: GrowingLoopError) -> str:
    """What was found, without what to do about it."""
    return "\n".join(str(why).splitlines()[:2])

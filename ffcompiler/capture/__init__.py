"""From the user's function to a `Program`: run it once under a recorder, unify the steps of its loop, build graphs.

The function is run a second time on other inputs; a program whose calls, numbers or values differ then is refused,
since a tracer that silently bakes a value is the commonest way to be wrong.
"""

from .arguments import describe_arguments, describe_call
from .capture import capture
from .captured import Captured, Checkpoint, Replay, keeping, without_last
from .gradients import NeedsGradientsError
from .holders import held_at, unmoved
from .surroundings import look

__all__ = [
    "Captured",
    "Checkpoint",
    "NeedsGradientsError",
    "Replay",
    "capture",
    "describe_arguments",
    "describe_call",
    "held_at",
    "keeping",
    "look",
    "unmoved",
    "without_last",
]

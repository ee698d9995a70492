"""Whether a function whose loop is begun in its middle goes on as it would from the beginning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..loops import StepAlone, StepEnded, drive_loops
from .run import Run


def begins_anywhere(function: Callable[..., Any], call: Any, run: Run) -> bool:
    """Whether each step that was kept of the recorded ``run``, made alone from its state, leaves what it left there.

    A body that counts its steps, goes through an iterator or multiplies a number of its own by another begins anew
    where the function does, whatever the step.
    """
    args, kwargs = call
    for position, (before, after) in run.states.items():
        state = tuple(t.clone() for t in before)
        try:
            with torch.no_grad(), drive_loops(StepAlone(run.lo + position, state, run.in_place)):
                function(*args, **kwargs)
        except StepEnded as ended:
            if not all(map(_same, ended.state, after)):
                return False
        except Exception:  # the function's own: it cannot begin there
            return False
    return True


def _same(a: Any, b: Tensor) -> bool:
    return isinstance(a, Tensor) and a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)

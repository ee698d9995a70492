"""Functions that were captured by other operators than they call: whether the equality that was asked for allows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import CaptureError
from .live import Live
from .plan import Equality, Tolerance
from .randomness import set_states
from .trees import flatten

ROUNDINGS = 64
"""How many units in the last place of the largest element the two may differ by, if the tolerance is smaller."""


def confirm_respelled(live: Live, args: tuple[Any, ...], kwargs: Mapping[str, Any], equality: Equality) -> None:
    """The function itself gives, on the example, what its recorded run gave, within the tolerance and rounding.

    Raises: `CaptureError` if it does not, or if bits are asked for.
    """
    what, replay = live.captured.otherwise, live.captured.replays[0]
    if not what:
        return
    if not isinstance(equality, Tolerance):
        raise CaptureError(
            f"{what} rounds in its own way, which steps of its cell do not have: its bits are its own kernel's\n"
            "  equality=ffc.tolerance(1e-6, 1e-6) lets sweeps over its cell's steps solve it"
        )
    if not replay.complete:
        raise CaptureError(f"{what} runs for too long to be compared with the steps of its cell")
    set_states(replay.generators)
    leaves = [leaf for _, leaf in flatten(live.reference(args, kwargs))[0] if isinstance(leaf, Tensor)]
    for output, (own, recorded) in enumerate(zip(leaves, replay.results, strict=True)):
        if not _near(own, recorded, equality):
            raise CaptureError(
                f"{what} and the steps of its cell differ by more than {equality} in output {output}\n"
                "  small differences grow in it: a larger tolerance, or float64, may do"
            )


def _near(a: Tensor, b: Tensor, tolerance: Tolerance) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.dtype.is_floating_point or not a.numel():
        return torch.equal(a, b)
    rounding = ROUNDINGS * torch.finfo(a.dtype).eps * float(a.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(a, b, tolerance.rtol, max(tolerance.atol, rounding), equal_nan=True)

"""Is what a function gives by itself what was captured of it, as far as was asked for?

Some are captured by other operators than they call, or than torch compiles in them. And torch takes ways of its own
where nothing watches it, which round otherwise: the fast path of attention in eval mode, for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import CaptureError
from .live import Live
from .plan import Equality, Tolerance
from .randomness import set_states
from .runtime.equality import same_bits
from .trees import flatten

ROUNDINGS = 64
"""How many units in the last place of the largest element the two may differ by, if the tolerance is smaller."""


def confirm_respelled(live: Live, args: tuple[Any, ...], kwargs: Mapping[str, Any], equality: Equality) -> None:
    """The function itself gives, on the example, what its recorded run gave: within tolerance and rounding, or in bits.

    Raises: `CaptureError` if it does not, or if bits are asked for of what never has those of its steps.
    """
    captured = live.captured
    if captured.otherwise and not isinstance(equality, Tolerance):
        raise CaptureError(
            f"{captured.otherwise} rounds in its own way, which steps of its cell do not have: its bits are its own "
            "kernel's\n  equality=ffc.tolerance(1e-6, 1e-6) lets sweeps over its cell's steps solve it"
        )
    what, replay = captured.otherwise or captured.compiled, captured.parts[-1].replays[0]
    if not replay.complete:
        if not what:
            return
        raise CaptureError(f"{what} runs for too long to be compared with the steps that were recorded of it")
    set_states(captured.replays[0].generators)
    leaves = [leaf for _, leaf in flatten(live.reference(args, kwargs))[0] if isinstance(leaf, Tensor)]
    for output, (own, recorded) in enumerate(zip(leaves, replay.results, strict=False)):
        if not (same_bits(own, recorded) or (isinstance(equality, Tolerance) and _near(own, recorded, equality))):
            raise CaptureError(_difference(what, equality, output))


def _difference(what: str, equality: Equality, output: int) -> str:
    if what:
        return (
            f"{what} and its steps one by one differ by more than {equality} in output {output}\n"
            "  small differences grow in it: a larger tolerance, or float64, may do"
        )
    return (
        f"the function by itself and while it is recorded differs by more than {equality} in output {output}\n"
        "  torch computes attention in eval mode by other kernels where nothing watches: "
        "torch.backends.mha.set_fastpath_enabled(False) before compiling, and for calls, leaves one way\n"
        "  or it is not a function of its arguments: it draws from a generator of its own, or keeps something"
    )


def _near(a: Tensor, b: Tensor, tolerance: Tolerance) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.dtype.is_floating_point or not a.numel():
        return torch.equal(a, b)
    rounding = ROUNDINGS * torch.finfo(a.dtype).eps * float(a.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(a, b, tolerance.rtol, max(tolerance.atol, rounding), equal_nan=True)

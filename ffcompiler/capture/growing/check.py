"""Is what the padded steps compute the same as what the function's own steps do, within a tolerance?

That it is follows from `growing`, up to rounding; here it is looked at, value by value, on the recorded example: a
rule that is wrong, or a tolerance that rounding exceeds, shows before anything rests on it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import CaptureError
from ...plan import Tolerance
from ...randomness import kept
from ...trees import flatten
from ..draws import Drawing
from ..record import Made
from .facts import Dim, Grown
from .padded import Padded, Values, _Now
from .steps import before

LOOK = 20.0
"""Seconds; after that only the last step is looked at."""
ROUNDINGS = 64
"""How many units in the last place of the largest element two may differ by, if the tolerance is smaller."""


def check_padded(padded: Padded, arguments: Sequence[Tensor], tolerance: Tolerance) -> None:
    """Run the function's steps and the padded ones side by side. Raises: `CaptureError` with the first difference."""
    with kept(), torch.no_grad():
        padded.given = list(arguments)
        prior = padded.prologue()
        both = _Both(padded, prior, dict(prior), tolerance)
        started = time.perf_counter()
        for k in range(padded.padding.steps.count):
            last = k == padded.padding.steps.count - 1
            both.step(k, last or time.perf_counter() - started < LOOK)


def check_results(got: Any, expected: Any, whole: bool, tolerance: Tolerance) -> None:
    """Raises: `CaptureError` where the padded loop, if all of it was run, gives something else than the function."""
    pairs = zip(flatten(got)[0], flatten(expected)[0], strict=True)
    for (path, a), (_, b) in pairs:
        if whole and isinstance(a, Tensor) and not near(a, b, tolerance):
            raise CaptureError(
                f"the loop over a padded array gives another result{path} than the function, by more than {tolerance}\n"
                "  small differences grow in it, or two tokens are nearly as likely: a larger tolerance, or float64"
            )


@dataclass(slots=True)
class _Both:
    """The function's own values, by the recording's names, and the padded ones beside them."""

    padded: Padded
    prior: Values
    own: Values
    tolerance: Tolerance

    def step(self, k: int, looked_at: bool) -> None:
        steps = self.padded.padding.steps
        begin = steps.repeat.begin(k)
        now, values = _Now(self._states(k)), Values()
        for index, call in enumerate(steps.calls):
            recorded = self.padded.run.segment.calls[begin + index]
            self.padded.recorded(recorded, begin + index, self.own)
            if not looked_at:
                continue
            if isinstance(call.op, Drawing):
                values[index, 0] = self.own[begin + index, 0].clone()
            else:
                self.padded.act(index, k, now, values, self.prior)
            for output in range(len(call.shapes)):
                self._compare(index, output, k, values)
        for key in [key for key in self.own if steps.repeat.start <= key[0] < begin - steps.repeat.period]:
            if not self._listed(key[0]):
                del self.own[key]

    def _listed(self, call: int) -> bool:
        """Whether a call makes what is put into a list, which is joined anew in every step."""
        steps = self.padded.padding.steps
        index = (call - steps.repeat.start) % steps.repeat.period
        return any(state.items and state.made is not None and state.made.call == index for state in steps.states)

    def _states(self, k: int) -> list[Tensor]:
        """The function's own states before a step; those that grow are padded with something of the same domain."""
        steps, found = self.padded.padding.steps, []
        for leaf, state in enumerate(steps.states):
            append = self.padded.padding.appended.get(leaf)
            if state.items:
                assert append is not None and state.made is not None
                items = [self.own_value(before(item)) for item in state.items]
                items += [self.own[steps.repeat.begin(j) + state.made.call, state.made.output] for j in range(k)]
                value: Tensor = state.join(items, state.dim)
            elif k == 0 or state.made is None:
                assert state.begins is not None
                value = self.own_value(before(state.begins))
            else:
                value = self.own[steps.repeat.begin(k - 1) + state.made.call, state.made.output]
            if append is None:
                found.append(value.clone())
                continue
            behind = append.starts[-1] + append.length - append.starts[k]
            filler = value.narrow(append.dim, 0, 1).repeat_interleave(behind, append.dim)
            found.append(torch.cat([value, filler], append.dim))
        return found

    def own_value(self, token: object) -> Tensor:
        return self.padded._one(token, self.own)

    def _compare(self, index: int, output: int, k: int, values: Values) -> None:
        steps = self.padded.padding.steps
        fact = self.padded.padding.facts.get(Made(index, output))
        own, other = self.own.get((steps.repeat.begin(k) + index, output)), values.get((index, output))
        if fact is None or not isinstance(own, Tensor) or not isinstance(other, Tensor):
            return
        if isinstance(fact, Grown):
            own, other = _beginning(own, fact.dims, k, k), _beginning(other, fact.dims, k, -1)
        if not near(own, other, self.tolerance):
            call = steps.calls[index]
            raise CaptureError(
                f"step {k} of the loop whose array grows gives other values on the padded array, by more than "
                f"{self.tolerance}: {call.op} at {call.source}\n"
                "  small differences grow in it, or two tokens are nearly as likely: a larger tolerance, or float64"
            )


def _beginning(value: Tensor, dims: Sequence[Dim], k: int, at: int) -> Tensor:
    """Of a value with the sizes of step ``at`` what it has in common with that of step ``k``."""
    factors = [factor for dim in dims for factor in dim]
    part = value.reshape([factor.sizes[at] for factor in factors])
    for axis, factor in enumerate(factors):
        part = part.narrow(axis, 0, max(0, factor.sizes[k] - factor.short))
    return part


def near(a: Tensor, b: Tensor, tolerance: Tolerance) -> bool:
    """Whether two values are equal within a tolerance and rounding; whole numbers: equal."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.dtype.is_floating_point or a.dtype.is_complex) or not a.numel():
        return torch.equal(a, b)
    finite = a.abs().nan_to_num(0.0, 0.0, 0.0)
    rounding = ROUNDINGS * torch.finfo(a.dtype).eps * float(finite.max())
    return torch.allclose(a, b, tolerance.rtol, max(tolerance.atol, rounding), equal_nan=True)

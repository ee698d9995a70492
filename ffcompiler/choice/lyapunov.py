"""The largest Lyapunov exponent of a recurrence along a trajectory: by how much an error grows or shrinks in each step.

From products of Jacobians, not from norms of single ones: steps that each may double an error can together forget it.
A tangent vector is carried along by differences of the recorded step, and brought back to its length after each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..runtime.runner import Execution, Runner
from ..runtime.steps import Step

VECTORS = 2
"""Random tangent vectors: the largest of their exponents counts."""
STEPS = 1000
"""Steps that are looked at most, from the first on."""
SETTLING = 0.1
"""The share of them in which vectors turn into the direction that grows most, and that is not counted."""
FEWEST = 8
"""Of fewer counted steps nothing is said."""

State = tuple[Tensor, ...]


def largest_exponent(runner: Runner, execution: Execution, left: Callable[[], float]) -> float | None:
    """Of the natural logarithm, per step; None of a state without floats, of few steps, or where steps overflow."""
    system = runner.recurrent
    floats = [leaf for leaf in execution.init if leaf.dtype.is_floating_point and leaf.numel()]
    if system is None or not floats:
        return None
    step, size = system.steps.bind(execution.env), len(execution.init)
    generator = torch.Generator(device=execution.init[0].device).manual_seed(0)
    state: State = execution.init
    tangents = [_Tangent(generator) for _ in range(VECTORS)]
    count = min(system.blocks, STEPS)
    for k in range(count):
        after = step(state, k)[:size]
        if left() <= 0.0 or not all(t.follow(step, k, state, after) for t in tangents):
            break
        state = after
    found = [t.exponent() for t in tangents]
    return None if None in found else max(e for e in found if e is not None)


@dataclass(slots=True)
class _Tangent:
    """A small difference that is carried along."""

    generator: torch.Generator
    difference: State = ()
    logs: list[float] = field(default_factory=list)

    def follow(self, step: Step, k: int, state: State, after: State) -> bool:
        """One step; False if what it gives is not finite."""
        length = _length(state)
        self.difference = _of_length(self.difference or self._random(state), length)
        moved = tuple(s + d if s.dtype.is_floating_point else s for s, d in zip(state, self.difference, strict=True))
        made = step(moved, k)[: len(after)]
        self.difference = tuple(
            a - b if a.dtype.is_floating_point else torch.zeros_like(a) for a, b in zip(made, after, strict=True)
        )
        norm = _norm(self.difference)
        if not math.isfinite(norm) or not math.isfinite(length):
            return False
        shortest = length * _precision(state)  # rounding hides more
        self.logs.append(math.log(max(norm, shortest) / length))
        if norm < shortest:
            self.difference = ()
        return True

    def exponent(self) -> float | None:
        """The mean of what was counted."""
        counted = self.logs[math.ceil(SETTLING * len(self.logs)) :]
        return math.fsum(counted) / len(counted) if len(counted) >= FEWEST else None

    def _random(self, state: State) -> State:
        return tuple(
            torch.randn(s.shape, generator=self.generator, dtype=s.dtype, device=s.device)
            if s.dtype.is_floating_point
            else torch.zeros_like(s)
            for s in state
        )


def _precision(state: State) -> float:
    return math.sqrt(max(torch.finfo(s.dtype).eps for s in state if s.dtype.is_floating_point))


def _length(state: State) -> float:
    """Of a difference: half of the digits of the state are before it, half behind."""
    floats = [s for s in state if s.dtype.is_floating_point]
    count = sum(s.numel() for s in floats)
    return _precision(state) * max(_norm(floats), 1e-3 * math.sqrt(count))


def _norm(state: Sequence[Tensor]) -> float:
    parts = [float(s.double().square().sum()) for s in state if s.dtype.is_floating_point]
    return math.sqrt(sum(parts))


def _of_length(difference: State, length: float) -> State:
    norm = _norm(difference)
    return tuple(d * (length / norm) if d.dtype.is_floating_point else d for d in difference)

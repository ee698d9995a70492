"""Whether what a schedule gives is the function's answer: by its bits, or by its residual and its distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...plan import Bits, Tolerance
from ...runtime.equality import same_bits
from ...runtime.record import Ending, RunRecord
from ...trees import flatten
from .decision import EAGER
from .system import Inputs, System

Variant = Callable[..., tuple[Any, RunRecord | None]]
NEAR = 0.01
"""Share of the largest element that a result may be off under a tolerance, where errors are forgotten."""
SEED = 1


@dataclass(slots=True)
class Checks:
    """By schedule: the largest error and residual that were seen, and what is wrong."""

    errors: dict[str, float] = field(default_factory=dict)
    residuals: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


def check(system: System, variants: Mapping[str, Variant], inputs: Inputs, checks: Checks, where: str = "") -> None:
    """Run every variant once, which also warms it up, and compare with the function's own result."""
    arguments = inputs(SEED)
    torch.manual_seed(SEED)
    expected = tensors(variants[EAGER](*arguments)[0])
    for name, variant in variants.items():
        if name == EAGER:
            continue
        torch.manual_seed(SEED)
        result, record = variant(*arguments)
        got = tensors(result)
        checks.errors[name + where] = max(map(_error, got, expected))
        residual = None if record is None else record.residual
        if residual is not None:
            checks.residuals[name + where] = residual
        fault = _fault(system, got, expected, record)
        if fault is not None:
            checks.wrong[name + where] = fault


def _fault(system: System, got: list[Tensor], expected: list[Tensor], record: RunRecord | None) -> str | None:
    assert record is not None and record.certificate is not None
    if isinstance(system.equality, Bits) or not (record.swept or _recorded(record)):
        return None if all(map(same_bits, got, expected)) else "other bits than the function gives"
    error, largest = max(map(_error, got, expected)), max(map(_largest, expected))
    residual, allowed = record.residual, _allowed(system.equality, largest)
    if record.swept and (residual is None or not residual <= allowed):
        return f"a residual of {residual}, where {allowed:.3g} is allowed"
    if system.forgets and not error <= max(NEAR * largest, allowed):
        return f"off by {error:.3g}, where elements are up to {largest:.3g}"
    return None


def _recorded(record: RunRecord) -> bool:
    """Whether recorded calls were made step by step, which may round otherwise than a layer of torch's own."""
    return any(part.ending is Ending.CAPTURED for part in record.parts)


def _allowed(equality: Tolerance, largest: float) -> float:
    return equality.atol + equality.rtol * largest


def tensors(result: Any) -> list[Tensor]:
    return [leaf for _, leaf in flatten(result)[0] if isinstance(leaf, Tensor)]


def _error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def _largest(t: Tensor) -> float:
    return float(t.double().abs().max())

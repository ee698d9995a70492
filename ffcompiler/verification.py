"""What `Compiled.verify` found: the results of a compiled function beside those of its reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .runtime.equality import Difference, compare
from .runtime.record import RunRecord
from .trees import flatten


@dataclass(frozen=True, slots=True)
class Verification:
    """The compiled function against its reference on the same arguments."""

    differences: tuple[Difference, ...]
    outputs: int
    record: RunRecord
    reference_seconds: float
    same_generators: bool = True
    """Both left the random generators in the same states."""
    left: tuple[str, ...] = ()
    """Where what both left in attributes and entries differs."""

    @property
    def equal(self) -> bool:
        return not self.differences and self.same_generators and not self.left

    def __str__(self) -> str:
        if self.equal:
            return f"bits equal: {self.outputs} of {self.outputs} outputs ({self.record.claim})"
        left = [] if self.same_generators else ["the random generators are left in other states than by the reference"]
        return "\n".join([*map(str, self.differences), *self.left, *left])


def differences(result: Any, expected: Any) -> tuple[tuple[Difference, ...], int]:
    """Where the tensors of ``result`` differ from those of ``expected``, and how many there are."""
    got, wanted = _tensors(result), _tensors(expected)
    found = (compare(i, a, b) for i, (a, b) in enumerate(zip(got, wanted, strict=True)))
    return tuple(d for d in found if d is not None), len(got)


def left_otherwise(got: Sequence[tuple[str, Any]], expected: Sequence[tuple[str, Any]]) -> tuple[str, ...]:
    """What is said of values, by the names of their places, that differ."""
    found = []
    for (name, own), (_, wanted) in zip(got, expected, strict=True):
        own_tensors, tensors = _tensors(own), _tensors(wanted)
        same = flatten(own)[1] == flatten(wanted)[1] and len(own_tensors) == len(tensors)
        pairs = enumerate(zip(own_tensors, tensors, strict=True)) if same else ()
        differences = [str(d) for i, (a, b) in pairs if (d := compare(i, a, b)) is not None]
        found += [f"left in {name}: {text}" for text in (differences if same else ["something of another form"])]
    return tuple(found)


def _tensors(result: Any) -> Sequence[Tensor]:
    leaves: Iterable[tuple[Any, Any]] = flatten(result)[0]
    return [leaf for _, leaf in leaves if isinstance(leaf, Tensor)]

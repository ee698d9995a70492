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

    @property
    def equal(self) -> bool:
        return not self.differences and self.same_generators

    def __str__(self) -> str:
        if self.equal:
            return f"bits equal: {self.outputs} of {self.outputs} outputs ({self.record.claim})"
        left = [] if self.same_generators else ["the random generators are left in other states than by the reference"]
        return "\n".join([*map(str, self.differences), *left])


def differences(result: Any, expected: Any) -> tuple[tuple[Difference, ...], int]:
    """Where the tensors of ``result`` differ from those of ``expected``, and how many there are."""
    got, wanted = _tensors(result), _tensors(expected)
    found = (compare(i, a, b) for i, (a, b) in enumerate(zip(got, wanted, strict=True)))
    return tuple(d for d in found if d is not None), len(got)


def _tensors(result: Any) -> Sequence[Tensor]:
    leaves: Iterable[tuple[Any, Any]] = flatten(result)[0]
    return [leaf for _, leaf in leaves if isinstance(leaf, Tensor)]

"""Steps of a graph that are evaluated at once: which, on which values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from ...graph import Node, Ref, TensorType
from ..watch import Watch


@dataclass(frozen=True, slots=True)
class Window:
    """Steps ``lo .. hi - 1``, or every so many of them, the shared values by key, and whether the result is to certify.

    ``given``: the values that are lifted already, each ``[count, *shape]``.
    """

    lo: int
    hi: int
    shared: Mapping[str, Tensor]
    exact: bool
    given: Mapping[str, Tensor] = field(default_factory=dict)
    every: int = 1
    watch: Watch | None = None

    @property
    def steps(self) -> slice:
        """Where the steps stand in a stack of all."""
        return slice(self.lo, self.hi, self.every)

    @property
    def count(self) -> int:
        """Of the steps."""
        return len(range(self.lo, self.hi, self.every))


Values: TypeAlias = dict[str, Tensor]  # by key: lifted
Rule: TypeAlias = Callable[[Window, Values], Any]


def results_of(node: Node) -> list[tuple[Ref, TensorType]]:
    """The results of a node that are defined."""
    several = len(node.types) > 1
    return [(Ref(node.name, i if several else None), kind) for i, kind in enumerate(node.types) if kind is not None]

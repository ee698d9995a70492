"""What several rules need."""

from __future__ import annotations

import numpy as np

from ...graph import Ref
from ...proof import Latest
from ..latest import Interpretation, Rule


def axis_of(it: Interpretation, state: Ref, dim: int) -> tuple[Latest, int, int]:
    shape = it.shape(state)
    return it.of(state), dim % len(shape), shape[dim % len(shape)]


def over(latest: Latest, axis: int | tuple[int, ...], keep: bool = True) -> Latest:
    """The maximum over some axes."""
    return np.asarray(latest.max(axis=axis, keepdims=keep), np.int32)


def named(rule: Rule, names: str) -> dict[str, Rule]:
    """The same rule for some ATen operators."""
    return {f"aten.{name}": rule for name in names.split()}

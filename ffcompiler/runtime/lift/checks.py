"""Operators on many steps at once: do they give what they give step by step, and the same bits?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...graph import Graph, Node, TensorType
from ...ops import OPS, Numerics
from ...program import Tables
from .window import Rule, Values, Window, results_of

WHOLE_NUMBERS = frozenset(
    f"aten.{name}"
    for name in """sum.default sum.dim_IntList prod.default prod.dim_int mm.default addmm.default bmm.default
    baddbmm.default mv.default dot.default linear.default cumsum.default cumprod.default amax.default amin.default
    any.default any.dim any.dims all.default all.dim all.dims""".split()
)
"""Operators that combine elements, and give the same whole numbers in any order."""

EXTREMES = frozenset(f"aten.{name}" for name in ("max.default", "min.default", "amax.default", "amin.default"))
"""Their results are the same in any order, but for the sign of a zero and what a NaN carries."""
COMPARISONS = frozenset(
    f"aten.{name}.{of}" for name in ("lt", "le", "gt", "ge", "eq", "ne") for of in ("Scalar", "Tensor")
)
"""To them zeros are alike, and so are NaNs."""

SAMPLES = ((0, 1, 1), (1,), (0,))
"""Whole numbers to try operators on, in turn."""


def operands(node: Node) -> list[str]:
    """Keys of the tensors that a node reads."""
    return [ref.key for ref in node.refs()]


def is_exact(node: Node, types: Mapping[str, TensorType], tables: Tables) -> bool:
    """The same bits lifted as alone, as it is called here.

    Correctly rounded at any shape, that is: a scaled addition may or may not be fused; complex products are not
    rounded once; a float that an integer cannot hold becomes whatever the instruction gives. Whole numbers are
    exact in any order.
    """
    numerics = OPS[node.op].numerics
    kinds = {kind.dtype for _, kind in results_of(node)} | {types[k].dtype for k in operands(node)}
    numbers = [leaf for leaf in node.leaves() if isinstance(leaf, float)]
    numbers += [v for s in node.steps() for v in tables[s.table] if isinstance(v, float)]
    if all(kind == "bool" or "int" in kind for kind in kinds) and not numbers:
        return numerics is not Numerics.REDUCE or node.op in WHOLE_NUMBERS
    if numerics in (Numerics.MOVE, Numerics.CREATE):
        return True
    scaled = dict(node.kwargs).get("alpha", 1) != 1 or (
        node.op in ("aten.add.Scalar", "aten.sub.Scalar", "aten.rsub.Scalar") and len(node.args) > 2
    )
    narrowed = not all("float" in kind for kind in kinds) and node.op == "aten._to_copy.default"
    narrowed = narrowed and "float" not in node.type.dtype
    return numerics is Numerics.EXACT and not scaled and not narrowed and not any("complex" in k for k in kinds)


def only_compared(node: Node, graph: Graph) -> bool:
    """Whether a node gives the largest or smallest of its elements, and nobody can tell one zero of it from another."""
    if node.op not in EXTREMES or any(ref.name == node.name for ref in graph.outputs):
        return False
    readers = [other for other in graph.nodes if any(ref.name == node.name for ref in other.refs())]
    return all(other.op in COMPARISONS for other in readers)


@dataclass(frozen=True, slots=True)
class Samples:
    """Tries rules on small values. ``types`` and ``stepped`` are of the values that nodes read."""

    count: int  # of steps
    device: torch.device
    types: Mapping[str, TensorType]
    stepped: frozenset[str]

    def agree(self, node: Node, rule: Rule, each: Rule) -> bool:
        """Whether the rule gives what single steps give, and of the recorded types, on a few values."""
        if not any(key in self.stepped for key in operands(node)) and not any(node.steps()):
            return False
        if self.count == 0:
            return True  # there is nothing to evaluate
        kinds = [kind for _, kind in results_of(node)]
        for integers in SAMPLES:  # not all are divisors, or places in a table
            window, lifted = self._sampled(node, integers)
            try:
                wanted = _several(each(window, dict(lifted)))
            except Exception:
                continue
            try:
                return all(map(_alike, _several(rule(window, dict(lifted))), wanted, kinds))
            except Exception:  # whatever a missing batching rule raises: the operator is then evaluated step by step
                return False
        return False

    def steady(self, node: Node, each: Rule) -> bool:
        """Whether single steps give values of the recorded types, as far as a few of them show."""
        kinds = [kind for _, kind in results_of(node)]
        for integers in SAMPLES:
            try:
                made = [
                    _several(each(*self._sampled(node, integers, step)))
                    for step in {0, self.count // 2, self.count - 1}
                    if 0 <= step < self.count
                ]
            except Exception:  # as for rules
                continue
            return all(_of_type(t, kind) for several in made for t, kind in zip(several, kinds, strict=True))
        return False

    def _sampled(self, node: Node, integers: tuple[int, ...], step: int | None = None) -> tuple[Window, Values]:
        """The first two steps, or another one alone, with a few values for what a node reads."""
        count, first = (min(2, self.count), 0) if step is None else (1, step)
        found = {key: _sample(self.types[key], count, integers, self.device) for key in operands(node)}
        shared = {key: t[0] for key, t in found.items() if key not in self.stepped}
        return Window(first, first + count, shared, False), {key: t for key, t in found.items() if key in self.stepped}


def _several(made: Any) -> tuple[Tensor, ...]:
    return (made,) if isinstance(made, Tensor) else tuple(made)


def _sample(kind: TensorType, count: int, integers: tuple[int, ...], device: torch.device) -> Tensor:
    """Small values of a type; elements that share a place are the same number."""
    dtype = getattr(torch, kind.dtype)
    apart = (count, *(1 if stride == 0 else size for size, stride in zip(kind.shape, kind.stride, strict=True)))
    places = torch.arange(torch.Size(apart).numel(), device=device)
    if dtype.is_floating_point or dtype.is_complex:
        numbers = places * 0.618 % 0.5 + 0.25
    else:
        numbers = torch.tensor(integers, device=device)[places % len(integers)]
    return numbers.reshape(apart).to(dtype).expand(count, *kind.shape)


def _of_type(got: Tensor, kind: TensorType) -> bool:
    """Whether it has the type at each of some steps."""
    return str(got.dtype).removeprefix("torch.") == kind.dtype and tuple(got.shape[1:]) == kind.shape


def _alike(got: Tensor, wanted: Tensor, kind: TensorType) -> bool:
    if not _of_type(got, kind):
        return False
    if not got.dtype.is_floating_point and not got.dtype.is_complex:
        return torch.equal(got, wanted)
    return torch.allclose(got.to(torch.complex128), wanted.to(torch.complex128), 1e-2, 1e-2, equal_nan=True)

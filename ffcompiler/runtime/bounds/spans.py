"""Between which numbers the elements of a value lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...graph import Arg, Graph, Node, Ref, TensorType
from ...signatures import complete, parameters

ROOM = 1e-3
"""Relative room for the rounding of one operator, that of a long sum included."""
HALF_ROOM = 2.0**-6
"""The same for float16 and bfloat16."""


@dataclass(frozen=True, slots=True)
class Span:
    """All elements are finite, none is NaN, and they lie in ``low .. high``; an infinite end says nothing at all.

    ``fillers``: some may lie below, -inf too, but along the last axis there is everywhere one that does not: scores
    with a mask laid on, which are good for softmax only.
    """

    low: float
    high: float
    fillers: bool = False

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high) and not self.fillers

    @property
    def size(self) -> float:
        """The largest magnitude; infinite if nothing is known."""
        return max(abs(self.low), abs(self.high)) if self.known else math.inf

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high


PLACED = frozenset(
    f"aten.{name}" for name in "select.int slice.Tensor select_scatter.default slice_scatter.default".split()
)
"""Operators whose rules hold wherever they read and write."""
ANY = Span(-math.inf, math.inf)
ZERO, UNIT = Span(0.0, 0.0), Span(0.0, 1.0)
Rule: TypeAlias = "Callable[[Bounds, Node, tuple[Any, ...]], Span | tuple[Span, ...]]"
"""``rule(bounds, node, args)``, with all arguments in the order of the schema; of several results one span each."""


def around(size: float) -> Span:
    """Magnitudes up to ``size``."""
    return Span(-size, size)


def number(value: Any) -> Span:
    return Span(float(value), float(value)) if isinstance(value, bool | int | float) else ANY


def union(spans: Iterable[Span]) -> Span:
    spans = list(spans)
    if not all(s.known for s in spans):
        return ANY
    return Span(min((s.low for s in spans), default=0.0), max((s.high for s in spans), default=0.0))


@dataclass(slots=True)
class Bounds:
    """Spans by environment key; ``constants`` are the values that do not depend on the state."""

    span: dict[str, Span]
    constants: Mapping[str, Tensor]
    rules: Mapping[str, Rule]
    types: dict[str, TensorType | None] = field(default_factory=dict)  # by environment key

    def run(self, graph: Graph) -> None:
        for value in graph.inputs:
            self.types.setdefault(value.name, value.type)
        for node in graph.nodes:
            settled = node.op in PLACED or not any(node.steps())  # of numbers that differ from step to step, nothing is
            rule = self.rules.get(node.op) if settled else None
            found = rule(self, node, complete(node.op, node.args, dict(node.kwargs))) if rule is not None else ANY
            several = len(node.types) > 1
            spans = found if isinstance(found, tuple) else (found,) * len(node.types)
            for output, (span, kind) in enumerate(zip(spans, node.types, strict=True)):
                key = Ref(node.name, output if several else None).key
                self.types[key], self.span[key] = kind, rounded(span, kind)

    def of(self, arg: Arg) -> Span:
        """The span of an argument, a number or a tensor."""
        if not isinstance(arg, Ref):
            return number(arg)
        if arg.key not in self.span:
            self.span[arg.key] = extent(self.constants[arg.key]) if arg.key in self.constants else ANY
        return self.span[arg.key]

    def size(self, arg: Arg) -> float:
        """The largest magnitude; 0 for an argument that was left out."""
        return 0.0 if arg is None else self.of(arg).size

    def shape(self, arg: Ref) -> tuple[int, ...]:
        if arg.key in self.constants:
            return tuple(self.constants[arg.key].shape)
        kind = self.types[arg.key]
        assert kind is not None
        return kind.shape

    def type_of(self, arg: Ref) -> TensorType | None:
        """Dtype and shape of a value, as far as they are known."""
        t = self.constants.get(arg.key)
        if t is None:
            return self.types.get(arg.key)
        return TensorType(str(t.dtype).removeprefix("torch."), tuple(t.shape), tuple(t.stride()))

    def constant(self, arg: Arg) -> Tensor | None:
        return self.constants.get(arg.key) if isinstance(arg, Ref) else None


def given(node: Node, args: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments by the names of the operator's schema."""
    return {name: arg for (name, _), arg in zip(parameters(node.op), args, strict=True)}


def extent(t: Tensor) -> Span:
    """The smallest and the largest element; nothing if one is NaN or infinite."""
    if t.numel() == 0 or t.dtype.is_complex:
        return ANY if t.dtype.is_complex else ZERO
    if t.dtype == torch.bool:
        return UNIT
    low, high = (float(end) for end in t.detach().aminmax())
    return Span(low, high) if math.isfinite(low) and math.isfinite(high) else ANY


def largest(t: Tensor) -> float:
    """The largest magnitude; infinite if an element is, or is NaN."""
    most = 1.0 if t.dtype == torch.bool else float(t.abs().amax()) if t.numel() else 0.0
    return math.inf if math.isnan(most) else most


def limit(dtype: str) -> float:
    """Below this, values of a dtype are finite; float32 may be rounded to TF32 or bfloat16 on the way."""
    kind = getattr(torch, dtype)
    return 3.38e38 if dtype == "float32" else float(torch.finfo(kind).max) / 2 if kind.is_floating_point else math.inf


def rounded(span: Span, kind: TensorType | None) -> Span:
    """With room for the operator's rounding; nothing where the dtype may overflow, all integers where those may."""
    if kind is None or kind.dtype.startswith("complex"):
        return ANY
    if kind.dtype == "bool":
        return span if span in (ZERO, Span(1.0, 1.0)) else UNIT
    dtype = getattr(torch, kind.dtype)
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        inside = span.known and info.min <= span.low and span.high <= info.max
        return span if inside else Span(float(info.min), float(info.max))
    room = HALF_ROOM if kind.dtype in ("float16", "bfloat16") else ROOM
    if not math.isfinite(span.low) or not math.isfinite(span.high):
        return ANY
    largest_end = max(abs(span.low), abs(span.high)) if span.low < 0 < span.high else 0.0
    low = span.low - room * max(abs(span.low), largest_end)
    high = span.high + room * max(abs(span.high), largest_end)
    least = 8 * torch.finfo(dtype).tiny  # below it rounding is coarser, or gives 0
    low = min(low, -least) if low < 0 else low if low >= least else 0.0
    high = max(high, least) if high > 0 else high if high <= -least else 0.0
    if abs(high) >= limit(kind.dtype) or (abs(low) >= limit(kind.dtype) and not span.fillers):
        return ANY
    return Span(low, high, span.fillers)

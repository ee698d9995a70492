"""The per-position part T_i of a system, evaluated for many positions at once.

Two ways (design: docs/exactness.md). To *solve*, every operator is lifted over the positions. To *certify*, an operator
is lifted only if it moves elements, compares, or is correctly rounded; any other is evaluated position by position at
the shapes and strides that the author's own code has, because its rounding may depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..graph import Arg, Node, Ref, Step, Symbol, TensorType
from ..ops import OPS, Numerics
from ..program import ArrayLoop
from .graphs import OVERLOADS, argument, graph_call, symbol_value
from .positions import Indexed, Positions

WIDE_SCALARS = frozenset({"float32", "float64", "int32", "int64", "int16", "int8", "uint8"})
"""Element types for which a Python number and a tensor element of the same value compute alike."""


@dataclass(frozen=True, slots=True)
class Window:
    """Steps ``lo .. hi - 1``, the shared values by name, and whether the result is to certify."""

    lo: int
    hi: int
    shared: Mapping[str, Tensor]
    exact: bool


ALONG_ONE_AXIS = frozenset(
    f"aten.{name}.default" for name in "argmax argmin _softmax _log_softmax cumsum cumprod".split()
)
"""Operators whose second argument is the axis: it is one further in when steps come first."""

LIFTED_BYTES = 2**26
"""Positions are evaluated in runs such that no lifted value is larger than this."""

Lifted: TypeAlias = dict[str, Tensor]  # by name: [steps, *shape at one step]
Rule: TypeAlias = Callable[[Window, Lifted], Tensor]


class Tail:
    """``tail(window)``: the written value of every step of the window, ``[steps, *region]``."""

    def __init__(self, loop: ArrayLoop, device: torch.device) -> None:
        self._loop = loop
        self._device = device
        self._types: dict[str, TensorType] = {v.name: v.type for v in loop.tail.inputs}
        self._types |= {n.name: n.type for n in loop.tail.nodes if len(n.types) == 1 and n.types[0] is not None}
        self._stepped = {n.name for n in loop.tail.nodes}
        self._gathers: dict[str, tuple[str, tuple[Indexed, ...]]] = {}
        self.inexact: list[Node] = []
        """Operators that a certificate evaluates position by position."""
        self._whole = graph_call(loop.tail, device)
        self._rules: list[tuple[str, Rule]] = []
        supported = True
        for node in loop.tail.nodes:
            rule = self._rule(node)
            supported = supported and rule is not None
            if rule is not None:
                self._rules.append((node.name, rule))
        self._lifts = supported
        self._drop_unread()

    def _drop_unread(self) -> None:
        """Leave out what only a chain of selects passes through: the chain reads the shared value itself."""
        read = {self._loop.tail.outputs[0].name}
        kept = []
        nodes = {node.name: node for node in self._loop.tail.nodes}
        for name, rule in reversed(self._rules):
            if name in read:
                kept.append((name, rule))
                read |= set() if name in self._gathers else {ref.name for ref in nodes[name].refs()}
        self._rules = kept[::-1]

    @property
    def exact(self) -> bool:
        """Whether every sweep certifies, because no operator rounds by shape."""
        return self._lifts and not self.inexact

    def __call__(self, window: Window) -> Tensor:
        if not self._lifts:
            return self._one_by_one(window)
        width = max(1, LIFTED_BYTES // self._step_bytes)
        if window.hi - window.lo <= width:
            return self._lifted(window)
        starts = range(window.lo, window.hi, width)
        return torch.cat([self._lifted(replace(window, lo=k, hi=min(k + width, window.hi))) for k in starts])

    @property
    def _step_bytes(self) -> int:
        """Bytes of the largest value of one step."""
        sizes = [torch.Size(n.type.shape).numel() for n in self._loop.tail.nodes if len(n.types) == 1]
        return 8 * max(sizes, default=1) or 1

    def _lifted(self, window: Window) -> Tensor:
        lifted: Lifted = {}
        for name, rule in self._rules:
            lifted[name] = rule(window, lifted)
        out = self._loop.tail.outputs[0]
        if out.name in lifted:
            return lifted[out.name]
        value = window.shared[out.key]  # every step writes the same value
        return value.expand(window.hi - window.lo, *value.shape)

    def _one_by_one(self, window: Window) -> Tensor:
        """The author's calls for each step in turn."""
        tables = [self._loop.tables[t] for t in self._whole.tables]
        values = [self._whole.values(window.shared, [row[k] for row in tables])[0] for k in range(window.lo, window.hi)]
        return torch.stack(values)

    # ------------------------------------------------------------------------------------------ rules

    def _rule(self, node: Node) -> Rule | None:
        """How to evaluate a node on a window; None if only step by step evaluation of the whole tail will do."""
        if len(node.types) != 1:
            return None
        if (gather := self._gather(node)) is not None:
            return gather
        numerics = OPS[node.op].numerics
        each = self._each(node)
        elementwise = numerics in (Numerics.EXACT, Numerics.POINTWISE) and self._steps_are_wide(node)
        together = self._pointwise(node) if elementwise else self._batched(node)
        if together is None or not self._tries(node, together):
            self.inexact.append(node)
            return each
        if numerics is Numerics.MOVE or (numerics is Numerics.EXACT and self._is_exact(node)):
            return together
        self.inexact.append(node)
        return lambda window, lifted: (each if window.exact else together)(window, lifted)

    def _gather(self, node: Node) -> Rule | None:
        """A chain of selects and slices at the step's position, taken from one shared value."""
        if node.op not in ("aten.select.int", "aten.slice.Tensor") or not isinstance(node.args[0], Ref):
            return None
        of = node.args[0]
        if of.name in self._gathers:
            base, axes = self._gathers[of.name]
        elif of.name not in self._stepped:
            base, axes = of.key, ()
        else:
            return None
        shape = self._shape_of(of.name if of.name not in self._gathers else base.split(".")[0])
        indexed = self._indexed(node, shape, axes)
        if indexed is None:
            return None
        axes = tuple(sorted((*axes, indexed), key=lambda a: a.dim))
        self._gathers[node.name] = (base, axes)
        positions = Positions(shape, axes)
        return lambda window, lifted: positions.read(window.shared[base], window.lo, window.hi)

    def _shape_of(self, name: str) -> tuple[int, ...]:
        return self._types[name].shape

    def _indexed(self, node: Node, shape: tuple[int, ...], axes: tuple[Indexed, ...]) -> Indexed | None:
        free = [dim for dim in range(len(shape)) if dim not in {a.dim for a in axes if a.length is None}]
        _, dim, *where = (*node.args, 0) if len(node.args) == 1 else node.args
        if not isinstance(dim, int) or (len(where) > 2 and where[2] != 1):
            return None
        dim = free[dim % len(free)]
        if any(a.dim == dim for a in axes):
            return None
        length = None
        if node.op == "aten.slice.Tensor":
            length = node.type.shape[free.index(dim)]
        start = where[0] if where and where[0] is not None else 0
        row = self._loop.tables[start.table] if isinstance(start, Step) else (start,) * self._loop.blocks
        starts = tuple(max(0, int(v) + shape[dim]) if v < 0 else int(v) for v in row)  # type: ignore[operator, arg-type]
        return Indexed(dim, starts, length)

    def _operands(self, node: Node) -> list[str]:
        """Environment keys of the tensors that a node reads."""
        return [ref.key for ref in node.refs()]

    def _steps_are_wide(self, node: Node) -> bool:
        has_steps = any(node.steps())
        return not has_steps or (
            node.type.dtype in WIDE_SCALARS and all(self._types[n].dtype in WIDE_SCALARS for n in self._operands(node))
        )

    def _pointwise(self, node: Node) -> Rule:
        """An elementwise operator: the same call on lifted operands, their ranks made to agree after the steps."""
        rank = len(node.type.shape)
        op = OVERLOADS[node.op]
        kinds = [node.type.dtype, *(self._types[k.split(".")[0]].dtype for k in self._operands(node))]
        kind = next((k for k in kinds if "float" in k), None)  # numbers take the precision of the operator

        def rule(window: Window, lifted: Lifted) -> Tensor:
            value = {k: _with_rank(self._value(k, window, lifted), rank, k in lifted) for k in self._operands(node)}
            args, kwargs = self._arguments(node, value, lambda t: self._row(t, window, rank, kind))
            return op(*args, **kwargs)  # type: ignore[no-any-return]

        return rule

    def _batched(self, node: Node) -> Rule | None:
        """Any operator with a batching rule, through ``torch.vmap``; None if it has none or uses the step's number."""
        if any(node.steps()):
            return None
        op, keys = OVERLOADS[node.op], self._operands(node)
        if node.op in ALONG_ONE_AXIS and len(keys) == 1 and keys[0] in self._stepped:
            axis, *rest = node.args[1:]
            if isinstance(axis, int) and not node.kwargs and self._types[keys[0].split(".")[0]].shape:
                shifted = axis if axis < 0 else axis + 1
                return lambda window, lifted: op(self._value(keys[0], window, lifted), shifted, *rest)

        def call(*tensors: Tensor) -> Tensor:
            args, kwargs = self._arguments(node, dict(zip(keys, tensors, strict=True)), _no_step)
            return op(*args, **kwargs)  # type: ignore[no-any-return]

        def rule(window: Window, lifted: Lifted) -> Tensor:
            dims = tuple(0 if k in lifted else None for k in keys)
            return torch.vmap(call, in_dims=dims)(*[self._value(k, window, lifted) for k in keys])

        return rule

    def _tries(self, node: Node, rule: Rule) -> bool:
        """Whether the rule gives the recorded shape and dtype, tried on zeros of the recorded types."""
        zeros = {k: _zeros(self._types[k.split(".")[0]], self._device) for k in self._operands(node)}
        lifted = {k: torch.stack([z, z]) for k, z in zeros.items() if k in self._stepped}
        if not lifted and not any(node.steps()):
            return False
        try:
            result = rule(
                Window(0, min(2, self._loop.blocks), zeros, False),
                {k: z[: self._loop.blocks] for k, z in lifted.items()},
            )
        except Exception:  # whatever a missing batching rule raises: the operator is then evaluated step by step
            return False
        same_type = str(result.dtype).removeprefix("torch.") == node.type.dtype
        return same_type and tuple(result.shape[1:]) == node.type.shape

    def _is_exact(self, node: Node) -> bool:
        """Correctly rounded as it is called here, at any shape.

        A scaled addition may or may not be fused; complex products are not rounded once; a float that an integer
        cannot hold becomes whatever the instruction gives.
        """
        scaled = dict(node.kwargs).get("alpha", 1) != 1 or (
            node.op in ("aten.add.Scalar", "aten.sub.Scalar", "aten.rsub.Scalar") and len(node.args) > 2
        )
        kinds = {node.type.dtype, *(self._types[k.split(".")[0]].dtype for k in self._operands(node))}
        narrowed = (
            "float" not in node.type.dtype and node.op == "aten._to_copy.default" and any("float" in k for k in kinds)
        )
        return not scaled and not narrowed and not any("complex" in kind for kind in kinds)

    def _each(self, node: Node) -> Rule:
        """One call per step, on operands with the shapes and strides of the author's code."""
        op = OVERLOADS[node.op]
        keywords = tuple(k for k, _ in node.kwargs)
        arguments = (*node.args, *(v for _, v in node.kwargs))
        count = len(node.args)

        def rule(window: Window, lifted: Lifted) -> Tensor:
            columns = [self._column(a, window, lifted) for a in arguments]
            if not keywords:
                return torch.stack([op(*row) for row in zip(*columns, strict=True)])
            rows = zip(*columns, strict=True)
            return torch.stack([op(*row[:count], **dict(zip(keywords, row[count:], strict=True))) for row in rows])

        return rule

    def _column(self, arg: Arg, window: Window, lifted: Lifted) -> Sequence[Any]:
        """What an argument is at each step of the window."""
        steps = window.hi - window.lo
        match arg:
            case Ref() if arg.key in lifted:
                return _as_recorded(lifted[arg.key], self._types[arg.name]).unbind(0)
            case Ref():
                return (window.shared[arg.key],) * steps
            case Step(table=table):
                return self._loop.tables[table][window.lo : window.hi]
            case tuple():
                columns = [self._column(a, window, lifted) for a in arg]
                return [list(row) for row in zip(*columns, strict=True)] if columns else ([],) * steps
            case Symbol():
                return (symbol_value(arg, self._device),) * steps
        return (arg,) * steps

    def _arguments(
        self, node: Node, value: Mapping[str, Tensor], step: Callable[[int], Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        keyed: dict[Any, Any] = {(r.name, r.output): value[r.key] for r in node.refs()}
        keyed |= {s.table: step(s.table) for s in node.leaves() if isinstance(s, Step)}
        args = [argument(a, self._device, keyed) for a in node.args]
        return args, {k: argument(v, self._device, keyed) for k, v in node.kwargs}

    def _value(self, key: str, window: Window, lifted: Lifted) -> Tensor:
        return lifted[key] if key in lifted else window.shared[key]

    def _row(self, table: int, window: Window, rank: int, kind: str | None) -> Tensor:
        numbers = self._loop.tables[table][window.lo : window.hi]
        dtype = getattr(torch, kind) if kind is not None and isinstance(numbers[0], float) else None
        return torch.tensor(numbers, device=self._device, dtype=dtype).reshape(-1, *(1,) * rank)


def _no_step(table: int) -> Any:
    raise AssertionError("a batched rule has no per-step numbers")


def _with_rank(t: Tensor, rank: int, lifted: bool) -> Tensor:
    missing = rank + 1 - t.dim() if lifted else 0
    return t[(slice(None), *(None,) * missing)] if missing else t


def _as_recorded(lifted: Tensor, recorded: TensorType) -> Tensor:
    """``lifted`` such that each step's part has the strides that the author's code has."""
    wanted = [s for size, s in zip(recorded.shape, recorded.stride, strict=True) if size != 1]
    has = [s for size, s in zip(lifted.shape[1:], lifted.stride()[1:], strict=True) if size != 1]
    if wanted == has or not lifted.numel():
        return lifted
    span = 1 + sum((size - 1) * s for size, s in zip(recorded.shape, recorded.stride, strict=True))
    laid_out = lifted.new_empty(lifted.shape[0] * span).as_strided(lifted.shape, (span, *recorded.stride))
    return laid_out.copy_(lifted)


def _zeros(t: TensorType, device: torch.device) -> Tensor:
    return torch.zeros(t.shape, dtype=getattr(torch, t.dtype), device=device)

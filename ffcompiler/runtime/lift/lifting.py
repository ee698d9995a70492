"""How each node of a graph is evaluated for many steps at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ...graph import Arg, Graph, Node, Ref, Step, Symbol, TensorType
from ...ops import OPS, Numerics
from ...program import Tables
from ..graphs import OVERLOADS, argument, symbol_value
from ..plain import plain
from ..positions import Indexed, Positions
from ..watch import FEW, look
from .checks import Samples, is_exact, only_compared, operands
from .layers import has_batching_rule
from .numbers import of_tensors
from .places import place_of, read_places, write_places
from .rules import plain_call
from .window import Rule, Values, Window, results_of

WIDE_SCALARS = frozenset({"float32", "float64", "int32", "int64", "int16", "int8", "uint8"})
"""Element types for which a Python number and a tensor element of the same value compute alike."""

NUMBER_AT = {
    "aten.scalar_tensor.default": 0,
    "aten.full.default": 1,
    "aten.full_like.default": 1,
    "aten.fill.Scalar": 1,
    "aten.new_full.default": 2,
}
"""Operators that fill a tensor with one number: where it stands among their arguments."""


class Lifting:
    """Makes the rules of a graph's nodes; ``given`` are the types at one step of what is lifted already."""

    def __init__(
        self, graph: Graph, tables: Tables, device: torch.device, steps: int, given: Mapping[str, TensorType]
    ) -> None:
        self._graph, self._tables, self._device, self._count = graph, tables, device, steps
        self._types: dict[str, TensorType] = {v.name: v.type for v in graph.inputs} | dict(given)
        self._types |= {ref.key: kind for node in graph.nodes for ref, kind in results_of(node)}
        self._stepped = frozenset({*given, *(ref.key for node in graph.nodes for ref, _ in results_of(node))})
        self._rows: dict[tuple[int, torch.dtype | None], Tensor] = {}
        self.gathers: dict[str, tuple[str, tuple[Indexed, ...]]] = {}
        """Chains of selects: by their last node the shared value that it selects from, and where."""
        self.inexact: list[Node] = []
        """Operators that a certificate evaluates step by step."""
        self.unlifted: list[Node] = []
        """Operators that can be evaluated step by step only."""
        self.uneven: list[Node] = []
        """Those of them that give another shape in another step, so that they cannot be evaluated here at all."""

    def rule(self, node: Node) -> Rule:
        """How to evaluate a node on a window."""
        gather = self._gather(node)
        if gather is not None:
            return gather
        samples = Samples(self._count, self._device, self._types, self._stepped)
        each = self._each(node)
        together = next((rule for rule in self._candidates(node) if samples.agree(node, rule, each)), None)
        if together is None:
            self.unlifted.append(node)
            if not samples.steady(node, each):
                self.uneven.append(node)
            return each
        if is_exact(node, self._types, self._tables) or only_compared(node, self._graph):
            return together
        self.inexact.append(node)
        return lambda window, values: (each if window.exact else together)(window, values)

    def _candidates(self, node: Node) -> list[Rule]:
        """Ways to evaluate a node at all steps at once, the cheapest first."""
        numerics = OPS[node.op].numerics
        if numerics in (Numerics.EXACT, Numerics.POINTWISE) or of_tensors(node) is not None:
            return [self._pointwise(node)] if len(node.types) == 1 and self._steps_are_wide(node) else []
        found = [self._placed(node), self._filled(node), self._plain(node), self._batched(node)]
        return [rule for rule in found if rule is not None]

    def _plain(self, node: Node) -> Rule | None:
        lifted = self._stepped
        types = {key: self._types[key] for key in operands(node)}
        call = plain_call(node, OVERLOADS[node.op], types, lifted)
        if call is None:
            return None
        shared = [key for key in types if key not in lifted]
        if not shared:
            return lambda window, values: call(values)
        return lambda window, values: call({**values, **{key: window.shared[key] for key in shared}})

    def _placed(self, node: Node) -> Rule | None:
        """A part of a lifted value, at a place that differs from step to step."""
        place = place_of(node, self._types, self._stepped)
        if place is None:
            return None
        size, value = self._types[place.of].shape[place.dim], place.value
        row = torch.tensor([int(v) + (size if v < 0 else 0) for v in self._tables[place.table]], device=self._device)

        def rule(window: Window, values: Values) -> Tensor:
            starts = row[window.steps]
            if value is None:
                return read_places(values[place.of], place, starts)
            new = self._value(value, window, values)
            new = new if value in values else new.expand(window.count, *new.shape)
            return write_places(values[place.of], new, place, starts)

        return rule

    def _filled(self, node: Node) -> Rule | None:
        """A tensor of one number for each step."""
        position = NUMBER_AT.get(node.op)
        number = None if position is None or position >= len(node.args) else node.args[position]
        if not isinstance(number, bool | int | float | Step):
            return None
        dtype, shape = getattr(torch, node.type.dtype), node.type.shape
        if not isinstance(number, Step):
            same = torch.full((1,) * (len(shape) + 1), number, device=self._device, dtype=dtype)
            return lambda window, values: same.expand(window.count, *shape)
        row = torch.tensor(self._tables[number.table], device=self._device, dtype=dtype).reshape(-1, *(1,) * len(shape))
        return lambda window, values: row[window.steps].expand(-1, *shape)

    def _gather(self, node: Node) -> Rule | None:
        """A chain of selects and slices at the step's position, taken from one shared value."""
        if node.op not in ("aten.select.int", "aten.slice.Tensor") or not isinstance(node.args[0], Ref):
            return None
        of = node.args[0]
        if of.name in self.gathers:
            base, axes = self.gathers[of.name]
        elif of.key not in self._stepped:
            base, axes = of.key, ()
        else:
            return None
        shape = self._types[base].shape if base in self._types else self._types[of.name].shape
        indexed = self._indexed(node, shape, axes)
        if indexed is None:
            return None
        axes = tuple(sorted((*axes, indexed), key=lambda a: a.dim))
        self.gathers[node.name] = (base, axes)
        positions = Positions(shape, axes)
        return lambda window, values: positions.read(window.shared[base], window.lo, window.hi, window.every)

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
        row = self._tables[start.table] if isinstance(start, Step) else (start,) * self._count
        starts = tuple(max(0, int(v) + shape[dim]) if v < 0 else int(v) for v in row)  # type: ignore[operator, arg-type]
        return Indexed(dim, starts, length)

    def _steps_are_wide(self, node: Node) -> bool:
        kinds = {node.type.dtype, *(self._types[k].dtype for k in operands(node))}
        return not any(node.steps()) or kinds <= {*WIDE_SCALARS, "bool"}

    def _pointwise(self, node: Node) -> Rule:
        """An elementwise operator: the same call on lifted operands, their ranks made to agree after the steps."""
        rank, op = len(node.type.shape), of_tensors(node) or OVERLOADS[node.op]
        kinds = [node.type.dtype, *(self._types[k].dtype for k in operands(node))]
        kind = next((k for k in kinds if "float" in k), None)  # numbers take the precision of the operator
        flat = not node.kwargs and not any(isinstance(arg, tuple | Symbol) for arg in node.args)
        if flat and not any(node.steps()):
            return self._flat(node, plain(node), rank)

        def rule(window: Window, values: Values) -> Tensor:
            found = {k: _with_rank(self._value(k, window, values), rank, k in values) for k in operands(node)}
            args, kwargs = self._arguments(node, found, lambda t: self._row(t, window, rank, kind))
            return op(*args, **kwargs)  # type: ignore[no-any-return]

        return rule

    def _flat(self, node: Node, op: Any, rank: int) -> Rule:
        """The same where arguments are tensors and plain numbers: which is which is settled once."""
        template = list(node.args)
        lifted: list[tuple[int, str, int]] = []  # position, key, dimensions that are missing
        shared: list[tuple[int, str]] = []
        for position, arg in enumerate(node.args):
            if isinstance(arg, Ref) and arg.key in self._stepped:
                lifted.append((position, arg.key, max(rank - len(self._types[arg.key].shape), 0)))
            elif isinstance(arg, Ref):
                shared.append((position, arg.key))

        def rule(window: Window, values: Values) -> Tensor:
            args: list[Any] = template.copy()
            for position, key, missing in lifted:
                t = values[key]
                args[position] = t[(slice(None), *(None,) * missing)] if missing else t
            for position, key in shared:
                args[position] = window.shared[key]
            return op(*args)  # type: ignore[no-any-return]

        return rule

    def _batched(self, node: Node) -> Rule | None:
        """Through ``torch.vmap``; None without a batching rule, which is a loop, or if it uses the step's number."""
        op, keys = OVERLOADS[node.op], operands(node)
        if any(node.steps()) or not has_batching_rule(op):
            return None

        def call(*tensors: Tensor) -> Tensor:
            args, kwargs = self._arguments(node, dict(zip(keys, tensors, strict=True)), _no_step)
            return op(*args, **kwargs)  # type: ignore[no-any-return]

        def rule(window: Window, values: Values) -> Tensor:
            dims = tuple(0 if k in values else None for k in keys)
            return torch.vmap(call, in_dims=dims)(*[self._value(k, window, values) for k in keys])

        return rule

    def _each(self, node: Node) -> Rule:
        """One call per step, on operands with the shapes and strides of the author's code."""
        op = OVERLOADS[node.op]
        keywords = tuple(k for k, _ in node.kwargs)
        arguments = (*node.args, *(v for _, v in node.kwargs))
        count = len(node.args)

        def rule(window: Window, values: Values) -> Any:
            columns = [self._column(a, window, values) for a in arguments]
            rows = zip(*columns, strict=True)
            made: list[Any] = []
            while some := tuple(islice(rows, FEW)):
                made += [op(*row[:count], **dict(zip(keywords, row[count:], strict=True))) for row in some]
                look(window.watch)
            if len(node.types) == 1 and isinstance(made[0], Tensor):
                return torch.stack(made)
            return tuple(torch.stack(column) for column in zip(*made, strict=True))

        return rule

    def _column(self, arg: Arg, window: Window, values: Values) -> Sequence[Any]:
        """What an argument is at each step of the window."""
        steps = window.count
        match arg:
            case Ref() if arg.key in values:
                return in_layout(values[arg.key], self._types[arg.key]).unbind(0)
            case Ref():
                return (window.shared[arg.key],) * steps
            case Step(table=table):
                return self._tables[table][window.steps]
            case tuple():
                columns = [self._column(a, window, values) for a in arg]
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

    def _value(self, key: str, window: Window, values: Values) -> Tensor:
        return values[key] if key in values else window.shared[key]

    def _row(self, table: int, window: Window, rank: int, kind: str | None) -> Tensor:
        numbers = self._tables[table]
        dtype = getattr(torch, kind) if kind is not None and isinstance(numbers[0], float) else None
        if (table, dtype) not in self._rows:
            self._rows[table, dtype] = torch.tensor(numbers, device=self._device, dtype=dtype)
        return self._rows[table, dtype][window.steps].reshape(-1, *(1,) * rank)


def _no_step(table: int) -> Any:
    raise AssertionError("a batched rule has no per-step numbers")


def _with_rank(t: Tensor, rank: int, lifted: bool) -> Tensor:
    missing = rank + 1 - t.dim() if lifted else 0
    return t[(slice(None), *(None,) * missing)] if missing > 0 else t


def in_layout(lifted: Tensor, recorded: TensorType) -> Tensor:
    """``lifted`` such that each step's part has the strides that the author's code has."""
    wanted = [s for size, s in zip(recorded.shape, recorded.stride, strict=True) if size != 1]
    has = [s for size, s in zip(lifted.shape[1:], lifted.stride()[1:], strict=True) if size != 1]
    if wanted == has or not lifted.numel():
        return lifted
    span = 1 + sum((size - 1) * s for size, s in zip(recorded.shape, recorded.stride, strict=True))
    laid_out = lifted.new_empty(lifted.shape[0] * span).as_strided(lifted.shape, (span, *recorded.stride))
    places = (slice(None), *(slice(0, 1) if stride == 0 else slice(None) for stride in recorded.stride))
    laid_out[places].copy_(lifted[places])  # elements that share a place are the same number
    return laid_out

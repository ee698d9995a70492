"""A recorded segment to a functional graph in torch.fx: views stay views, writes become new values.

A write through a view is carried back to the tensor that the view was taken from (``select_scatter`` and so on), and
every later read of that tensor, or of another view of it, sees the new value. Numbers that differ from step to step
become placeholders ``step0, step1, ...`` of the graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx

from ..errors import CaptureError
from .draws import Drawing
from .facts import DEFINED_CREATION, exact_number
from .record import (
    REBIND,
    TOKENS,
    Call,
    Carried,
    Collected,
    Each,
    Literal,
    Made,
    Number,
    Outside,
    Segment,
    Tested,
    Token,
)
from .views import APART, INDEXED, INVERSES, SPLITS, View

aten = torch.ops.aten


class Tables:
    """The per-step tables of a loop; equal ones are shared."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | float, ...]] = []
        self._index: dict[Hashable, int] = {}

    def index(self, values: tuple[int | float, ...]) -> int:
        key = tuple(map(exact_number, values))
        if key not in self._index:
            self._index[key] = len(self.rows)
            self.rows.append(values)
        return self._index[key]


@dataclass(slots=True)
class Alias:
    """A tensor as a chain of views of a root; ``node`` is its value while the root is at ``version``."""

    root: Token
    views: tuple[View, ...]
    node: Any
    version: int


@dataclass(frozen=True, slots=True)
class LiteralKey:
    """A small tensor written out in the code, the same at every step."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    numbers: tuple[int | float, ...]
    bits: tuple[Hashable, ...]  # of the numbers: 0.0 and -0.0 are different literals


@dataclass(frozen=True, slots=True)
class Replaced:
    """What steps read in place of weights that they write first; the ``index``-th value of `Overwriting`."""

    index: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the segment's ``call``-th call, a `Drawing`, has drawn."""

    call: int


@dataclass(frozen=True, slots=True)
class Test:
    """A boolean that the segment's function looked at: its value then, and what it was."""

    node: Any
    holds: bool
    source: str


Key: TypeAlias = Token | LiteralKey | Replaced | Drawn
"""What an input of a graph stands for."""


class Functional:
    """Builds the fx graph of one segment.

    ``columns``: for each number of the segment its value at every step (one value for prologue and epilogue).
    ``shape_of`` gives the shapes of the tensors that the segment is handed. What is left behind, and what its tests
    looked at, are further outputs of the graph, in order; and last the values, at the end of the segment, of the
    tensors from outside that are ``final``.
    """

    def __init__(
        self,
        segment: Segment,
        columns: Sequence[tuple[int | float, ...]],
        tables: Tables,
        shape_of: Callable[[Token], tuple[int, ...]],
        final: Sequence[Outside] = (),
    ) -> None:
        self.segment = segment
        self.final = final
        self.columns = columns
        self.tables = tables
        self.graph = fx.Graph()
        self.inputs: dict[Key, fx.Node] = {}
        self.steps: dict[int, fx.Node] = {}
        self.tests: list[Test] = []
        self._shape_of_outside = shape_of
        self._aliases: dict[Token, Alias] = {}
        self._roots: dict[Token, tuple[Any, int]] = {}
        self._literals: dict[Token, Literal] = {}
        self._source = ""
        self._anchor = self.graph.call_function(len, ((),))  # placeholders are inserted before it
        self._build()

    def _build(self) -> None:
        """Fill the graph; its outputs are the tensors among the segment's results, in order."""
        for position, (call, source) in enumerate(zip(self.segment.calls, self.segment.sources, strict=True)):
            self._source = source
            self._call(position, call)
        results = [r for r in self.segment.results if isinstance(r, TOKENS)]
        tested = [test.node for test in self.tests]
        behind = [token for token in self.segment.behind if token is not None]
        outputs = [*map(self.read, results), *map(self.read, behind), *tested, *map(self.read, self.final)]
        self.graph.output(tuple(outputs))
        self.graph.erase_node(self._anchor)
        self.graph.eliminate_dead_code()
        self.graph.lint()

    def separate(self) -> None:
        """Give outputs that are one of several results of an operator a node, and so a name, of their own."""
        output = next(node for node in self.graph.nodes if node.op == "output")
        with self.graph.inserting_before(output):
            named = [
                self.emit(aten.alias.default, (node,)) if node.target is operator.getitem else node
                for node in output.args[0]
            ]
        output.args = (tuple(named),)

    # ------------------------------------------------------------------------------------------ values

    def read(self, token: Token) -> Any:
        """The present value of a tensor."""
        if token in self._literals and token not in self._roots:
            return self._constant(token, self._literals[token])
        alias = self._aliases.get(token)
        if alias is None:
            return self._roots[token][0] if token in self._roots else self._enter(_key(token), token)
        value, version = self._roots[alias.root]
        if alias.version != version:
            for view in alias.views:
                value = self.emit(view.op, (value, *view.args), view.kwargs)
            alias.node, alias.version = value, version
        return alias.node

    def _rooted(self, token: Token) -> Any:
        """The present value of a tensor that is viewed or written: a literal is from now on a tensor like others."""
        if token in self._literals and token not in self._roots:
            self._roots[token] = (self.read(token), 0)
        return self.read(token)

    def emit(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
        node = self.graph.call_function(op, args, kwargs or {})
        node.meta["source"] = self._source
        return node

    def number(self, index: int, change: Callable[[Any], Any] = lambda v: v) -> Any:
        """The number at ``index``, after ``change``: a constant, or a placeholder if it differs between steps."""
        column = self.columns[index]
        return change(column[0]) if _constant(column) else self._step(tuple(change(v) for v in column))

    def value(self, encoded: Hashable) -> Any:
        """An encoded argument as an fx argument."""
        match encoded:
            case Made() | Carried() | Outside() | Each() | Collected():
                return self.read(encoded)
            case Number(index=index):
                return self.number(index)
            case tuple():
                return [self.value(e) for e in encoded]
        return encoded

    def shape(self, token: Token) -> tuple[int, ...]:
        if not isinstance(token, Made):
            return self._shape_of_outside(token)
        made = self.segment.calls[token.call].types[token.output]
        assert made is not None
        return made.shape

    def _step(self, values: tuple[int | float, ...]) -> fx.Node:
        index = self.tables.index(values)
        if index not in self.steps:
            with self.graph.inserting_before(self._anchor):
                self.steps[index] = self.graph.placeholder(f"step{index}")
        return self.steps[index]

    def _enter(self, key: Key, token: Token) -> fx.Node:
        if key not in self.inputs:
            with self.graph.inserting_before(self._anchor):
                self.inputs[key] = self.graph.placeholder(f"input{len(self.inputs)}")
        self._roots[token] = (self.inputs[key], 0)
        return self.inputs[key]

    def _constant(self, token: Token, literal: Literal) -> fx.Node:
        count = torch.Size(literal.shape).numel()
        columns = self.columns[literal.first : literal.first + count]
        if not all(_constant(column) for column in columns):
            node = self._of_numbers(literal, columns)
            self._roots[token] = (node, 0)
            return node
        numbers = tuple(column[0] for column in columns)
        key = LiteralKey(literal.dtype, literal.shape, numbers, tuple(map(exact_number, numbers)))
        if key not in self.inputs:
            with self.graph.inserting_before(self._anchor):
                self.inputs[key] = self.graph.placeholder(f"input{len(self.inputs)}")
        return self.inputs[key]

    def _of_numbers(self, literal: Literal, columns: Sequence[tuple[int | float, ...]]) -> fx.Node:
        """A tensor that is made from other numbers in each step, by operators."""
        numbers = [c[0] if _constant(c) else self._step(c) for c in columns]
        dtype = {"dtype": literal.dtype}
        if len(set(columns)) == 1:
            return self.emit(aten.full.default, (list(literal.shape), numbers[0]), dtype)
        parts = [self.emit(aten.full.default, ([1], number), dtype) for number in numbers]
        return self.emit(aten.reshape.default, (self.emit(aten.cat.default, (parts,)), list(literal.shape)))

    # ------------------------------------------------------------------------------------------ calls

    def _call(self, position: int, call: Call) -> None:
        out = Made(position, 0)
        if call.op is REBIND:
            self._rebind(call)
        elif isinstance(call.op, Tested):
            self.tests.append(Test(self.value(call.args[0]), call.op.holds, self._source))
        elif isinstance(call.op, Drawing):
            return  # it comes from outside the graph, where it is read
        elif call.op is aten.lift_fresh.default:
            if isinstance(call.args[0], Literal):
                self._literals[out] = call.args[0]
            else:
                self._view(out, call.args[0], aten.alias.default, (), {})
        elif call.op in SPLITS:
            for output, (op, args) in enumerate(SPLITS[call.op](self.value, call)):
                self._view(Made(position, output), call.args[0], op, args, {})
        elif call.op._schema.is_mutable:
            self._write(call)
        elif call.op.is_view:
            kwargs = {k: self.value(v) for k, v in call.kwargs}
            self._view(out, call.args[0], call.op, tuple(self.value(a) for a in call.args[1:]), kwargs)
        else:
            self._compute(position, call)

    def _compute(self, position: int, call: Call) -> None:
        if (indexed := self._indexed(call.op, call)) is not None:
            self._roots[Made(position, 0)] = (indexed, 0)
            return
        if call.op in APART:
            for output, (view, args) in enumerate(APART[call.op](self.value, call)):
                self._roots[Made(position, output)] = (self.emit(view, (self.value(call.args[0]), *args)), 0)
            return
        op = DEFINED_CREATION.get(call.op, call.op)
        node = self.emit(op, tuple(self.value(a) for a in call.args), {k: self.value(v) for k, v in call.kwargs})
        if len(call.op._schema.returns) == 1:
            self._roots[Made(position, 0)] = (node, 0)
            return
        for output in range(len(call.types)):
            self._roots[Made(position, output)] = (self.graph.call_function(operator.getitem, (node, output)), 0)

    def _view(self, out: Token, of: Hashable, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(of, TOKENS)
        node = self.emit(op, (self._rooted(of), *args), kwargs)
        parent = self._aliases.get(of)
        root, views = (parent.root, parent.views) if parent else (of, ())
        view = View(op, args, kwargs, self.shape(of))
        self._aliases[out] = Alias(root, (*views, view), node, self._roots[root][1])

    def _rebind(self, call: Call) -> None:
        """``weight.data = value``: from now on the two are one; earlier views of the weight keep its old memory."""
        name, value = call.args
        assert isinstance(name, Outside) and isinstance(value, TOKENS)
        if value in self._literals:
            raise CaptureError(f".data is replaced by a literal at {self._source}; make it a buffer of the module")
        self.read(name)  # the weight is an input, whether or not it is read before
        node = self.read(value)
        of = self._aliases.get(value)
        root, views = (of.root, of.views) if of else (value, ())
        self._aliases[name] = Alias(root, views, node, self._roots[root][1])

    def _write(self, call: Call) -> None:
        target = call.args[0]
        written = [a for a in call.op._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        if not isinstance(target, TOKENS) or [a.name for a in written] != ["self"]:
            raise CaptureError(
                f"{call.op} at {self._source} writes its arguments in a way that is not captured\n"
                "  use the operator that returns a new tensor (without _ and out=)"
            )
        self._store(target, self._functional(call))

    def _functional(self, call: Call) -> Any:
        """The new value of the tensor that an in-place call writes, in its dtype."""
        packet = getattr(aten, call.op._schema.name.removeprefix("aten::").removesuffix("_"), None)
        if packet is None or call.op._overloadname not in packet.overloads():
            raise CaptureError(
                f"{call.op} at {self._source} has no functional form; write it without in-place operators"
            )
        op = getattr(packet, call.op._overloadname)
        if (indexed := self._indexed(op, call)) is not None:
            return indexed
        assert call.types[0] is not None
        if op is aten.copy.default:
            return self._copied(call)
        if op is aten.fill.Tensor and isinstance(call.args[1], Made) and call.args[1] in self._literals:
            number = self.number(self._literals[call.args[1]].first)
            return self.emit(aten.fill.Scalar, (self.value(call.args[0]), number))
        new = self.emit(op, tuple(self.value(a) for a in call.args), {k: self.value(v) for k, v in call.kwargs})
        return self.emit(aten._to_copy.default, (new,), {"dtype": getattr(torch, call.types[0].dtype)})

    def _copied(self, call: Call) -> Any:
        """What ``target.copy_(source)`` leaves in the target: the source, in the target's dtype and shape."""
        source, new = call.args[1], call.types[0]
        assert isinstance(source, TOKENS) and new is not None
        value = self.emit(aten._to_copy.default, (self.read(source),), {"dtype": getattr(torch, new.dtype)})
        if source in self._literals or self.shape(source) != new.shape:
            value = self.emit(aten.expand.default, (value, list(new.shape)))
        return value

    def _store(self, target: Token, value: Any) -> None:
        self._rooted(target)
        alias = self._aliases.get(target)
        self._literals.pop(alias.root if alias is not None else target, None)  # it is no longer what it was made as
        if alias is None:
            self._roots[target] = (value, self._roots[target][1] + 1)
            return
        root, version = self._roots[alias.root]
        below = [root]
        for view in alias.views[:-1]:
            below.append(self.emit(view.op, (below[-1], *view.args), view.kwargs))
        for view, under in zip(reversed(alias.views), reversed(below), strict=True):
            value = self._replace(view, under, value)
        self._roots[alias.root] = (value, version + 1)

    def _replace(self, view: View, under: Any, value: Any) -> Any:
        """``under`` with what ``view`` shows of it replaced by ``value``."""
        inverse = INVERSES.get(view.op)
        if inverse is None:
            raise CaptureError(
                f"a write through {view.op} at {self._source} is not captured; write into the tensor itself"
            )
        op, args = inverse(view, under, value)
        return self.emit(op, args) if op is not None else value

    # ------------------------------------------------------------------------------------------ literal indices

    def _indexed(self, op: Any, call: Call) -> Any | None:
        """``op`` whose index is a one-element literal, as the slicing that it is; None for any other call."""
        if op not in INDEXED:
            return None
        base = call.args[0]
        assert isinstance(base, TOKENS)
        shape = self.shape(base)
        dim, index = INDEXED[op](self.value, shape, call)
        literal = self._literals.get(index) if isinstance(index, Made) else None
        if literal is None or dim is None or torch.Size(literal.shape).numel() != 1 or literal.dtype == torch.bool:
            return None
        return self._sliced(op, call, base, dim, literal)

    def _sliced(self, op: Any, call: Call, base: Token, dim: int, literal: Literal) -> fx.Node:
        shape = self.shape(base)
        start = self.number(literal.first, lambda v: v % shape[dim])
        end = self.number(literal.first, lambda v: v % shape[dim] + 1)
        one = (*shape[:dim], 1, *shape[dim + 1 :])
        if op in (aten.index_select.default, aten.index.Tensor):
            select = (aten.select.int, (dim, start)) if not literal.shape else (aten.slice.Tensor, (dim, start, end))
            part = self.emit(select[0], (self.read(base), *select[1]))
            return self.emit(aten.clone.default, (part,), {"memory_format": torch.contiguous_format})
        source = self.value(call.args[3] if op is aten.index_copy.default else call.args[2])
        if op is aten.index_put.default and not literal.shape:
            source = self.emit(aten.expand.default, (source, [*shape[:dim], *shape[dim + 1 :]]))
            return self.emit(aten.select_scatter.default, (self.read(base), source, dim, start))
        source = self.emit(aten.expand.default, (source, list(one)))
        return self.emit(aten.slice_scatter.default, (self.read(base), source, dim, start, end))


def _key(token: Token) -> Key:
    """What a value stands for that no call computes: of the segment's own, it is one that is drawn."""
    return Drawn(token.call) if isinstance(token, Made) else token


def _constant(column: tuple[int | float, ...]) -> bool:
    first = exact_number(column[0])
    return all(exact_number(v) == first for v in column)

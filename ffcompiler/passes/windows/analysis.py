"""Which values a windowed sweep keeps, which it only passes on, and what it computes of each.

before:  ArrayLoop, `latest` of every shared value
after:   Layout (buffers, views of them, orders), and for any window the instructions that bring the buffers up to date

A value is *kept* (a buffer) when a consumer, or the tail, reads more of it than a window computes: the halo of a
convolution, a sum over a whole axis. A value that is read exactly where it is computed is *passing*. All elements of a
buffer with ``latest < settled`` are up to date before a sweep, those with ``latest < hi - 1`` after it; a passing value
is computed anew wherever it is read, so nothing stale can be read of it. Nothing here can make an answer wrong: what
windowed sweeps find is certified by evaluations of the whole (docs/exactness.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...graph import Node, Ref, TensorType
from ...ops import OPS, Numerics
from ...program import ArrayLoop
from ...proof import Latest
from ...windows import (
    ALIAS,
    LIVE,
    Box,
    Buffer,
    Footprint,
    Instruction,
    Layout,
    Orders,
    Part,
    Stage,
    WindowProgram,
    inside,
    parts_in,
    union,
    volume,
    whole,
)
from . import attention, convolutions, gathers, moves, norms, pools, products, rearranging, reductions
from .asked import Asked, Reads, WindowRule, aligned, evaluate_whole
from .extent import Extent, extent_of, only, scattered_order, sorted_runs

RULES: dict[str, WindowRule] = {
    **moves.TABLE,
    **rearranging.TABLE,
    **gathers.TABLE,
    **products.TABLE,
    **convolutions.TABLE,
    **pools.TABLE,
    **reductions.TABLE,
    **norms.TABLE,
    **attention.TABLE,
}
ALL_RESULTS = reductions.ALL_RESULTS | rearranging.ALL_RESULTS
"""Operators whose rules are for each of several results."""
STRIPS = 4
"""Up to this many sorted runs along an axis are computed one by one; more, in another order."""
_ELEMENTWISE = (Numerics.EXACT, Numerics.POINTWISE)


def rule_of(op: str) -> WindowRule:
    """How a window of the operator's result is computed."""
    if op in RULES:
        return RULES[op]
    return moves.elementwise if OPS[op].numerics in _ELEMENTWISE else evaluate_whole


def answer(asked: Asked) -> Reads:
    """The rule's answer; later results of an operator only of rules that are for all of them."""
    op = asked.node.op
    return evaluate_whole(asked) if asked.output and op not in ALL_RESULTS else rule_of(op)(asked)


def _may_reorder(op: str) -> bool:
    return op in products.ORDERED or rule_of(op) is moves.elementwise


@dataclass(slots=True)
class WindowAnalysis:
    """The windows of ``loop``; ``latest`` by value, several results one by one."""

    loop: ArrayLoop
    latest: Mapping[Ref, Latest]
    type_of: Callable[[Ref], TensorType]
    nonzero: Mapping[str, npt.NDArray[np.bool_]]  # where constants are not zero, as far as the proof rests on it
    layout: Layout = field(init=False)
    executors: dict[Any, Any] = field(init=False, default_factory=dict)
    _extents: dict[Ref, Extent] = field(init=False, default_factory=dict)
    _orders: dict[Ref, Orders] = field(init=False, default_factory=dict)
    _nodes: tuple[Node, ...] = field(init=False)  # those that windowed sweeps compute, last first
    _kept: set[Ref] = field(init=False)
    _strips: dict[Ref, tuple[Extent, ...]] = field(init=False, default_factory=dict)
    _taps: dict[Ref, Box] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        orders = self._scattered()
        for ref, latest in self.latest.items():
            axes = {axis: np.array(orders[order]) for axis, order in self._orders.get(ref, ())}
            self._extents[ref] = extent_of(latest, self.type_of(ref).shape, self.loop.blocks, axes)
        sorting = _Sorting(self)
        sorting.run()
        self._kept = sorting.kept
        self._cut_into_strips()
        self._nodes = tuple(n for n in reversed(self.loop.shared.nodes) if n.name not in sorting.views)
        buffers = [Buffer(ref, self.type_of(ref), sorting.margins_of(ref)) for ref in self.latest if ref in self._kept]
        views = tuple(n for n in self.loop.shared.nodes if n.name in sorting.views)
        self.layout = Layout(tuple(buffers), views, orders)

    def program(self, settled: int, hi: int, align: int = 1) -> WindowProgram:
        """What to compute when blocks before ``settled`` are unchanged and blocks up to ``hi`` are in play.

        Cut axes of products begin and end at multiples of ``align``.
        """
        wanted: dict[Ref, Box] = {}
        found: list[Instruction] = []
        for node in self._nodes:
            for ref in results_of(node):
                for box in self._boxes(ref, settled, hi, wanted):
                    if align > 1 and node.op in products.ALIGNED:
                        box = aligned(box, align, self.type_of(ref).shape)
                    before, instruction = self.instructions(node, ref, box)
                    found += [instruction, *reversed(before)]
                    for part in (part for each in (*before, instruction) for part in each.parts()):
                        if part.ref in self.latest and part.ref not in self._kept:
                            known = wanted.get(part.ref)
                            wanted[part.ref] = part.box if known is None else union(known, part.box)
        carry = Ref(self.loop.carry.name)
        boxes = self._boxes(carry, settled, hi, wanted)
        found += [Instruction(carry, box, (), ALIAS, (Part(LIVE, box),)) for box in boxes]
        return tuple(reversed(found))

    def footprint(self, settled: int, hi: int) -> Footprint:
        """What the program of a window amounts to."""
        nodes = {ref: node for node in self.loop.shared.nodes for ref in results_of(node)}
        stages = [
            Stage(i.ref, nodes[i.ref].op, nodes[i.ref].source, i.box, self.type_of(i.ref).shape, products.work(i))
            for i in self.program(settled, hi)
            if i.ref in nodes
        ]
        everything = [
            products.work(self.instructions(node, ref, whole(self.type_of(ref).shape))[1])
            for ref, node in nodes.items()
            if not ref.output
        ]
        return Footprint(settled, hi, tuple(stages), sum(s.work for s in stages) / max(sum(everything), 1))

    def _boxes(self, ref: Ref, settled: int, hi: int, wanted: Mapping[Ref, Box]) -> list[Box]:
        """What to compute of a value: what has changed of a kept one, what is read of a passing one."""
        if ref not in self._kept:
            return [wanted[ref]] if ref in wanted else []
        extents = self._strips.get(ref) or (self._extents[ref],)
        boxes = (extent.box(max(settled, 0), hi - 1) for extent in extents)
        return [box for box in boxes if box is not None]

    def changed(self, ref: Ref, settled: int, hi: int) -> Box | None:
        """The box of the elements that can have changed and can be read."""
        return self._extents[ref].box(max(settled, 0), hi - 1)

    def instructions(self, node: Node, ref: Ref, box: Box) -> tuple[WindowProgram, Instruction]:
        """How to compute ``box`` of a result of ``node``, and what to call before."""
        reads = self.reads(node, ref, box)
        pick = ref.output if reads.op is None else None
        op, orders = reads.op or node.op, self._orders.get(ref, ())
        return reads.before, Instruction(ref, reads.box, orders, op, reads.args, reads.kwargs, pick)

    def asked(self, node: Node, ref: Ref, box: Box) -> Asked:
        """The question for ``box`` of a result of ``node``."""
        return Asked(node, box, self._orders.get(ref, ()), self.type_of, self.taps, ref.output or 0)

    def reads(self, node: Node, ref: Ref, box: Box) -> Reads:
        return answer(self.asked(node, ref, box))

    def taps(self, kernel: Ref) -> Box:
        """The box of the entries of a kernel that are not zero; the whole kernel where that is not known."""
        if kernel not in self._taps:
            box = whole(self.type_of(kernel).shape)
            places = np.argwhere(self.nonzero[kernel.key]) if kernel.key in self.nonzero else np.zeros((0, 0))
            if len(places):
                ends = zip(places.min(axis=0), places.max(axis=0), strict=True)
                box = (*box[:2], *((int(a), int(b) + 1) for a, b in list(ends)[2:]))
            self._taps[kernel] = box
        return self._taps[kernel]

    def _cut_into_strips(self) -> None:
        """Compute kept values whose axis is a few sorted runs (several heads, say) run by run, in place.

        Not those that are made of passing values in another order: these would be needed in pieces.
        """
        nodes = {node.name: node for node in self.loop.shared.nodes}
        passing = {ref for ref in self._orders if ref not in self._kept}
        for ref in self._kept & set(self._orders):
            for axis, _ in self._orders[ref]:
                runs = sorted_runs(self.latest[ref].reshape(-1))
                if len(runs) <= STRIPS and passing.isdisjoint(nodes[ref.name].refs()):
                    shape = self.type_of(ref).shape
                    parts = (only(self.latest[ref], axis, run) for run in runs)
                    self._strips[ref] = tuple(extent_of(part, shape, self.loop.blocks, {}) for part in parts)
            if ref in self._strips:
                del self._orders[ref]

    def orders_of(self, ref: Ref) -> Orders:
        return self._orders.get(ref, ())

    def _scattered(self) -> tuple[tuple[int, ...], ...]:
        """The orders along axes on which `latest` is scattered; equal ones are one."""
        found: dict[bytes, int] = {}
        orders: list[npt.NDArray[np.intp]] = []
        for node in self.loop.shared.nodes:
            ref = Ref(node.name)
            if ref not in self.latest or not _may_reorder(node.op):
                continue
            scattered = scattered_order(self.latest[ref])
            if scattered is not None:
                axis, order = scattered
                key = order.tobytes()
                if key not in found:
                    found[key] = len(orders)
                    orders.append(order)
                self._orders[ref] = ((axis, found[key]),)
        return tuple(tuple(int(i) for i in order) for order in orders)


def results_of(node: Node) -> Iterable[Ref]:
    """References to the results of a node."""
    return (Ref(node.name),) if len(node.types) == 1 else (Ref(node.name, i) for i in range(len(node.types)))


@dataclass(slots=True)
class _Sorting:
    """Sorts values into kept, passing and views of kept ones, by what two typical windows need."""

    of: WindowAnalysis
    kept: set[Ref] = field(default_factory=set)
    views: set[str] = field(default_factory=set)
    forced: set[Ref] = field(default_factory=set)
    margins: dict[Ref, list[tuple[int, ...]]] = field(default_factory=dict)
    wanted: dict[tuple[Ref, int], Box] = field(default_factory=dict)

    def run(self) -> None:
        loop = self.of.loop
        carry = Ref(loop.carry.name)
        self.forced |= {r for r in self._tail_reads() if r in self.of.latest}
        self._margins(loop.shared.nodes)
        for node in reversed(loop.shared.nodes):
            refs = [ref for ref in results_of(node) if ref in self.of.latest]
            if self._follows(node, refs):
                self.views.add(node.name)
                base = node.args[0]
                assert isinstance(base, Ref)
                self.forced.add(base)
                continue
            for ref in refs:
                if self._must_be_kept(ref):
                    self.kept.add(ref)
                self._want(node, ref)
        if carry in self.of.latest and self._must_be_kept(carry):
            self.kept.add(carry)

    def margins_of(self, ref: Ref) -> tuple[int, ...]:
        rank = len(self.of.type_of(ref).shape)
        found = self.margins.get(ref, [])
        return tuple(max((m[d] for m in found), default=0) for d in range(rank))

    def _windows(self) -> Sequence[tuple[int, int]]:
        n = self.of.loop.blocks
        middle = max(min(n // 2, n - 2), 0)
        return [(middle, min(middle + 2, n)), (middle, min(middle + max(n // 8, 2), n))]

    def _tail_reads(self) -> set[Ref]:
        loop = self.of.loop
        own = {node.name for node in loop.shared.nodes}
        reads = {ref for node in loop.tail.nodes for ref in node.refs()} | set(loop.tail.outputs)
        return {ref for ref in reads if ref.name in own}

    def _margins(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node.op in convolutions.TABLE:
                asked = self.of.asked(node, Ref(node.name), whole(node.type.shape))
                state, margins = asked.ref(0), convolutions.margins(asked)
                if any(margins) and state in self.of.latest:
                    self.margins.setdefault(state, []).append(margins)

    def _follows(self, node: Node, refs: list[Ref]) -> bool:
        """Whether the node is best a view of a kept value: it must be kept itself, and needs no margins."""
        if node.op not in moves.VIEWS or len(refs) != 1 or self.margins.get(refs[0]):
            return False
        base = node.args[0]
        return isinstance(base, Ref) and base in self.of.latest and (base in self.forced or self._must_be_kept(refs[0]))

    def _must_be_kept(self, ref: Ref) -> bool:
        if ref in self.forced or self.margins.get(ref):
            return True
        for index, (settled, hi) in enumerate(self._windows()):
            wanted = self.wanted.get((ref, index))
            if wanted is None:
                continue
            own = self.of.changed(ref, settled, hi)
            if own is None or not (inside(wanted, own) or volume(wanted) <= volume(own)):
                return True
        return False

    def _want(self, node: Node, ref: Ref) -> None:
        """Note what the node reads of its operands in each typical window."""
        for index, (settled, hi) in enumerate(self._windows()):
            box = self.of.changed(ref, settled, hi) if ref in self.kept else self.wanted.get((ref, index))
            if box is None:
                continue
            reads = self.of.reads(node, ref, box)
            before = (part for call in reads.before for part in call.parts())
            for part in (*before, *parts_in(reads.args), *(p for _, v in reads.kwargs for p in parts_in(v))):
                self._note(part, index)

    def _note(self, part: Part, index: int) -> None:
        if part.ref not in self.of.latest:
            return
        if part.orders != self.of.orders_of(part.ref):
            self.forced.add(part.ref)
        known = self.wanted.get((part.ref, index))
        self.wanted[part.ref, index] = part.box if known is None else union(known, part.box)

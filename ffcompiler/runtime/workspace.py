"""The kept values of one run of windowed sweeps, and window programs bound to them.

Binding cuts every view of a kept value once, so that a sweep makes the operators' calls and little else. Operands that
are known only when a sweep runs stand in *slots*: what earlier instructions gave, values from before the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from ..graph import Arg, Ref
from ..windows import ALIAS, LIVE, Box, Buffer, Instruction, Layout, Part, WindowArg, WindowProgram, parts_in
from .graphs import OVERLOADS, argument

Env: TypeAlias = Mapping[str, Tensor]

PROGRAMS = 4096
"""Windows whose instructions are remembered."""

_DIRECT = {
    "aten.add.Tensor": torch.add,
    "aten.sub.Tensor": torch.sub,
    "aten.mul.Tensor": torch.mul,
    "aten.div.Tensor": torch.div,
    "aten.tanh.default": torch.tanh,
    "aten.sigmoid.default": torch.sigmoid,
    "aten.exp.default": torch.exp,
    "aten.log.default": torch.log,
    "aten.neg.default": torch.neg,
    "aten.addmm.default": torch.addmm,
    "aten.mm.default": torch.mm,
    "aten.bmm.default": torch.bmm,
}
"""The same operators with less work for each call; all of them can write into a given tensor."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place whose value is known when a sweep runs."""

    index: int


@dataclass(slots=True)
class Call:
    """One call; ``late`` arguments come from slots. The result goes into ``store``, or into slot ``to``."""

    function: Any
    args: list[Any]
    late: tuple[tuple[int, int], ...]
    kwargs: dict[str, Any]
    late_kwargs: tuple[tuple[str, int], ...] = ()
    to: int = 0
    pick: int | None = None
    store: Tensor | None = None
    index: Tensor | None = None  # entries of ``store`` along ``dim``
    dim: int = 0

    def run(self, values: list[Any]) -> None:
        args = self.args
        if self.late:
            args = args.copy()
            for position, slot in self.late:
                args[position] = values[slot]
        kwargs = self.kwargs
        if self.late_kwargs:
            kwargs = {**kwargs, **{key: values[slot] for key, slot in self.late_kwargs}}
        result = self.function(*args, **kwargs)
        if self.pick is not None:
            result = result[self.pick]
        if self.store is None:
            values[self.to] = result
        elif self.index is None:
            self.store.copy_(result)
        else:
            self.store.index_copy_(self.dim, self.index, result)


@dataclass(frozen=True, slots=True)
class Bound:
    """A window program in a workspace: the slots that need a part of a value from before the loop, and the calls."""

    constants: tuple[tuple[int, Part], ...]
    calls: tuple[Call, ...]


@dataclass(slots=True)
class Workspace:
    """The kept values of one run. ``inference``: made in inference mode, so usable only there."""

    layout: Layout
    device: torch.device
    orders: Sequence[Tensor]
    inference: bool
    kept: dict[str, Tensor] = field(init=False)  # buffers, and views of them
    _padded: dict[str, tuple[Tensor, tuple[int, ...]]] = field(init=False, default_factory=dict)
    _programs: dict[Any, Bound] = field(init=False, default_factory=dict)
    _env: Env = field(init=False, default_factory=dict)
    _values: list[Any] = field(init=False)  # by slot; the array itself is in slot 0
    _slots: dict[Any, int] = field(init=False)

    def __post_init__(self) -> None:
        self._values, self._slots = [None], {LIVE: 0}
        self.kept = {b.ref.key: self._allocate(b) for b in self.layout.buffers}
        for node in self.layout.views:
            base, *rest = node.args
            assert isinstance(base, Ref)
            found = OVERLOADS[node.op](self.kept[base.key], *[argument(a, self.device, {}) for a in rest])
            assert found.untyped_storage().data_ptr() == self.kept[base.key].untyped_storage().data_ptr(), str(node)
            self.kept[node.name] = found

    def begin(self, env: Env, values: Mapping[str, Tensor]) -> None:
        """Take over ``values`` of all buffers."""
        self._env = env
        for buffer in self.layout.buffers:
            self.kept[buffer.ref.key].copy_(values[buffer.ref.key])

    def forget(self) -> None:
        """Let go of what belongs to the run."""
        self._env = {}
        self._values = [None] * len(self._values)

    def bind(self, key: Any, program: Callable[[], WindowProgram]) -> Bound:
        """The calls of a window; ``key`` says which, so that it is bound once."""
        bound = self._programs.get(key)
        if bound is None:
            if len(self._programs) >= PROGRAMS:
                self._programs.clear()
            bound = self._programs[key] = _Binding(self).bind(program())
        return bound

    def run(self, bound: Bound, state: Tensor) -> None:
        """Make the calls of a window."""
        values = self._values
        values[0] = state
        for slot, part in bound.constants:
            if values[slot] is None:
                values[slot] = self._picked(self._env[part.ref.key], part)
        for call in bound.calls:
            call.run(values)

    def slot(self, key: Any) -> int:
        """The slot of that name."""
        if key not in self._slots:
            self._slots[key] = len(self._values)
            self._values.append(None)
        return self._slots[key]

    def kept_part(self, part: Part) -> Tensor:
        """A view of a kept value."""
        if part.ref.key in self._padded:
            padded, margins = self._padded[part.ref.key]
            return cut(padded, tuple((lo + m, hi + m) for (lo, hi), m in zip(part.box, margins, strict=True)))
        return cut(self.kept[part.ref.key], part.box)

    def order(self, box: Box, dim: int, order: int) -> Tensor:
        """The entries along ``dim`` that a box in another order stands for."""
        return self.orders[order][box[dim][0] : box[dim][1]]

    def _picked(self, t: Tensor, part: Part) -> Tensor:
        box = list(part.box)
        for dim, order in part.orders:
            t = rows(t, dim, self.order(part.box, dim, order))
            box[dim] = (0, t.shape[dim])
        return cut(t, tuple(box))

    def _allocate(self, buffer: Buffer) -> Tensor:
        """A buffer; with margins, the inner part of a larger one of zeros."""
        kind, dtype = buffer.type, getattr(torch, buffer.type.dtype)
        if not any(buffer.margins):
            if any(s == 0 and size > 1 for s, size in zip(kind.stride, kind.shape, strict=True)):  # expanded
                return torch.empty(kind.shape, dtype=dtype, device=self.device)
            return torch.empty_strided(kind.shape, kind.stride, dtype=dtype, device=self.device)
        sizes = [size + 2 * margin for size, margin in zip(kind.shape, buffer.margins, strict=True)]
        padded = torch.zeros(sizes, dtype=dtype, device=self.device)
        self._padded[buffer.ref.key] = padded, buffer.margins
        return cut(padded, tuple((m, m + size) for m, size in zip(buffer.margins, kind.shape, strict=True)))


class _Binding:
    """One window program on its way to calls."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.calls: list[Call] = []
        self.constants: dict[int, Part] = {}
        self.passing: dict[str, tuple[Any, Box]] = {}  # values that are not kept: a tensor or a slot, and their box

    def bind(self, program: WindowProgram) -> Bound:
        for instruction in program:
            self._instruction(instruction)
        return Bound(tuple(self.constants.items()), tuple(self.calls))

    def _instruction(self, instruction: Instruction) -> None:
        key = instruction.ref.key
        kept = self.workspace.kept.get(key)
        args = [self._operand(a) for a in instruction.args]
        if instruction.op == ALIAS and kept is None:
            self.passing[key] = args[0], instruction.box
            return
        named = {k: self._operand(a) for k, a in instruction.kwargs}
        call = self._call(instruction.op, args, named)
        call.pick = instruction.pick
        if kept is None:
            call.to = self.workspace.slot(key)
            self.passing[key] = Slot(call.to), instruction.box
        else:
            self._store(call, instruction, kept)
        self.calls.append(call)

    def _call(self, op: str, args: list[Any], named: Mapping[str, Any]) -> Call:
        return Call(
            _DIRECT.get(op) or OVERLOADS[op],
            [None if isinstance(a, Slot) else a for a in args],
            tuple((position, a.index) for position, a in enumerate(args) if isinstance(a, Slot)),
            {k: a for k, a in named.items() if not isinstance(a, Slot)},
            tuple((k, a.index) for k, a in named.items() if isinstance(a, Slot)),
        )

    def _store(self, call: Call, instruction: Instruction, kept: Tensor) -> None:
        """Let the result go to its part of a buffer, along one axis perhaps in another order."""
        box = instruction.box
        for dim, order in instruction.orders:
            call.store = cut(kept, (*box[:dim], (0, kept.shape[dim]), *box[dim + 1 :]))
            call.index, call.dim = self.workspace.order(box, dim, order), dim
            return
        store = cut(kept, box)
        if instruction.op in _DIRECT:
            call.kwargs = {**call.kwargs, "out": store}
            call.to = self.workspace.slot("unread")
        else:
            call.store = store

    def _operand(self, arg: WindowArg) -> Any:
        """An argument: its value if it is known now, else its slot."""
        if isinstance(arg, Part):
            return self._part(arg)
        if isinstance(arg, tuple) and any(True for _ in parts_in(arg)):
            inner = [self._operand(a) for a in arg]
            return self._through(_list, inner)
        return argument(cast(Arg, arg), self.workspace.device, {})

    def _part(self, part: Part) -> Any:
        key = part.ref.key
        if part.ref == LIVE:
            return self._cut(Slot(0), part.box, None)
        if key in self.passing:
            value, box = self.passing[key]
            return self._cut(value, part.box, box)
        if key in self.workspace.kept:
            if not part.orders:
                return self.workspace.kept_part(part)
            return self._gather(part)
        slot = self.workspace.slot(part)
        self.constants[slot] = part
        return Slot(slot)

    def _gather(self, part: Part) -> Any:
        ((dim, order),) = part.orders
        whole = (*part.box[:dim], (0, self.workspace.kept[part.ref.key].shape[dim]), *part.box[dim + 1 :])
        base = self.workspace.kept_part(Part(part.ref, whole))
        return self._through(torch.index_select, [base, dim, self.workspace.order(part.box, dim, order)])

    def _cut(self, value: Any, wanted: Box, computed: Box | None) -> Any:
        """The part of a value that holds the elements in ``computed`` (None: all) with those in ``wanted``."""
        for dim, (lo, hi) in enumerate(wanted):
            first, last = computed[dim] if computed is not None else (0, -1)
            if (lo, hi) != (first, last):
                value = self._through(torch.narrow, [value, dim, lo - first, hi - lo])
        return value

    def _through(self, function: Any, args: list[Any]) -> Any:
        """The result of one more call; made now if its arguments are known."""
        if not any(isinstance(a, Slot) for a in args):
            return function(*args) if function is torch.narrow else self._later(function, args)
        return self._later(function, args)

    def _later(self, function: Any, args: list[Any]) -> Slot:
        to = self.workspace.slot(("made", len(self.calls)))
        late = tuple((position, a.index) for position, a in enumerate(args) if isinstance(a, Slot))
        self.calls.append(Call(function, [None if isinstance(a, Slot) else a for a in args], late, {}, to=to))
        return Slot(to)


def _list(*items: Any) -> list[Any]:
    return list(items)


def rows(t: Tensor, dim: int, index: Tensor) -> Tensor:
    """Entries along ``dim``, in a tensor of the same memory order: whole rows are copied where ``dim`` counts rows."""
    outermost = max(range(t.dim()), key=t.stride)
    if dim != outermost or dim == 0:
        return t.index_select(dim, index)
    return t.transpose(0, dim).index_select(0, index).transpose(0, dim)


def cut(t: Tensor, box: Box) -> Tensor:
    """The elements in a box, as a view."""
    for dim, (lo, hi) in enumerate(box):
        assert 0 <= lo <= hi <= t.shape[dim], "a window reaches out of its tensor"
        if (lo, hi) != (0, t.shape[dim]):
            t = t.narrow(dim, lo, hi - lo)
    return t

"""The kept values of one run of windowed sweeps, and the window programs that are bound to them (`binding.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...graph import Ref
from ...windows import LIVE, Box, Buffer, Layout, Part
from ..graphs import OVERLOADS, argument
from ..watch import Watch, look
from .lowering import as_author_has_it, memory_order
from .scratch import Scratch

Env: TypeAlias = Mapping[str, Tensor]

PROGRAMS = 4096
"""Windows whose instructions are remembered."""

Step: TypeAlias = Callable[[], object]
"""A call with all of its operands."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A slot that holds a part of a value from before the loop, perhaps as ``change`` makes it; found once per run."""

    slot: int
    part: Part
    change: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """A window program in a workspace: the constants that it needs, and its calls."""

    constants: tuple[Constant, ...]
    steps: tuple[Step, ...]


@dataclass(slots=True)
class Workspace:
    """The kept values of one run. ``inference``: made in inference mode, so usable only there.

    Values in ``channels_last`` stand in memory as convolutions that became products want them (`lowering.py`).
    """

    layout: Layout
    device: torch.device
    orders: Sequence[Tensor]
    inference: bool
    channels_last: frozenset[str] = frozenset()
    scratch: Scratch = field(init=False)
    kept: dict[str, Tensor] = field(init=False)  # buffers, and views of them
    _padded: dict[str, tuple[Tensor, tuple[int, ...]]] = field(init=False, default_factory=dict)
    _programs: dict[Any, Bound] = field(init=False, default_factory=dict)
    _env: Env = field(init=False, default_factory=dict)
    _watch: Watch | None = field(init=False, default=None)  # of the sweep that is being made
    values: list[Any] = field(init=False)  # by slot, bound calls hold this very list; the array itself is in slot 0
    _slots: dict[Any, int] = field(init=False)

    def __post_init__(self) -> None:
        self.values, self._slots = [None], {LIVE: 0}
        self.scratch = Scratch(self.device)
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
        self._env, self._watch = {}, None
        self.values[:] = [None] * len(self.values)

    def bound(self, key: Any) -> bool:
        """Whether the calls of that window are there."""
        return key in self._programs

    def windows(self) -> list[Any]:
        """Those whose calls are there."""
        return list(self._programs)

    def bind(self, key: Any, program: Callable[[], Bound]) -> Bound:
        """The calls of a window; ``key`` says which, so that it is bound once."""
        bound = self._programs.get(key)
        if bound is None:
            if len(self._programs) >= PROGRAMS:
                self._programs.clear()
            bound = self._programs[key] = program()
        return bound

    def look(self) -> None:
        """A step between those of operators. Raises: `LeftError`."""
        look(self._watch)

    def run(self, bound: Bound, state: Tensor, watch: Watch | None = None) -> None:
        """Make the calls of a window. Raises: `LeftError`, and then some kept values are new and others old."""
        self._watch = watch
        values = self.values
        values[0] = state
        for constant in bound.constants:
            if values[constant.slot] is None:
                value = self._picked(self._env[constant.part.ref.key], constant.part)
                values[constant.slot] = value if constant.change is None else constant.change(value)
        for step in bound.steps:
            step()

    def slot(self, key: Any) -> int:
        """The slot of that name."""
        if key not in self._slots:
            self._slots[key] = len(self.values)
            self.values.append(None)
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
        channels_last = buffer.ref.key in self.channels_last
        if not any(buffer.margins) and not channels_last:
            if any(s == 0 and size > 1 for s, size in zip(kind.stride, kind.shape, strict=True)):  # expanded
                return torch.empty(kind.shape, dtype=dtype, device=self.device)
            return torch.empty_strided(kind.shape, kind.stride, dtype=dtype, device=self.device)
        sizes = [size + 2 * margin for size, margin in zip(kind.shape, buffer.margins, strict=True)]
        order = memory_order(len(sizes)) if channels_last else range(len(sizes))
        padded = torch.zeros([sizes[dim] for dim in order], dtype=dtype, device=self.device)
        padded = as_author_has_it(padded) if channels_last else padded
        self._padded[buffer.ref.key] = padded, buffer.margins
        return cut(padded, tuple((m, m + size) for m, size in zip(buffer.margins, kind.shape, strict=True)))


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

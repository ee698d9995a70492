"""Window programs bound to a workspace: every view is cut and every result has its place, once for all sweeps.

Operands that are known only when a run begins or a sweep runs stand in *slots*: values from before the loop, the array.
Everything else is bound: a kept value has its part of a buffer, one that is only passed on has scratch memory from the
instruction that makes it to the last one that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from ...graph import Arg
from ...windows import ALIAS, LIVE, Box, Instruction, Part, WindowArg, WindowProgram, parts_in
from ..direct import DIRECT, guess
from ..graphs import OVERLOADS, argument
from ..watch import Pace, Watch, look
from . import lowering
from .scratch import Lease
from .slots import Call, Slot, make_call
from .workspace import Bound, Constant, Step, Workspace, cut

_OWN = frozenset({*DIRECT, lowering.CONVOLUTION})
"""Operators whose result is never a view of an operand."""


def bind(workspace: Workspace, program: WindowProgram, watch: Watch | None = None) -> Bound:
    """The calls of a window program, for a workspace in a run, with looks between them. Raises: `LeftError`."""
    binding = _Binding(workspace, last_reads(program, frozenset(workspace.kept)))
    for index, instruction in enumerate(program):
        binding.instruction(index, instruction)
        look(watch)
    return Bound(tuple(binding.constants.values()), tuple(binding.steps))


def last_reads(program: WindowProgram, kept: frozenset[str]) -> Mapping[str, int]:
    """The last instruction that reads a value, or what may be a view of it."""
    last: dict[str, int] = {}
    for index in range(len(program) - 1, -1, -1):
        made = program[index]
        own = made.op in _OWN or made.ref.key in kept
        until = index if own else max(index, last.get(made.ref.key, index))
        for part in made.parts():
            last[part.ref.key] = max(until, last.get(part.ref.key, until))
    return last


@dataclass(slots=True)
class _Binding:
    """One window program on its way to calls."""

    workspace: Workspace
    last: Mapping[str, int]
    steps: list[Step] = field(default_factory=list)
    constants: dict[int, Constant] = field(default_factory=dict)
    passing: dict[str, tuple[Any, Box]] = field(default_factory=dict)  # not kept: a tensor or a slot, and their box
    pace: Pace = field(default_factory=Pace)
    lease: Lease = field(init=False)
    _dying: dict[int, list[int]] = field(default_factory=dict)  # by instruction: places that it is the last to need

    def __post_init__(self) -> None:
        self.lease = Lease(self.workspace.scratch)

    def instruction(self, index: int, made: Instruction) -> None:
        """Add the calls of the next instruction."""
        key = made.ref.key
        kept = self.workspace.kept.get(key)
        args = [self._operand(a) for a in made.args]
        if made.op == ALIAS and kept is None:
            self.passing[key] = args[0], made.box
        elif made.op == lowering.CONVOLUTION and self._is_product(made, args):
            self._product(index, made, args)
        else:
            self._call(index, made, args)
        for place in self._dying.pop(index, ()):
            self.lease.give_back(place)
        if self.pace.due(max(map(_elements, [made.box, *(part.box for part in made.parts())]))):
            self.steps.append(self.workspace.look)

    def _call(self, index: int, made: Instruction, args: list[Any]) -> None:
        kept = self.workspace.kept.get(made.ref.key)
        named = {k: self._operand(a) for k, a in made.kwargs}
        call = make_call(DIRECT.get(made.op) or OVERLOADS[made.op], args, named)
        call.pick = made.pick
        if kept is not None:
            self._store(call, made, kept)
        elif made.op in DIRECT and call.bound:
            like = call.function(*call.args, **call.kwargs)
            out = self._scratch(like.shape, like.stride(), like.dtype, self.last.get(made.ref.key, index))
            self.passing[made.ref.key] = out, made.box
            if self.workspace.channels_last and not call.kwargs:  # nothing here rounds as the whole does anyway
                call.function = guess(made.op, args)
            self._into(call, out)
        else:
            call.to = self.workspace.slot(made.ref.key)
            self.passing[made.ref.key] = Slot(call.to), made.box
            self._add(call)

    def _store(self, call: Call, made: Instruction, kept: Tensor) -> None:
        """Let the result go to its part of a buffer, along one axis perhaps in another order."""
        for dim, order in made.orders:
            call.store = cut(kept, (*made.box[:dim], (0, kept.shape[dim]), *made.box[dim + 1 :]))
            call.index, call.dim = self.workspace.order(made.box, dim, order), dim
            self._add(call)
            return
        store = cut(kept, made.box)
        if made.op in DIRECT:
            self._into(call, store)
        else:
            call.store = store
            self._add(call)

    def _into(self, call: Call, out: Tensor) -> None:
        call.kwargs = {**call.kwargs, "out": out}
        if call.bound:
            self.steps.append(partial(call.function, *call.args, **call.kwargs))
        else:
            call.to = self.workspace.slot("unread")
            self._add(call)

    def _add(self, call: Call) -> None:
        self.steps.append(partial(call.run, self.workspace.values))

    def _scratch(self, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype, until: int) -> Tensor:
        """Memory until an instruction has been made."""
        tensor, place = self.lease.take(shape, stride, dtype)
        self._dying.setdefault(until, []).append(place)
        return tensor

    # ------------------------------------------------------------------------------------------ convolutions

    def _is_product(self, made: Instruction, args: list[Any]) -> bool:
        """Whether a convolution is made a product: of an operand that is there, by a kernel from before the loop."""
        weight = made.args[1]
        if made.orders or made.pick is not None or not isinstance(weight, Part) or not isinstance(args[1], Slot):
            return False
        if args[1].index not in self.constants or not lowering.has_product(args[0], made):
            return False  # a kernel that depends on the state has no matrix made once per run
        return self._patches(made, args).numel() <= lowering.LARGEST

    def _patches(self, made: Instruction, args: list[Any]) -> Tensor:
        weight = made.args[1]
        assert isinstance(weight, Part)
        return lowering.patches(args[0], [hi - lo for lo, hi in weight.box[2:]], args[3], args[5])

    def _product(self, index: int, made: Instruction, args: list[Any]) -> None:
        """``out = bias + patches @ matrix``, with as few copies as the memory order allows."""
        weight = made.args[1]
        assert isinstance(weight, Part)
        channels = weight.box[0][1] - weight.box[0][0]
        view = self._patches(made, args)
        depth = view.shape[-1] * torch.Size(view.shape[len(made.box) - 1 : -1]).numel()
        left = lowering.rows_of(view, depth)
        if left is None:
            copy = self._contiguous(view.shape, view.dtype, index)
            self.steps.append(partial(copy.copy_, view))
            left = copy.view(-1, depth)
        kept = self.workspace.kept.get(made.ref.key)
        store = None if kept is None else lowering.in_memory_order(cut(kept, made.box))
        out = None if store is None else lowering.rows_of(store, channels)
        if out is None:
            until = index if store is not None else self.last.get(made.ref.key, index)
            result = self._contiguous((*view.shape[: len(made.box) - 1], channels), view.dtype, until)
            self._multiply(left, weight, args[2], result.view(-1, channels))
            if store is None:
                self.passing[made.ref.key] = lowering.as_author_has_it(result), made.box
            else:
                self.steps.append(partial(store.copy_, result))
        else:
            self._multiply(left, weight, args[2], out)

    def _multiply(self, left: Tensor, weight: Part, bias: Any, out: Tensor) -> None:
        right = self._constant(weight, lowering.matrix)
        call = (
            make_call(torch.mm, [left, right], {}) if bias is None else make_call(torch.addmm, [bias, left, right], {})
        )
        self._into(call, out)

    def _contiguous(self, shape: Sequence[int], dtype: torch.dtype, until: int) -> Tensor:
        return self._scratch(shape, torch.empty(shape, device="meta").stride(), dtype, until)

    # ------------------------------------------------------------------------------------------ operands

    def _operand(self, arg: WindowArg) -> Any:
        """An argument: its value if it is known now, else its slot."""
        if isinstance(arg, Part):
            return self._part(arg)
        if isinstance(arg, tuple) and any(True for _ in parts_in(arg)):
            inner = [self._operand(a) for a in arg]
            return self._later(_list, inner) if any(isinstance(a, Slot) for a in inner) else inner
        return argument(cast(Arg, arg), self.workspace.device, {})

    def _part(self, part: Part) -> Any:
        key = part.ref.key
        if part.ref == LIVE:
            return self._cut(Slot(0), part.box, None)
        if key in self.passing:
            value, box = self.passing[key]
            return self._cut(value, part.box, box)
        if key in self.workspace.kept:
            return self._gather(part) if part.orders else self.workspace.kept_part(part)
        return self._constant(part)

    def _constant(self, part: Part, change: Callable[[Tensor], Tensor] | None = None) -> Slot:
        """A part of a value from before the loop, picked and changed once per run."""
        slot = self.workspace.slot((part, change))
        self.constants[slot] = Constant(slot, part, change)
        return Slot(slot)

    def _gather(self, part: Part) -> Any:
        ((dim, order),) = part.orders
        whole = (*part.box[:dim], (0, self.workspace.kept[part.ref.key].shape[dim]), *part.box[dim + 1 :])
        base = self.workspace.kept_part(Part(part.ref, whole))
        return self._later(torch.index_select, [base, dim, self.workspace.order(part.box, dim, order)])

    def _cut(self, value: Any, wanted: Box, computed: Box | None) -> Any:
        """The part of a value that holds the elements in ``computed`` (None: all) with those in ``wanted``."""
        for dim, (lo, hi) in enumerate(wanted):
            first, last = computed[dim] if computed is not None else (0, -1)
            if (lo, hi) != (first, last):
                args = [value, dim, lo - first, hi - lo]
                value = self._later(torch.narrow, args) if isinstance(value, Slot) else torch.narrow(*args)
        return value

    def _later(self, function: Any, args: list[Any]) -> Slot:
        """The result of one more call."""
        to = self.workspace.slot(("made", len(self.steps)))
        call = make_call(function, args, {})
        call.to = to
        self._add(call)
        return Slot(to)


def _elements(box: Box) -> int:
    return prod(hi - lo for lo, hi in box)


def _list(*items: Any) -> list[Any]:
    return list(items)

"""What a window rule is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ...graph import Arg, Node, Ref, TensorType
from ...signatures import complete, parameters
from ...windows import Box, Instruction, Orders, Part, WindowArg, whole


@dataclass(frozen=True, slots=True)
class Asked:
    """Elements ``box`` of a result of ``node`` are wanted; along the axes in ``orders``, in another order."""

    node: Node
    box: Box
    orders: Orders
    type: Callable[[Ref], TensorType]
    taps: Callable[[Ref], Box]  # the part of a kernel that is not all zeros
    output: int = 0  # which result

    @property
    def args(self) -> tuple[Arg, ...]:
        return self.node.args

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        kind = self.node.types[self.output]
        assert kind is not None
        return kind.shape

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Shape of an operand."""
        return self.type(ref).shape

    def given(self) -> dict[str, Arg]:
        """Arguments by the names of the operator's schema, those that were left out too."""
        values = complete(self.node.op, self.args, dict(self.node.kwargs))
        return {name: value for (name, _), value in zip(parameters(self.node.op), values, strict=True)}

    def ref(self, position: int) -> Ref:
        """The argument at ``position``, which is a tensor."""
        found = self.args[position]
        assert isinstance(found, Ref)
        return found

    def arg(self, position: int, default: Arg = None) -> Arg:
        return self.args[position] if position < len(self.args) else default

    def broadcast(self, arg: Arg) -> WindowArg:
        """The part of an operand that broadcasting brings to the box; anything else as it is."""
        if isinstance(arg, tuple):
            return tuple(self.broadcast(a) for a in arg)
        if not isinstance(arg, Ref):
            return arg
        shape = self.shape(arg)
        lead = len(self.box) - len(shape)
        box = tuple((0, 1) if size == 1 else self.box[lead + dim] for dim, size in enumerate(shape))
        orders = tuple((dim - lead, o) for dim, o in self.orders if dim >= lead and shape[dim - lead] != 1)
        return Part(arg, box, orders)

    def all_of(self, arg: Arg) -> WindowArg:
        """The whole of an operand."""
        if isinstance(arg, tuple):
            return tuple(self.all_of(a) for a in arg)
        return Part(arg, whole(self.shape(arg))) if isinstance(arg, Ref) else arg

    def order_of(self, dim: int, to: int) -> Orders:
        """The order of result dimension ``dim``, as that of an operand's dimension ``to``."""
        return tuple((to, o) for d, o in self.orders if d == dim)


@dataclass(frozen=True, slots=True)
class Reads:
    """The call that gives elements ``box`` (at least those that were asked for).

    ``op`` where it is another operator, with one result. ``before``: calls whose results it reads, made for it alone.
    """

    box: Box
    args: tuple[WindowArg, ...]
    kwargs: tuple[tuple[str, WindowArg], ...] = ()
    op: str | None = None
    before: tuple[Instruction, ...] = ()


WindowRule: TypeAlias = Callable[[Asked], Reads]


def made(a: Asked, what: str, box: Box, op: str, args: tuple[WindowArg, ...], **kwargs: WindowArg) -> Instruction:
    """A call before the one that was asked for; ``what`` names its result."""
    return Instruction(Ref(f"{a.node.name}.{what}"), box, (), op, args, tuple(kwargs.items()))


def named(rule: WindowRule, names: str) -> dict[str, WindowRule]:
    """The same rule for some ATen operators."""
    return {f"aten.{name}": rule for name in names.split()}


def evaluate_whole(a: Asked) -> Reads:
    """The node as it is, whatever was asked for: for operators without a rule."""
    kwargs = tuple((key, a.all_of(arg)) for key, arg in a.node.kwargs)
    return Reads(whole(a.out_shape), tuple(a.all_of(arg) for arg in a.args), kwargs)


def aligned(box: Box, align: int, shape: tuple[int, ...]) -> Box:
    """``box`` with the last two axes, where they are cut, widened to multiples of ``align``."""
    sides = list(box)
    for dim in range(max(len(box) - 2, 0), len(box)):
        lo, hi = box[dim]
        if hi - lo < shape[dim]:
            hi = min(-(-hi // align) * align, shape[dim])
            sides[dim] = (max(min(lo // align * align, hi - align), 0), hi)
    return tuple(sides)


def widened(box: Box, dims: tuple[int, ...], shape: tuple[int, ...]) -> Box:
    """``box``, but whole along ``dims``."""
    return tuple((0, shape[d]) if d in dims else side for d, side in enumerate(box))

"""The draws of recorded segments: what a plan says of them, and drawing the same again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CaptureError
from ..graph import Graph, Node, Ref, TensorType, Value
from ..program import Draw, DrawPlace, PerStep
from ..randomness import fill, kept
from .draws import Drawing
from .facts import exact_number
from .record import Call, Number, Segment

MAX_STACK_BYTES = 2**31
"""Of what one call site draws in all steps together."""


def drawings(segment: Segment) -> Iterator[tuple[int, Call, Drawing]]:
    """The calls of a segment that draw, with their positions."""
    for position, call in enumerate(segment.calls):
        if isinstance(call.op, Drawing):
            yield position, call, call.op


def drawn_anew(segment: Segment) -> Iterator[Tensor]:
    """What the segment draws, drawn again from the generator as it is now."""
    for _, call, drawing in drawings(segment):
        (kind,) = call.types
        assert kind is not None
        out = torch.empty_strided(kind.shape, kind.stride, dtype=getattr(torch, kind.dtype), device=drawing.device)
        fill(drawing.op, out, [segment.numbers[n.index] for n in call.args if isinstance(n, Number)])
        yield out


@dataclass(slots=True)
class Noise:
    """The draws of a program that is being built, in order; and what its graphs read of them."""

    device: str
    draws: list[Draw] = field(default_factory=list)
    given: dict[int, dict[int, tuple[str, Tensor]]] = field(default_factory=dict)  # by id of segment, and call
    stacks: dict[str, PerStep] = field(default_factory=dict)  # by the name under which a step reads its part

    def add(self, segment: Segment, columns: Sequence[tuple[int | float, ...]], place: DrawPlace) -> None:
        """Declare what ``segment`` draws; ``columns``: for each of its numbers the values at all steps."""
        read = self.given[id(segment)] = {}
        with kept():
            for (position, call, drawing), sample in zip(drawings(segment), drawn_anew(segment), strict=True):
                node = self._node(call, drawing, columns, segment.sources[position])
                self.draws.append(Draw(place, node))
                name = node.name
                if place is DrawPlace.EACH:
                    name = f"n{node.name[1:]}"
                    self.stacks[name] = PerStep(Value(name, node.type), Ref(node.name))
                read[position] = name, sample

    def _node(self, call: Call, drawing: Drawing, columns: Sequence[tuple[int | float, ...]], source: str) -> Node:
        if drawing.device != self.device:
            raise CaptureError(
                f"{drawing} at {source} draws on {drawing.device} while the function's inputs are on {self.device}\n"
                "  draw on the device of the inputs"
            )
        numbers = []
        for number in call.args:
            assert isinstance(number, Number)
            column = columns[number.index]
            if any(exact_number(v) != exact_number(column[0]) for v in column):
                raise CaptureError(
                    f"{drawing} at {source} draws with numbers that differ from step to step ({column[0]!r}, then "
                    f"others)\n  draw with fixed ones, as torch.rand and torch.randn do, and scale what is drawn"
                )
            numbers.append(column[0])
        return Node(f"d{len(self.draws)}", drawing.op, tuple(numbers), (), call.types, source)

    def read_by(self, body: Graph, steps: int) -> tuple[PerStep, ...]:
        """What ``body`` is handed in each of so many steps. Raises `CaptureError` if that takes too much memory."""
        handed = tuple(self.stacks[value.name] for value in body.inputs if value.name in self.stacks)
        sources = {draw.name: draw.node.source for draw in self.draws}
        for each in handed:
            size = steps * bytes_of(each.value.type)
            if size > MAX_STACK_BYTES:
                raise CaptureError(
                    f"what is drawn at {sources[each.stack.name]} in {steps} steps takes {size / 2**30:.1f} GiB; it is "
                    f"drawn before the loop, and {MAX_STACK_BYTES / 2**30:.0f} GiB is the limit\n"
                    "  draw in each step only what the step uses"
                )
        return handed


def bytes_of(kind: TensorType) -> int:
    """Of one tensor."""
    return torch.Size(kind.shape).numel() * int(getattr(torch, kind.dtype).itemsize)

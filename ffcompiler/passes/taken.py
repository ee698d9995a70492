"""What the steps of a loop read in place of what they were handed: what the same step of an earlier loop makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..graph import Node, Ref, Symbol, SymbolKind, TensorType, contiguous
from ..ops import OPS, Numerics
from ..program import Loop
from .renamed import Renaming


class NotFusedError(Exception):
    """What the second of two loops reads of the first that is not what the same step has left."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What stands in place of values that the second loop has been handed; ``nodes``: those of its steps so far."""

    made: Mapping[str, Ref]  # by collected value: what the step of the first loop makes
    types: Mapping[str, TensorType]  # of values in that step
    readers: Sequence[Node]
    instead: dict[str, Ref] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def take(self, name: str, kind: TensorType, collected: str, source: str) -> None:
        """In place of ``name``, of type ``kind``, what was collected, in the same layout if that can be told apart."""
        ref = self.made[collected]
        now = self.types.get(ref.key)
        if now is None or (now.dtype, now.shape) != (kind.dtype, kind.shape):
            raise NotFusedError("a step of the second loop reads something else than a step of the first one leaves")
        if now == kind or (_is_row_major(kind) and _is_row_major(now) and not self._moved(name)):
            self.instead[name] = ref
        elif kind.stride == contiguous(kind.shape):
            layout = ("memory_format", Symbol(SymbolKind.MEMORY_FORMAT, "contiguous_format"))
            self.nodes.append(Node(name, "aten.clone.default", (ref,), (layout,), (kind,), source))
        else:
            raise NotFusedError("a step of the second loop reads in a layout that a step of the first one has not")

    def ref(self, ref: Ref) -> Ref:
        """What stands in its place."""
        return self.instead.get(ref.name, ref)

    def node(self, node: Node) -> Node:
        """The same, reading what stands in place of what it reads."""
        return Renaming(self.instead, 0).reading(node)

    def _moved(self, name: str) -> bool:
        """Whether a view of it is taken, whose layout depends on its own."""
        readers = (node for node in self.readers if any(ref.name == name for ref in node.refs()))
        return any(OPS[node.op].numerics is Numerics.MOVE for node in readers)


def _is_row_major(kind: TensorType) -> bool:
    """Whether later dimensions vary faster, with gaps or without: calls that compute give the same layout then."""
    strides = [stride for stride, length in zip(kind.stride, kind.shape, strict=True) if length > 1]
    return 0 not in strides and strides == sorted(strides, reverse=True)


def types_in(loop: Loop) -> dict[str, TensorType]:
    """Of the values in a step, by key."""
    found = {value.name: value.type for value in loop.body.inputs}
    for node in loop.body.nodes:
        several = len(node.types) > 1
        kinds = {Ref(node.name, i if several else None).key: kind for i, kind in enumerate(node.types)}
        found |= {key: kind for key, kind in kinds.items() if kind is not None}
    return found

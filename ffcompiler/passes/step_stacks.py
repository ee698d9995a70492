"""Where what the steps of a loop have left stands in values that are made of it: stacked, turned, put into arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..graph import Node, Ref, TensorType


@dataclass(frozen=True, slots=True)
class Stacked:
    """A value along whose dimension ``dim`` entry ``j`` is what step ``order[j]`` has left as ``of``."""

    of: str
    dim: int
    order: tuple[int | None, ...]

    def read_by(self, table: Sequence[int | float]) -> bool:
        """Whether step ``k``, reading entry ``table[k]``, reads what step ``k`` has left."""
        return all(-len(self.order) <= j < len(self.order) and self.order[int(j)] == k for k, j in enumerate(table))


def stacked_by(node: Node, known: Mapping[str, Stacked], types: Mapping[str, TensorType]) -> Stacked | None:
    """What a node makes of values that steps have left; None for all but moves of whole steps."""
    rank = 0 if node.types[0] is None else len(node.types[0].shape)
    of = [known.get(arg.name) if isinstance(arg, Ref) else None for arg in node.args]
    match node.op, of, node.args[1:]:
        case "aten.clone.default", [Stacked() as was, *_], _:
            return was
        case "aten.permute.default", [Stacked() as was, *_], [tuple() as dims]:
            return replace(was, dim=[int(str(d)) % rank for d in dims].index(was.dim))
        case "aten.transpose.int", [Stacked() as was, *_], [int() as a, int() as b]:
            return replace(was, dim={a % rank: b % rank, b % rank: a % rank}.get(was.dim, was.dim))
        case "aten.flip.default", [Stacked() as was, *_], [(int() as d,)] if d % rank == was.dim:
            return replace(was, order=was.order[::-1])
        case "aten.slice_scatter.default", [_, Stacked() as was, *_], [_, int(d), int(lo), int(hi), *by]:
            return _put(was, node, d % rank, range(lo, hi, *map(int, map(str, by))), types[was.of])
    return _joined(node, known, types) if node.op == "aten.cat.default" else None


def _put(was: Stacked, node: Node, dim: int, places: range, left: TensorType) -> Stacked | None:
    """Steps that are put into some places of an array."""
    kind = node.types[0]
    if kind is None or kind.dtype != left.dtype or was.dim != dim or len(places) != len(was.order):
        return None
    order: list[int | None] = [None] * kind.shape[dim]
    for place, step in zip(places, was.order, strict=True):
        order[place] = step
    return replace(was, order=tuple(order))


def _joined(node: Node, known: Mapping[str, Stacked], types: Mapping[str, TensorType]) -> Stacked | None:
    """Steps with something before or after them, such as the first state."""
    parts, dim = node.args[0], node.args[1] if len(node.args) > 1 else 0
    refs = [part for part in parts if isinstance(part, Ref)] if isinstance(parts, tuple) else []
    stacks = [known[ref.name] for ref in refs if ref.name in known]
    if len(stacks) != 1 or not isinstance(dim, int) or not all(ref.name in types for ref in refs):
        return None
    (was,) = stacks
    kind = node.types[0]
    if kind is None or kind.dtype != types[was.of].dtype or dim % len(kind.shape) != was.dim:
        return None
    order: list[int | None] = []
    for ref in refs:
        order += was.order if ref.name in known else [None] * types[ref.name].shape[was.dim]
    return replace(was, order=tuple(order))

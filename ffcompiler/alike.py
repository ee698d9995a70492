"""Blocks of a chain that are alike in all but the values they read, so that one call can compute them. No torch.

Alike are blocks of the same operators on the same shapes and layouts with the same numbers. (Those of one *family* may
differ in shapes and numbers.) What such a block reads from outside has a place among its *reads*, in the order in which
its operators read it; what stands in a place differs from block to block, or is the same for all.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .graph import Arg, Graph, Node, Ref, TensorType, Value

LEAST = 2
"""So many blocks are computed together at least."""


def alike(blocks: Sequence[Graph]) -> tuple[tuple[int, ...], ...]:
    """The blocks that are alike, by number, ascending; as far as there are at least `LEAST` of a kind."""
    types, found = _types(blocks), dict[Hashable, list[int]]()
    for k, block in enumerate(blocks):
        if (form := _form(block, types)) is not None:
            found.setdefault(form, []).append(k)
    return tuple(tuple(numbers) for numbers in found.values() if len(numbers) >= LEAST)


@dataclass(frozen=True, slots=True)
class Shared:
    """Blocks that are alike as one graph: that of the first, which reads ``places`` in place of what each block reads.

    ``columns``: for each place the keys of what stands there, by block.
    """

    graph: Graph
    places: tuple[Value, ...]
    columns: tuple[tuple[str, ...], ...]


def as_one(blocks: Sequence[Graph], numbers: Iterable[int]) -> Shared:
    """The blocks of these numbers, which are alike."""
    types, own = _types(blocks), [blocks[k] for k in numbers]
    first = list(_reads(own[0]))
    prefix = "_" * (1 + max((len(node.name) for node in own[0].nodes), default=0))  # like no name of the block's own
    places = tuple(Value(f"{prefix}{i}", types[ref]) for i, ref in enumerate(first))
    named = dict(zip(first, (Ref(place.name) for place in places), strict=True))
    nodes = tuple(
        replace(
            node,
            args=tuple(_renamed(arg, named) for arg in node.args),
            kwargs=tuple((key, _renamed(arg, named)) for key, arg in node.kwargs),
        )
        for node in own[0].nodes
    )
    columns = tuple(tuple(ref.key for ref in column) for column in zip(*map(_reads, own), strict=True))
    return Shared(Graph(places, nodes, own[0].outputs), places, columns)


def _renamed(arg: Arg, named: Mapping[Ref, Ref]) -> Arg:
    if isinstance(arg, tuple):
        return tuple(_renamed(part, named) for part in arg)
    return named.get(arg, arg) if isinstance(arg, Ref) else arg


def _types(blocks: Sequence[Graph]) -> dict[Ref, TensorType]:
    """Of all that blocks read and make. What several results have in common is not known of those made before."""
    found = {Ref(value.name): value.type for block in blocks for value in block.inputs}
    for node in (node for block in blocks for node in block.nodes):
        several = len(node.types) > 1
        found |= {Ref(node.name, i if several else None): kind for i, kind in enumerate(node.types) if kind is not None}
    return found


def _reads(block: Graph) -> dict[Ref, None]:
    """What a block reads from outside, in order, each once."""
    own = {node.name for node in block.nodes}
    return {ref: None for node in block.nodes for ref in node.refs() if ref.name not in own}


def _form(block: Graph, types: Mapping[Ref, TensorType]) -> Hashable | None:
    """The same for blocks that are alike; None where the type of something that it reads is not known."""
    own = {node.name: at for at, node in enumerate(block.nodes)}
    reads = {ref: place for place, ref in enumerate(_reads(block))}
    if not all(ref in types for ref in reads):
        return None
    nodes = tuple(_form_of(node, own, reads) for node in block.nodes)
    return nodes, tuple((own[ref.name], ref.output) for ref in block.outputs), tuple(types[ref] for ref in reads)


def _form_of(node: Node, own: Mapping[str, int], reads: Mapping[Ref, int]) -> Hashable:
    args = tuple(_form_of_arg(arg, own, reads) for arg in node.args)
    return node.op, args, tuple((key, _form_of_arg(arg, own, reads)) for key, arg in node.kwargs), node.types


def _form_of_arg(arg: Arg, own: Mapping[str, int], reads: Mapping[Ref, int]) -> Hashable:
    match arg:
        case Ref(name=name, output=output):
            return ("own", own[name], output) if name in own else ("read", reads[arg])
        case tuple():
            return tuple(_form_of_arg(part, own, reads) for part in arg)
    return type(arg).__name__, repr(arg)  # 1, 1.0 and True are not alike, nor are 0.0 and -0.0

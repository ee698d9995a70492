"""Rules for calls that move elements: views, parts, joins. See `rules.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from .case import Case, Read, Rule
from .facts import EXACT, Dim, Fact, Factor, Grown, Hidden, Sizes, dim_of, regrouped
from .steps import BODY_TOKENS, BodyToken, NotPaddedError


class ShiftedError(NotPaddedError):
    """From step ``first`` on steps read a part that begins elsewhere than that of the steps before."""

    def __init__(self, why: str, first: int) -> None:
        super().__init__(why)
        self.first = first


def view(case: Case) -> Fact:
    found = regrouped(case.of("self"), case.out_shapes())
    if found is None:
        raise case.refused("cuts or mixes the axis that grows")
    return found


def expand(case: Case) -> Fact:
    fact, shapes = case.of("self"), case.out_shapes()
    new = [dim_of(sizes) for sizes in zip(*shapes, strict=True)]
    own = (*((),) * (len(new) - len(fact.dims)), *fact.dims)
    dims = [dim or added for dim, added in zip(own, new, strict=True)]
    return case.result(dims, _shifted(fact.hidden, len(new) - len(fact.dims)))


def _shifted(hidden: Hidden | None, by: int) -> Hidden | None:
    return None if hidden is None else replace(hidden, row=hidden.row + by, column=hidden.column + by)


def _reordered(case: Case, order: list[int]) -> Fact:
    """Axis ``order[i]`` becomes axis ``i``."""
    fact = case.of("self")
    hidden = fact.hidden
    if hidden is not None:
        hidden = replace(hidden, row=order.index(hidden.row), column=order.index(hidden.column))
    return case.result([fact.dims[dim] for dim in order], hidden)


def permute(case: Case) -> Fact:
    rank = case.rank()
    return _reordered(case, [dim % rank for dim in case.constant("dims")])


def transpose(case: Case) -> Fact:
    rank = case.rank()
    order = list(range(rank))
    if rank:
        a, b = (case.constant(name) % rank for name in ("dim0", "dim1"))
        order[a], order[b] = b, a
    return _reordered(case, order)


def t(case: Case) -> Fact:
    return _reordered(case, list(reversed(range(case.rank()))))


def unsqueeze(case: Case) -> Fact:
    fact, dim = case.of("self"), case.constant("dim") % case.rank()
    hidden = fact.hidden
    if hidden is not None:
        row, column = (axis + (axis >= dim) for axis in (hidden.row, hidden.column))
        hidden = replace(hidden, row=row, column=column)
    return case.result([*fact.dims[:dim], (), *fact.dims[dim:]], hidden)


def squeeze(case: Case) -> Fact:
    """Axes of one entry go; an axis that grows stays, also where a step has one entry along it: refused there."""
    found = regrouped(case.of("self"), case.out_shapes())
    if found is None:
        raise case.refused("drops the axis that grows in some steps")
    return found


# ---------------------------------------------------------------------------------------------------- parts


def select(case: Case) -> Fact:
    fact = case.of("self")
    dim = case.constant("dim") % len(fact.dims)
    rest = [*fact.dims[:dim], *fact.dims[dim + 1 :]]
    if not fact.grows(dim):
        case.constant("index")
        return case.result(rest)
    factor = _axis(case, fact, dim)
    starts = _places(case.column("index", 0), factor.sizes)
    return _read(case, dim, factor, starts, None, rest)


def slice_(case: Case) -> Fact:
    fact = case.of("self")
    dim = case.constant("dim") % len(fact.dims)
    whole = tuple(shape[dim] for shape in case.shapes(case.token("self")))
    starts = _places(case.column("start", 0), whole)
    ends = _places(tuple(min(end, 2**62) for end in case.column("end", 2**62)), whole)
    step = case.constant("step")
    own = tuple(shape[dim] for shape in case.out_shapes())
    if not fact.grows(dim):
        same = len(set(starts)) == 1
        if not same or (len(set(ends)) != 1 and step != 1):
            raise _shifts(case, starts)
        new = replace_at(fact.dims, dim, dim_of(own))
        return case.result(new, _of_part(fact.hidden, dim))
    factor = _axis(case, fact, dim)
    if step != 1:
        raise case.refused("takes every other entry of the axis that grows")
    if len(set(own)) == 1 and (len(set(starts)) > 1 or max(ends) <= min(factor.sizes)):
        rest = replace_at(fact.dims, dim, dim_of(own))
        return _read(case, dim, factor, starts, own[0], rest)
    if len(set(starts)) > 1:
        raise _shifts(case, starts)
    left = {size - end for size, end in zip(factor.sizes, ends, strict=True)}
    if len(left) != 1:
        raise case.refused("takes other parts of the axis that grows in some steps")
    kept = Factor(own, max(0, factor.short - left.pop()))
    hidden = fact.hidden if own == factor.sizes else _of_part(fact.hidden, dim)
    return case.result(replace_at(fact.dims, dim, (kept,)), hidden)


def _of_part(hidden: Hidden | None, dim: int) -> Hidden | None:
    return hidden if hidden is not None and dim not in (hidden.row, hidden.column) else None


def _shifts(case: Case, starts: Sizes) -> ShiftedError:
    first = next((k for k, start in enumerate(starts) if start != starts[0]), 0)
    return ShiftedError(
        f"{case.call.op} at {case.call.source} takes a part that moves on: steps from {first} on see a shifted window, "
        "so that what a step computes is not the beginning of what a later one does",
        first,
    )


def replace_at(dims: tuple[Dim, ...], at: int, dim: Dim) -> tuple[Dim, ...]:
    return (*dims[:at], dim, *dims[at + 1 :])


def _places(given: Sizes, sizes: Sizes) -> Sizes:
    """Indices counted from the front."""
    return tuple(min(max(i + size if i < 0 else i, 0), size) for i, size in zip(given, sizes, strict=True))


def _axis(case: Case, fact: Grown, dim: int) -> Factor:
    factor = fact.alone(dim)
    if factor is None:
        raise case.refused("takes a part of an axis that the one that grows was merged into")
    return factor


def _read(
    case: Case,
    dim: int,
    factor: Factor,
    starts: Sizes,
    length: int | None,
    rest: Sequence[Dim],
    copied: bool = False,
) -> Fact:
    """A part of one size: what stands there in the padded value, too."""
    for start, size in zip(starts, factor.sizes, strict=True):
        if start + (length or 1) > size - factor.short:
            raise case.refused("reads the end of an array whose end depends on how long it is (padding)")
    case.action = Read(case.token("self"), dim, starts, length, copied)
    if any(part.grows for d in rest for part in d):
        return case.result(rest)
    return EXACT


def index(case: Case) -> Fact:
    """``x[:, [-1]]``; a table that is read at indices that grow."""
    fact, indices = case.of("self"), case.given["indices"]
    used = [(dim, i) for dim, i in enumerate(indices) if i is not None]
    if len(used) != 1:
        raise case.refused("is read at several indices at once")
    ((dim, at),) = used
    if not isinstance(at, BODY_TOKENS):
        raise case.refused("is read at an index that is no tensor")
    if fact.grows(dim):
        factor = _axis(case, fact, dim)
        starts = _places(_literal(case, at), factor.sizes)
        rest = replace_at(fact.dims, dim, ())
        return _read(case, dim, factor, starts, 1, rest, copied=True)
    return case.result([*fact.dims[:dim], *case.fact(at).dims, *fact.dims[dim + 1 :]])


def _literal(case: Case, at: BodyToken) -> Sizes:
    """The only entry of an index that is written out, for each step."""
    value = case.written_out(at)
    if value is None or value.shape != (1,) or value.dtype.is_floating_point or value.dtype == torch.bool:
        raise case.refused("takes entries of the axis that grows by an index that is computed, or several")
    return tuple(int(place) for place in value.elements[0].values)


def embedding(case: Case) -> Fact:
    table, at = case.of("weight"), case.of("indices")
    case.fixed(table, 0, "looks things up along")
    return case.result([*at.dims, *table.dims[1:]])


def split(case: Case) -> tuple[Fact, ...]:
    fact = case.of("self")
    dim = case.constant("dim") % len(fact.dims)
    case.fixed(fact, dim, "splits")
    case.require_constants()
    kept = range(len(case.call.shapes))
    return tuple(case.result(replace_at(fact.dims, dim, _size(case, dim, o)), output=o) for o in kept)


def _size(case: Case, dim: int, output: int) -> Dim:
    return dim_of(tuple(shape[dim] for shape in case.out_shapes(output)))


def unbind(case: Case) -> tuple[Fact, ...]:
    fact = case.of("self")
    dim = case.constant("dim") % len(fact.dims)
    case.fixed(fact, dim, "takes apart")
    rest = [*fact.dims[:dim], *fact.dims[dim + 1 :]]
    return tuple(case.result(rest, output=o) for o in range(len(case.call.shapes)))


# ---------------------------------------------------------------------------------------------------- joins


def cat(case: Case) -> Fact:
    """Along another axis than the one that grows; or something of one size before it."""
    facts = [case.fact(token) for token in case.tokens("tensors")]
    dim = case.constant("dim") % case.rank()
    dims = []
    for axis in range(case.rank()):
        if axis == dim:
            dims.append(_joined(case, facts, dim))
            continue
        grown = {fact.dims[axis] for fact in facts if fact.grows(axis)}
        dims.append(_same(case, grown) if grown else facts[0].dims[axis])
    return case.result(dims)


def _joined(case: Case, facts: list[Grown], dim: int) -> Dim:
    sizes = tuple(shape[dim] for shape in case.out_shapes())
    if not any(fact.grows(dim) for fact in facts):
        return dim_of(sizes)
    if any(fact.grows(dim) for fact in facts[:-1]):
        raise case.refused("puts something behind an array that grows, which is not the loop's own")
    return (Factor(sizes, _axis(case, facts[-1], dim).short),)


def _same(case: Case, dims: set[Dim]) -> Dim:
    """One axis for several that are to be alike."""
    longest = {tuple(factor.sizes for factor in dim) for dim in dims}
    if len(longest) != 1:
        raise case.refused("joins axes that grow in other ways")
    return max(dims, key=lambda dim: [factor.short for factor in dim])


def stack(case: Case) -> Fact:
    facts = [case.fact(token) for token in case.tokens("tensors")]
    dim = case.constant("dim") % case.rank()
    dims = []
    for axis in range(case.rank() - 1):
        grown = {fact.dims[axis] for fact in facts if fact.grows(axis)}
        dims.append(_same(case, grown) if grown else facts[0].dims[axis])
    return case.result([*dims[:dim], dim_of((len(facts),) * case.steps), *dims[dim:]])


def pad(case: Case) -> Fact:
    """What is put before leaves a beginning; what is put behind is not there in the padded value."""
    fact, amounts = case.of("self"), case.constant("pad")
    case.constant("value")
    dims = list(fact.dims)
    for i, dim in enumerate(range(len(dims) - 1, len(dims) - 1 - len(amounts) // 2, -1)):
        behind, sizes = amounts[2 * i + 1], tuple(shape[dim] for shape in case.out_shapes())
        if fact.grows(dim):
            dims[dim] = (Factor(sizes, max(0, _axis(case, fact, dim).short + behind)),)
        else:
            dims[dim] = dim_of(sizes)
    return case.result(dims)


MOVES: Mapping[str, Rule] = {
    "aten.view.default": view,
    "aten._unsafe_view.default": view,
    "aten.reshape.default": view,
    "aten.expand.default": expand,
    "aten.permute.default": permute,
    "aten.transpose.int": transpose,
    "aten.t.default": t,
    "aten.unsqueeze.default": unsqueeze,
    "aten.squeeze.default": squeeze,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.select.int": select,
    "aten.slice.Tensor": slice_,
    "aten.index.Tensor": index,
    "aten.embedding.default": embedding,
    "aten.split.Tensor": split,
    "aten.split_with_sizes.default": split,
    "aten.unbind.int": unbind,
    "aten.cat.default": cat,
    "aten.stack.default": stack,
    "aten.constant_pad_nd.default": pad,
}

"""What is known of a value that grows from step to step: along which axes the step's own value begins the padded one.

In step ``k`` the function computes a value at its own length, the padded program the same value at the length of the
last step. The value *grows* if the former is the beginning of the latter, along every axis whose size differs. An axis
may be one that several were merged to: it is then a product of *factors*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

Sizes: TypeAlias = tuple[int, ...]
"""One size for each step."""


@dataclass(frozen=True, slots=True)
class Factor:
    """An axis, or one of those that an axis was merged from. ``short``: so many of its last entries may be others."""

    sizes: Sizes
    short: int = 0

    @property
    def grows(self) -> bool:
        return any(size != self.sizes[0] for size in self.sizes)


Dim: TypeAlias = tuple[Factor, ...]
"""The factors of an axis, outermost first; none: it has one entry."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Entries whose place along axis ``column`` is after that along ``row``: zeros, or far below all others."""

    row: int
    column: int
    zero: bool


@dataclass(frozen=True, slots=True)
class Grown:
    """The value at a step's own length is the beginning of the padded one, along the axes that grow."""

    dims: tuple[Dim, ...]
    hidden: Hidden | None = None

    def grows(self, dim: int) -> bool:
        """Whether an axis has another size in some steps than in others."""
        return any(factor.grows for factor in self.dims[dim])

    def alone(self, dim: int) -> Factor | None:
        """The only factor of an axis that grows, if it has no other."""
        return self.dims[dim][0] if len(self.dims[dim]) == 1 and self.grows(dim) else None

    def square(self, row: int, column: int) -> bool:
        """Whether two axes grow alike, all of whose entries are the same."""
        a, b = self.alone(row), self.alone(column)
        return a is not None and a == b and not a.short


class Exact:
    """The value of a step is the one of the padded program, which computes it for this step alone."""


EXACT = Exact()
Fact: TypeAlias = "Grown | Exact | None"
"""None: nothing is known, so the value must not be read."""


def dim_of(sizes: Sizes) -> Dim:
    """An axis of these sizes that was not merged."""
    return () if all(size == 1 for size in sizes) else (Factor(sizes),)


def dims_of(shapes: Sequence[Sequence[int]]) -> tuple[Dim, ...]:
    """The axes of a value with these shapes, one for each step."""
    return tuple(dim_of(sizes) for sizes in zip(*shapes, strict=True))


def fits(dims: Sequence[Dim], shapes: Sequence[Sequence[int]]) -> bool:
    """Whether these are the axes of a value with these shapes."""
    return all(
        len(shape) == len(dims) and all(_product(dim, k) == size for dim, size in zip(dims, shape, strict=True))
        for k, shape in enumerate(shapes)
    )


def _product(dim: Dim, step: int) -> int:
    size = 1
    for factor in dim:
        size *= factor.sizes[step]
    return size


def regrouped(fact: Grown, shapes: Sequence[Sequence[int]]) -> Grown | None:
    """``fact`` for the same elements in other shapes; None if that cuts an axis that grows."""
    flat = [(factor, dim) for dim, factors in enumerate(fact.dims) for factor in factors]
    dims: list[Dim] = []
    origins: list[list[int]] = []
    for sizes in zip(*shapes, strict=True):
        taken = _taken(flat, sizes)
        if taken is None:
            return None
        dims.append(tuple(factor for factor, _ in taken))
        origins.append([origin for _, origin in taken])
    return None if flat else Grown(tuple(dims), _moved(fact, dims, origins))


def _taken(flat: list[tuple[Factor, int]], sizes: Sizes) -> list[tuple[Factor, int]] | None:
    """The first factors of ``flat``, taken from it, that make an axis of these sizes."""
    taken: list[tuple[Factor, int]] = []
    while any(size != 1 for size in sizes):
        if not flat:
            return None
        factor, origin = flat.pop(0)
        if 0 in factor.sizes:
            return None
        if all(size % own == 0 for size, own in zip(sizes, factor.sizes, strict=True)):
            taken.append((factor, origin))
            sizes = tuple(size // own for size, own in zip(sizes, factor.sizes, strict=True))
            continue
        part, whole = sizes[0], factor.sizes[0]
        if factor.grows or any(size != part for size in sizes) or whole % part:
            return None
        taken.append((Factor(sizes), origin))
        flat.insert(0, (Factor(tuple(own // part for own in factor.sizes)), origin))
        break
    return taken


def _moved(fact: Grown, dims: Sequence[Dim], origins: Sequence[Sequence[int]]) -> Hidden | None:
    """What is hidden, along the axes that the old ones have become."""
    if fact.hidden is None:
        return None
    found = []
    for axis in (fact.hidden.row, fact.hidden.column):
        whole = [i for i, dim in enumerate(dims) if list(origins[i]) == [axis] and dim == fact.dims[axis]]
        if len(whole) != 1:
            return None
        found.append(whole[0])
    return replace(fact.hidden, row=found[0], column=found[1])

"""Graphs of ATen calls as values: frozen, functional, free of torch.

A node calls one ATen operator. An argument is a number, string or None, a reference to an earlier value, a constant
that differs from step to step (`Step`), a torch constant (`Symbol`), or a tuple of those.

Values print as lines of Python, which `ffcompiler.written.text.parse` reads back:

    b3: float32[100, 512] = aten.addmm.default(w1, c0, b2)  # made.py:31 in forward
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from .written.layout import INDENT, comment, filled

RESERVED = frozenset({*keyword.kwlist, "step", "inf", "nan"})  # no value may have one of these names


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor of this shape, as torch counts them."""
    strides: list[int] = []
    size = 1
    for length in reversed(shape):
        strides.append(size)
        size *= max(length, 1)
    return tuple(reversed(strides))


@dataclass(frozen=True, slots=True)
class TensorType:
    """dtype (``float32``), shape and strides in elements; strides are part of what decides bits."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __str__(self) -> str:
        """``float32[100, 512]``, with `` @ (1568, 1)`` when the strides are not the contiguous ones."""
        shape = ", ".join(map(str, self.shape)) or "()"
        return f"{self.dtype}[{shape}]" + ("" if self.stride == contiguous(self.shape) else f" @ {self.stride}")


@dataclass(frozen=True, slots=True)
class Ref:
    """A value by name; ``output`` picks one result of a node that has several."""

    name: str
    output: int | None = None

    @property
    def key(self) -> str:
        """Its name in an environment, where each result of a node that has several stands by itself: ``b3.0``."""
        return self.name if self.output is None else f"{self.name}.{self.output}"

    @staticmethod
    def of(key: str) -> Ref:
        """The value that stands under ``key`` in an environment."""
        name, _, output = key.partition(".")
        return Ref(name, int(output) if output else None)

    def __str__(self) -> str:
        return self.name if self.output is None else f"{self.name}[{self.output}]"


@dataclass(frozen=True, slots=True)
class Step:
    """A constant that differs from step to step: entry ``k`` of the loop's table at the loop's ``k``-th step."""

    table: int

    def __str__(self) -> str:
        return f"step[{self.table}]"


class SymbolKind(Enum):
    DTYPE = "dtype"
    DEVICE = "device"  # the only name is "run": the device of the run, whichever that is
    LAYOUT = "layout"
    MEMORY_FORMAT = "memory_format"


@dataclass(frozen=True, slots=True)
class Symbol:
    """A torch constant that is not a number: dtype, device, layout, memory format."""

    kind: SymbolKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind.value}.{self.name}"


Arg: TypeAlias = "bool | int | float | str | Ref | Step | Symbol | tuple[Arg, ...] | None"


def arg_text(arg: Arg) -> str:
    """An argument as Python text; infinities are ``inf`` and ``-inf``."""
    if isinstance(arg, tuple):
        return f"({', '.join(map(arg_text, arg))}{',' if len(arg) == 1 else ''})"
    return str(arg) if isinstance(arg, Ref | Step | Symbol) else repr(arg)


def leaves(arg: Arg) -> Iterator[Arg]:
    """The arguments inside nested tuples, in order."""
    if isinstance(arg, tuple):
        for part in arg:
            yield from leaves(part)
    else:
        yield arg


@dataclass(frozen=True, slots=True)
class Value:
    """A named tensor that comes from outside a graph."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return f"{self.name}: {self.type}"


@dataclass(frozen=True, slots=True)
class Node:
    """One call of an ATen operator, ``op`` as in ``aten.addmm.default``; functional: it writes none of its inputs."""

    name: str
    op: str
    args: tuple[Arg, ...]
    kwargs: tuple[tuple[str, Arg], ...]
    types: tuple[TensorType | None, ...]  # one per result; None where an op leaves a result undefined
    source: str  # "file.py:31 in forward": the user's line

    @property
    def type(self) -> TensorType:
        """The type of a node with exactly one result."""
        (only,) = self.types
        assert only is not None
        return only

    def leaves(self) -> Iterator[Arg]:
        """All of its arguments, positional first, nested tuples opened."""
        yield from leaves(self.args)
        for _, value in self.kwargs:
            yield from leaves(value)

    def refs(self) -> Iterator[Ref]:
        """The values that it reads."""
        return (leaf for leaf in self.leaves() if isinstance(leaf, Ref))

    def steps(self) -> Iterator[Step]:
        """The per-step constants that it uses."""
        return (leaf for leaf in self.leaves() if isinstance(leaf, Step))

    def __str__(self) -> str:
        types = str(self.types[0]) if len(self.types) == 1 else f"({', '.join(map(str, self.types))})"
        args = [*map(arg_text, self.args), *(f"{key}={arg_text(arg)}" for key, arg in self.kwargs)]
        return f"{self.name}: {types} = {self.op}({', '.join(args)}){comment(self.source)}"


@dataclass(frozen=True, slots=True)
class Graph:
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Ref, ...]

    def __str__(self) -> str:
        return self.text("graph")

    def text(self, name: str) -> str:
        """The graph as a Python function called ``name``."""
        head = filled(f"def {name}(", [str(value) for value in self.inputs], "):")
        results = ", ".join(map(str, self.outputs)) or "()"
        return "\n".join([head, *(f"{INDENT}{node}" for node in self.nodes), f"{INDENT}return {results}"])


EMPTY_GRAPH = Graph((), (), ())

"""The rules that every graph of a program obeys: names, references, operators, arguments, sizes."""

from __future__ import annotations

import keyword
import math
import re
from collections import Counter
from collections.abc import Iterator

from ..graph import RESERVED, Arg, Node, Ref, Step, Symbol, SymbolKind, TensorType
from ..ops import OPS
from ..program import Program
from .scopes import Environment, Fault, Scope, Subject, carried_values, given, handed, left, results, scopes, type_of

MAX_NODES = 100_000  # of all graphs together
MAX_RANK = 16
MAX_BYTES = 2**63 - 1
MAX_ITEM = 16  # bytes of the largest dtype
MAX_NESTING = 4  # of tuples in an argument
MAX_NAME = 200

_INTS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_FLOATS = {"float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"}
DTYPES = frozenset({"bool", *_INTS, *_FLOATS, "complex32", "complex64", "complex128"})
SYMBOLS = {
    SymbolKind.DTYPE: DTYPES,
    SymbolKind.DEVICE: frozenset({"run"}),
    SymbolKind.LAYOUT: frozenset({"strided"}),
    SymbolKind.MEMORY_FORMAT: frozenset({"contiguous_format", "preserve_format", "channels_last", "channels_last_3d"}),
}
_NAME = re.compile(r"[a-z][a-z0-9_]*")
Faults = Iterator[Fault]


def bound_names(program: Program) -> list[str]:
    """Every name the program binds, in order, repetitions included."""
    leaves = [leaf.name for leaf in program.signature.leaves if leaf.name is not None]
    drawn = [draw.name for draw in program.draws]
    loop = [value.name for value in (*carried_values(program.loop), *program.loop.collected)]
    each = [entry.value.name for entry in program.loop.inputs]
    nodes = [node.name for scope in scopes(program) for node in scope.graph.nodes]
    return [*leaves, *(weight.name for weight in program.weights), *drawn, *loop, *each, *nodes]


def names_are_plain(subject: Subject) -> Faults:
    """A name is ``[a-z][a-z0-9_]*``, and neither a word of Python nor of the plan's text."""
    for name in bound_names(subject.program) if subject.program else ():
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME or name in RESERVED:
            yield Fault(f"{name[:MAX_NAME]!a} cannot be the name of a value", "use lower-case letters, digits and _")


def names_are_bound_once(subject: Subject) -> Faults:
    """Arguments, weights, carried values and nodes share one name space."""
    counts = Counter(bound_names(subject.program) if subject.program else ())
    for name in (name for name, count in counts.items() if count > 1):
        places = [(scope, i) for scope, i, node in subject.nodes() if node.name == name]
        scope, index = places[-1] if places else (None, None)
        yield Fault(f"{name!a} is bound {counts[name]} times", "give every value its own name", scope, index)


def graphs_are_small_enough(subject: Subject) -> Faults:
    """A program has at most `MAX_NODES` nodes."""
    count = sum(len(scope.graph.nodes) for scope in subject.scopes)
    if count > MAX_NODES:
        yield Fault(f"the program has {count} nodes, at most {MAX_NODES} are allowed", "keep its loop rolled")


def operators_are_admitted(subject: Subject) -> Faults:
    """Every operator is in the table of `ops.py`."""
    for scope, i, node in subject.nodes():
        if node.op not in OPS:
            yield Fault(f"the operator {node.op[:100]!a} is not admitted", "see docs/ops.md for adding one", scope, i)


def arguments_are_well_formed(subject: Subject) -> Faults:
    """Arguments are numbers, strings, None, references, steps, known symbols, or shallow tuples of those."""
    for scope, i, node in subject.nodes():
        keys = [key for key, _ in node.kwargs]
        for key in keys:
            if keys.count(key) > 1 or not key.isidentifier() or keyword.iskeyword(key):
                yield Fault(f"{key!a} cannot be an argument's name here", "name each argument once", scope, i)
        for arg in atoms(node, MAX_NESTING):
            if not _is_well_formed(arg):
                yield Fault(f"{ascii(arg)[:100]} cannot be an argument", "see ffcompiler.graph.Arg", scope, i)


def atoms(node: Node, nesting: int = 2**30) -> Iterator[Arg]:
    """The arguments of a node, those in tuples one by one; deeper tuples than ``nesting`` as they are."""
    stack = [(arg, 0) for arg in (*node.args, *(arg for _, arg in node.kwargs))][::-1]
    while stack:
        arg, depth = stack.pop()
        if isinstance(arg, tuple) and depth < nesting:
            stack += [(item, depth + 1) for item in reversed(arg)]
        else:
            yield arg


def _is_well_formed(arg: Arg) -> bool:
    if isinstance(arg, Symbol):
        return arg.name in SYMBOLS[arg.kind]
    return type(arg) in {bool, int, float, str, type(None), Ref, Step}


def types_are_possible(subject: Subject) -> Faults:
    """Known dtype, rank, lengths, strides >= 0, and a size in bytes that fits 63 bits."""
    if subject.program is None:
        return
    for scope, i, node in subject.nodes():
        if not node.types:
            yield Fault(f"{node.name!a} has no result", "leave out nodes that compute nothing", scope, i)
        for fault in (fault for type_ in node.types if type_ is not None for fault in _type_faults(type_)):
            yield Fault(f"{node.name!a} {fault}", "capture the function again", scope, i)
    for name, types in _outside_types(subject.program).items():
        for fault in (fault for type_ in types if type_ is not None for fault in _type_faults(type_)):
            yield Fault(f"{name!a} {fault}", "capture the function again")


def _outside_types(program: Program) -> Environment:
    leaves = [*program.signature.leaves, *program.result.leaves, *program.result.left]
    named = {leaf.name or leaf.path: (leaf.type,) for leaf in leaves}
    return {**named, **given(program), **handed(program.loop), **left(program.loop)}


def _type_faults(type_: TensorType) -> Iterator[str]:
    if type_.dtype not in DTYPES:
        yield f"has the unknown dtype {type_.dtype[:100]!a}"
    if len(type_.shape) > MAX_RANK:
        yield f"has {len(type_.shape)} dimensions, more than {MAX_RANK}"
    elif len(type_.stride) != len(type_.shape):
        yield f"has {len(type_.stride)} strides for {len(type_.shape)} dimensions"
    elif min((*type_.shape, *type_.stride), default=0) < 0:
        yield "has a negative length or stride"
    elif _bytes(type_) > MAX_BYTES:
        yield "has more bytes than 63 bits can count"


def _bytes(type_: TensorType) -> int:
    """An upper bound of the bytes of a tensor and of the memory that it spans."""
    elements = math.prod(max(length, 1) for length in type_.shape)
    span = 1 + sum(max(length - 1, 0) * step for length, step in zip(type_.shape, type_.stride, strict=True))
    return MAX_ITEM * max(elements, span)


# ---------------------------------------------------------------------------------------------------- references


def references_are_available(subject: Subject) -> Faults:
    """What a node or an output refers to stands before it, or outside where its graph may look."""
    advice = "refer to arguments, weights, the carry, or nodes that run earlier"
    for scope in subject.scopes:
        seen = dict(scope.outside)
        for i, node in enumerate(scope.graph.nodes):
            for arg in atoms(node):
                if isinstance(arg, Ref) and type_of(arg, seen) is None:
                    yield Fault(f"{node.name!a} reads {_unavailable(arg, seen)}", advice, scope, i)
            seen[node.name] = node.types
        for ref in scope.graph.outputs:
            if type_of(ref, seen) is None:
                yield Fault(f"an output is {_unavailable(ref, seen)}", advice, scope)


def _unavailable(ref: Ref, seen: Environment) -> str:
    if ref.name not in seen:
        return f"{str(ref)!a}, which is not available there"
    return f"{str(ref)!a}, but {ref.name!a} has {len(seen[ref.name])} results, of which that is none"


def inputs_are_listed(subject: Subject) -> Faults:
    """``graph.inputs`` lists each outside name that the graph reads, once, with its type.

    Of a value with several results it gives the type of the first defined one.
    """
    for scope in subject.scopes:
        listed = {value.name: value.type for value in scope.graph.inputs}
        read = _outside_reads(scope)
        for name in sorted(listed.keys() | read.keys()):
            if listed.get(name) != read.get(name):
                what = f"{name!a} is listed as {listed.get(name)} and read as {read.get(name)}"
                yield Fault(what, "list what the graph reads from outside, with its type", scope)
        if len(listed) != len(scope.graph.inputs):
            yield Fault("an input is listed twice", "list each outside name once", scope)


def _outside_reads(scope: Scope) -> dict[str, TensorType | None]:
    inside = results(scope.graph)
    args = (arg for node in scope.graph.nodes for arg in atoms(node))
    names = {arg.name for arg in (*args, *scope.graph.outputs) if isinstance(arg, Ref) and arg.name not in inside}
    return {name: next(filter(None, scope.outside[name]), None) for name in names}

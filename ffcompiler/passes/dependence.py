"""Prove that every step of an array loop reads only what earlier steps wrote (theorem: `docs/theory.md`).

before:  Program(loop=ArrayLoop)
after:   Proof(premises), or a `Refusal` that names the first step, operator and source line that leak
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..graph import TensorType
from ..plan import ArrayLoop, Premise, Program
from .blame import at, trace
from .latest import NEVER, Interpretation, Latest, zero_pattern
from .partition import Refusal, outside_types
from .rules import RULES


@dataclass(frozen=True, slots=True)
class Proof:
    """The system is triangular while ``premises`` hold.

    ``patterns``: for each value whose zeros the proof uses, where it was not zero. ``latest``: for each shared value
    that the tail reads, the last step that each element can depend on.
    """

    premises: tuple[Premise, ...]
    patterns: Mapping[str, npt.NDArray[np.bool_]]
    latest: Mapping[str, Latest]


def prove(program: Program, constants: Mapping[str, Tensor]) -> Proof | Refusal:
    """Check ``latest < k`` for all that step ``k`` reads, on the values that do not depend on the loop's state.

    ``constants`` holds arguments, weights, prologue and invariant values by name.
    """
    loop = program.loop
    assert isinstance(loop, ArrayLoop)
    it = Interpretation({}, _types(program, loop), constants, RULES)
    for name in it.types:
        it.latest[name] = np.full((1,) * len(it.types[name].shape), NEVER, np.int32)
    it.latest[loop.carry.name] = written_at(loop)
    it.run(loop.invariant)
    it.run(loop.shared)
    shared = dict(it.latest)
    it.use_zeros = False  # premises are checked on shared values only
    for k in range(loop.blocks):
        it.run(loop.tail, {t: row[k] for t, row in enumerate(loop.tables)})
        if int(it.latest[loop.tail.outputs[0].name].max(initial=-1)) >= k:
            return Refusal(_leak(loop, it, k))
    patterns = {name: p for name, p in it.patterns.items() if not p.all()}
    premises: list[Premise] = list(it.finite.values())
    premises += [zero_pattern(name, p) for name, p in sorted(patterns.items())]
    own = {node.name for node in loop.shared.nodes}
    read = {v.name for v in loop.tail.inputs} & own
    return Proof(tuple(premises), patterns, {name: shared[name] for name in sorted(read)})


def written_at(loop: ArrayLoop) -> Latest:
    """For each position of the array the step that writes it; -1 where none does. Compact in the other axes."""
    axes = {axis.dim: axis for axis in loop.write.axes}
    shape = tuple(size if dim in axes else 1 for dim, size in enumerate(loop.carry.type.shape))
    steps = np.full(shape, NEVER, np.int32)
    for k in range(loop.blocks):
        where = []
        for dim in range(len(shape)):
            start = int(loop.tables[axes[dim].table][k]) if dim in axes else 0
            where.append(slice(start, start + ((axes[dim].length or 1) if dim in axes else 1)))
        steps[tuple(where)] = k
    return steps


def _types(program: Program, loop: ArrayLoop) -> dict[str, TensorType]:
    types = outside_types(program)
    types[loop.carry.name] = loop.carry.type
    return types


# ---------------------------------------------------------------------------------------------------- refusal


def _leak(loop: ArrayLoop, it: Interpretation, k: int) -> str:
    """Which operators let step ``k`` see its own or a later position, and where they stand in the user's code."""
    path = trace(loop, it, k)
    source = it.latest[loop.carry.name]
    worst = k if not path else int(source[at(source, path[0].index)]) if path[0].of == loop.carry.name else k
    lines = [
        f"step {loop.lo + k} writes {position(loop, k)} and may read {position(loop, worst)}, which "
        + ("it writes itself" if worst == k else f"step {loop.lo + worst} writes later")
    ]
    mixing = [hop for hop in path if hop.mixes] or path[:1]
    for hop, word in zip(mixing, ["through", *["then"] * len(mixing)], strict=False):
        lines.append(f"  {word} {hop.node.op} at {hop.node.source}{hop.describe()}")
    lines.append(
        "  check the masks (one layer must be strict) and the order of positions; run sequentially it is what it was"
    )
    return "\n".join(lines)


def position(loop: ArrayLoop, k: int) -> str:
    """``[:, 5]``: what step ``k`` writes."""
    where = [":"] * len(loop.carry.type.shape)
    for axis in loop.write.axes:
        start = int(loop.tables[axis.table][k])
        where[axis.dim] = str(start) if axis.length in (None, 1) else f"{start}:{start + (axis.length or 1)}"
    return f"[{', '.join(where)}]"

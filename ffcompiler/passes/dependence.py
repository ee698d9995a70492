"""Prove that every step of an array loop reads only what earlier steps wrote (theorem: `docs/theory.md`).

before:  Program(loop=ArrayLoop)
after:   Proof(premises), or a `Refusal` that names the first step, operator and source line that leak
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from ..graph import EMPTY_GRAPH, Node, Ref, TensorType
from ..ops import OPS, Failure
from ..plan import Premise
from ..program import ArrayLoop, Program
from ..proof import Latest, Proof, Refusal, Unseen, Wave
from .blame import at, trace
from .latest import NEVER, Interpretation, mask_premise, zero_pattern
from .levels import by_level
from .partition import outside_types
from .rules import RULES
from .windows import WindowAnalysis, results_of


def prove(program: Program, constants: Mapping[str, Tensor]) -> Proof | Refusal:
    """Check ``latest < k`` for all that step ``k`` reads, on the values that do not depend on the loop's state.

    ``constants`` holds arguments, weights, prologue and invariant values by name.
    """
    loop = program.loop
    assert isinstance(loop, ArrayLoop)
    proof = _prove_in_order(program, loop, constants)
    if isinstance(proof, Refusal):
        return proof
    order, levels = by_level(proof.reads, lambda labels: _reads_by_label(program, loop, constants, labels))
    if len(levels) == loop.blocks:
        return proof
    bare = replace(loop, besides=EMPTY_GRAPH, collected=())  # the user's order tells what steps leave besides
    waves = _prove_in_order(program, bare.in_order(order), constants)
    if isinstance(waves, Refusal) or waves.premises != proof.premises:
        return proof
    return replace(proof, wave=Wave(order, levels, waves))


def interpret_shared(
    program: Program, loop: ArrayLoop, constants: Mapping[str, Tensor], written: Latest
) -> Interpretation:
    """The analysis of the invariant and the shared part, with ``written`` at each position of the array."""
    it = Interpretation({}, _types(program, loop), constants, RULES)
    for name in it.types:
        it.latest[name] = np.full((1,) * len(it.types[name].shape), NEVER, np.int32)
    it.latest[loop.carry.name] = written
    it.run(loop.invariant)
    it.run(loop.shared)
    return it


def steps_read(loop: ArrayLoop, it: Interpretation) -> Iterator[int]:
    """For one step after the other, the largest `latest` of what it reads; ``it`` stands at that step."""
    it.use_zeros = False  # premises are checked on shared values only
    for k in range(loop.blocks):
        it.run(loop.tail, _numbers(loop, k))
        yield int(it.latest[loop.tail.outputs[0].name].max(initial=-1))


def _numbers(loop: ArrayLoop, k: int) -> dict[int, int | float]:
    """The constants of step ``k``."""
    return {t: row[k] for t, row in enumerate(loop.tables)}


def _reads_by_label(
    program: Program, loop: ArrayLoop, constants: Mapping[str, Tensor], labels: Sequence[int]
) -> list[int]:
    """The largest label of the steps that each step reads."""
    written = written_at(loop)
    labelled = np.where(written < 0, NEVER, np.array(labels, np.int32)[np.maximum(written, 0)]).astype(np.int32)
    return list(steps_read(loop, interpret_shared(program, loop, constants, labelled)))


def _prove_in_order(program: Program, loop: ArrayLoop, constants: Mapping[str, Tensor]) -> Proof | Refusal:
    """The proof for the steps in the order in which ``loop`` has them."""
    device = next((t.device.type for t in constants.values()), "cpu")
    it = interpret_shared(program, loop, constants, written_at(loop))
    shared = dict(it.latest)
    of_results = {ref: it.of(ref) for node in loop.shared.nodes for ref in results_of(node)}
    if (deadly := _deadly(loop, it, device)) is not None:
        return deadly
    reads, unseen = list[int](), dict[str, Unseen]()
    for k, latest in enumerate(steps_read(loop, it)):
        if latest >= k:
            return Refusal(_leak(loop, it, k, loop.tail.outputs[0]))
        it.run(loop.besides, _numbers(loop, k))
        for value, ref in zip(loop.collected, loop.besides.outputs, strict=True):
            if value.name not in unseen and (it.of(ref) >= k).any():
                outcomes = {check.holds for check in program.checks if check.value == Ref(value.name)}
                why = _seen(program, loop, it, k, ref)
                if len(outcomes) != 1 or _is_read_after(program, value.name):
                    return Refusal(why)
                unseen[value.name] = Unseen(value.name, outcomes.pop(), why)
        reads.append(latest)
    patterns = {name: p for name, p in it.patterns.items() if not p.all()}
    premises: list[Premise] = [*it.finite.values(), *it.bounded.values()]
    premises += [zero_pattern(name, p) for name, p in sorted(patterns.items())]
    premises += [mask_premise(name, mask) for name, mask in sorted(it.masks.items())]
    premises += [premise for _, premise in sorted(it.unsigned.items())]
    own = {node.name for node in loop.shared.nodes}
    read = {v.name for graph in (loop.tail, loop.besides) for v in graph.inputs} & own
    windows = WindowAnalysis(loop, {Ref(loop.carry.name): written_at(loop), **of_results}, it.type, patterns)
    latest_of_reads = {name: shared[name] for name in sorted(read)}
    return Proof(
        tuple(premises),
        {**patterns, **it.masks},
        latest_of_reads,
        tuple(reads),
        windows,
        unseen=tuple(unseen.values()),
    )


def _is_read_after(program: Program, name: str) -> bool:
    """Whether what steps collect is more than tested."""
    results = {leaf.name for leaf in program.result.named}
    return name in results or any(ref.name == name for node in program.epilogue.nodes for ref in node.refs())


def _deadly(loop: ArrayLoop, it: Interpretation, device: str) -> Refusal | None:
    """An operator that bad values of an unconverged state could make end the process: not for speculation."""
    carried = {loop.carry.name} | {name for name, latest in it.latest.items() if int(latest.max(initial=-1)) >= 0}
    for node in (*loop.shared.nodes, *loop.tail.nodes):
        reads = {ref.name for ref in node.refs()} & carried
        if reads:
            carried.add(node.name)
        if reads and kills(node, device):
            return Refusal(
                f"{node.op} at {node.source} reads the loop's state; values that never occur in it, but may occur "
                "in a sweep, can end the process there\n  move it out of the loop, or use floating-point division"
            )
    return None


def kills(node: Node, device: str) -> bool:
    """Integer division by an unlucky number, anywhere; an index out of range, where that loses the device."""
    op = OPS[node.op]
    integer = all(kind is None or "int" in kind.dtype for kind in node.types)
    return (op.failure is Failure.KILLS and integer) or device in op.kills_on


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
    types |= {given.value.name: given.value.type for given in loop.inputs}
    types[loop.carry.name] = loop.carry.type
    return types


# ---------------------------------------------------------------------------------------------------- refusal


def _leak(loop: ArrayLoop, it: Interpretation, k: int, ref: Ref) -> str:
    """Which operators let step ``k`` see its own or a later position, and where they stand in the user's code."""
    worst, hops = _hops(loop, it, k, ref)
    lines = [
        f"step {loop.lo + k} writes {position(loop, k)} and may read {position(loop, worst)}, which "
        + ("it writes itself" if worst == k else f"step {loop.lo + worst} writes later")
        + " (condition 5)",
        *hops,
    ]
    lines.append(
        "  check the masks (one layer must be strict) and the order of positions; run sequentially it is what it was"
    )
    return "\n".join(lines)


def _seen(program: Program, loop: ArrayLoop, it: Interpretation, k: int, ref: Ref) -> str:
    """What a step leaves besides, or tests, that is not known of the last array: it reads what is not written yet."""
    name = loop.collected[loop.besides.outputs.index(ref)].name
    tests = [check.source for check in program.checks if check.value.name == name]
    worst, hops = _hops(loop, it, k, ref)
    what = f"the steps test values ({tests[0]})" if tests else "the steps leave more than the array that they write"
    again = "itself, after that" if worst == k else f"only in step {loop.lo + worst}"
    lines = [
        f"{what}, and what step {loop.lo + k} saw of {position(loop, worst)} is not known of the last array,",
        f"  for it is written {again} (condition 5)",
        *hops,
        f"  {'test' if tests else 'keep'} what belongs to the step's own position, as logits[:, i] for logits"
        + (", or before or after the loop" if tests else ""),
    ]
    return "\n".join(lines)


def _hops(loop: ArrayLoop, it: Interpretation, k: int, ref: Ref) -> tuple[int, list[str]]:
    """Which step writes what step ``k`` may see too early, and a line for each operator that lets it."""
    path = trace(loop, it, k, ref)
    source = it.latest[loop.carry.name]
    worst = k if not path else int(source[at(source, path[0].index)]) if path[0].of == loop.carry.name else k
    lines = []
    mixing = [hop for hop in path if hop.mixes] or path[:1]
    for hop, word in zip(mixing, ["through", *["then"] * len(mixing)], strict=False):
        lines.append(f"  {word} {hop.node.op} at {hop.node.source}{hop.describe()}")
    if any(hop.node.name in it.signed for hop in mixing):
        lines.append(
            "  what is added there holds -0, or may, which shows the sign of a product with zero: no use is made of "
            "zeros in its weights"
        )
    if any(hop.node in (*loop.tail.nodes, *loop.besides.nodes) for hop in mixing if hop.mixes):
        lines.append(
            "  what depends on the step's number is evaluated for each position (condition 4), where no use is made of "
            "zeros in weights"
        )
    return worst, lines


def position(loop: ArrayLoop, k: int) -> str:
    """``[:, 5]``: what step ``k`` writes."""
    where = [":"] * len(loop.carry.type.shape)
    for axis in loop.write.axes:
        start = int(loop.tables[axis.table][k])
        where[axis.dim] = str(start) if axis.length in (None, 1) else f"{start}:{start + (axis.length or 1)}"
    return f"[{', '.join(where)}]"

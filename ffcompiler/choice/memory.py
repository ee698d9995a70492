"""How many bytes a run needs at its peak, besides arguments and weights: predicted from the graphs. No torch.

Counted are the results of operators, from where they are made to where they are last read, and what a run keeps from
sweep to sweep; what an operator uses inside is not.
"""

from __future__ import annotations

import math
import re

from ..alike import as_one
from ..graph import Graph, TensorType
from ..plan import Method, Plan, Schedule
from ..program import ArrayLoop, Chain, Recurrence, RepeatedMap
from ..proof import Proof
from ..schedules import quantum

VIEWS = frozenset(
    f"aten.{name}"
    for name in """alias.default detach.default view.default _unsafe_view.default unsqueeze.default squeeze.default
    squeeze.dim squeeze.dims expand.default permute.default transpose.int t.default slice.Tensor select.int
    narrow.default unfold.default diagonal.default movedim.int""".split()
)
"""Operators whose results are parts of an operand's memory."""


def predicted_bytes(plan: Plan, proof: Proof, schedule: Schedule) -> int | None:
    """At the peak of a run by ``schedule``; None of a plan that has no system."""
    match plan.system:
        case ArrayLoop() as loop:
            return _of_array(loop, proof, schedule)
        case Recurrence() as loop:
            by_levels = schedule.method is Method.WAVEFRONT  # one sweep may go through all, and keeps what levels made
            window = schedule.ahead(0, loop.blocks, (loop.blocks,) if by_levels else ()) if loop.blocks else 0
            state, given = (
                loop.blocks * sum(size_of(v.type) for v in loop.carry),
                loop.blocks * output_bytes(loop.ahead),
            )
            ahead = loop.blocks * peak_bytes(loop.ahead)
            return state + max(ahead, given + -(-window // schedule.run) * peak_bytes(loop.body))
        case RepeatedMap() as loop:
            state = sum(size_of(value.type) for value in loop.carry)
            return 2 * state + output_bytes(loop.invariant) + peak_bytes(loop.body)
        case Chain() as chain:
            values = sum(output_bytes(graph) for graph in chain.graphs)
            new = max((sum(map(output_bytes, chain.graphs[lo:hi])) for lo, hi in _windows(chain, schedule)), default=0)
            together = [_of_one_call(chain, numbers) for numbers in chain.together]
            stacks, peaks = sum(stack for stack, _ in together), [peak for _, peak in together]
            return values + new + stacks + max([*map(peak_bytes, chain.graphs), *peaks], default=0)
    return None


def _of_array(loop: ArrayLoop, proof: Proof, schedule: Schedule) -> int:
    """The array, a whole evaluation of the shared part, tails of the window; windowed sweeps keep their buffers."""
    window = schedule.ahead(0, loop.blocks, proof.wave.ends if proof.wave else ()) if loop.blocks else 0
    tails = (window + quantum(schedule, loop.blocks, loop.row)) * peak_bytes(loop.tail)
    kept = proof.windows.layout.bytes if schedule.windows and proof.windows is not None else 0
    left = sum(size_of(value.type) for value in loop.collected)
    return 2 * size_of(loop.carry.type) + output_bytes(loop.invariant) + peak_bytes(loop.shared) + tails + kept + left


def _of_one_call(chain: Chain, numbers: tuple[int, ...]) -> tuple[int, int]:
    """What blocks that are computed together read, stacked; and what is alive in the call at its peak."""
    shared = as_one(chain.graphs, numbers)
    columns = zip(shared.places, shared.columns, strict=True)
    stacked = sum(size_of(place.type) for place, keys in columns if len(set(keys)) > 1)
    return len(numbers) * stacked, len(numbers) * peak_bytes(shared.graph)


def _windows(chain: Chain, schedule: Schedule) -> list[tuple[int, int]]:
    """The windows that a run begins with, as far as there are levels."""
    ends = [0, *chain.levels]
    firsts = [end for end in ends if end < chain.blocks]
    return [(lo, schedule.ahead(lo, chain.blocks, chain.levels)) for lo in firsts]


def peak_bytes(graph: Graph) -> int:
    """The largest sum of what is alive at once; results that the graph hands on are alive to its end."""
    last = {ref.name: k for k, node in enumerate(graph.nodes) for ref in node.refs()}
    last |= {ref.name: len(graph.nodes) for ref in graph.outputs}
    base: dict[str, str] = {}  # of a view: the node in whose memory it lies
    for k, node in enumerate(graph.nodes):
        read = next(node.refs(), None)
        if node.op in VIEWS and read is not None:
            base[node.name] = base.get(read.name, read.name)
            last[base[node.name]] = max(last.get(base[node.name], 0), last.get(node.name, k))
    ends: dict[int, int] = {}
    alive = peak = 0
    for k, node in enumerate(graph.nodes):
        size = 0 if node.name in base else sum(size_of(kind) for kind in node.types if kind is not None)
        alive, ends[last.get(node.name, k)] = alive + size, ends.get(last.get(node.name, k), 0) + size
        peak = max(peak, alive)
        alive -= ends.pop(k, 0)
    return peak


def output_bytes(graph: Graph) -> int:
    """Of what the graph itself makes and hands on."""
    types = {node.name: node.types for node in graph.nodes}
    kinds = [types[ref.name][ref.output or 0] for ref in dict.fromkeys(graph.outputs) if ref.name in types]
    return sum(size_of(kind) for kind in kinds if kind is not None)


def size_of(kind: TensorType) -> int:
    """Bytes of a tensor's elements; the dtype's name says how many bits one has."""
    bits = re.search(r"\d+", kind.dtype)
    return math.prod(kind.shape) * (int(bits[0]) // 8 if bits else 1)

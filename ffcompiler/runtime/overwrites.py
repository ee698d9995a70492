"""Writes into weights that every step of a loop makes: in each call, whether repeating them changes nothing.

A step that writes ``f(w)`` into the weight ``w`` makes the weight another state of the loop. But if what is read in
place of ``w`` has the same bits when ``f(w)`` stands where ``w`` stood, then every step reads the same (by induction:
the second step begins from ``f(w)``, and so does each later one), and one evaluation before the loop serves all steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import EMPTY_GRAPH, Graph
from ..program import Overwrite, Program
from ..rules.scopes import loop_scopes
from .equality import same_bits
from .graphs import GraphCall, graph_call


@dataclass(frozen=True, slots=True)
class Overwrites:
    """The overwrites of one program on one device. Threads may share it."""

    writes: tuple[Overwrite, ...]
    read_by_steps: frozenset[str]  # written weights that steps read before, or beside, the write
    call: GraphCall  # from weights to what is read in their place

    def values(self, env: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each weight holds after the first step, by its name, where that is not what it holds now."""
        after = {write.weight: env[write.value.key] for write in self.writes}
        return {name: value for name, value in after.items() if not same_bits(value, env[name])}

    def unsettled(self, env: Mapping[str, Tensor]) -> str | None:
        """Why steps do not all read the same, if they do not. ``env`` holds weights and prologue values."""
        changed = self.values(env)
        if not changed:
            return None
        again = self.call.extend({**env, **changed})
        # a weight may be a plain copy of another, which is then what is read in its place
        keys = [ref.key for ref in (*self.call.outputs, *(write.value for write in self.writes))]
        moved = changed.keys() & self.read_by_steps or not all(same_bits(again[key], env[key]) for key in keys)
        if not moved:
            return None
        places = ", ".join(dict.fromkeys(w.source for w in self.writes if w.weight in changed))
        return f"a weight that the loop's steps write ({places}) is not the same in all steps: writing again changes it"

    def evaluated(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``weights`` and what is read in their place, as `unsettled` needs them where no prologue has run."""
        with torch.no_grad():
            return self.call.extend(weights)


def make_overwrites(program: Program, device: torch.device) -> Overwrites:
    """The overwrites of ``program``, compiled for ``device``."""
    nodes = {node.name: node for node in program.prologue.nodes}
    needed: set[str] = set()
    stack = [write.value.name for write in program.overwrites]
    while stack:
        name = stack.pop()
        if name in nodes and name not in needed:
            needed.add(name)
            stack += [ref.name for ref in nodes[name].refs()]
    outputs = tuple(ref for ref in program.prologue.outputs if ref.name in needed)
    graph = Graph((), tuple(n for n in program.prologue.nodes if n.name in needed), outputs) if needed else EMPTY_GRAPH
    read = {value.name for scope in loop_scopes(program) for value in scope.graph.inputs}
    direct = frozenset(write.weight for write in program.overwrites if write.weight in read)
    return Overwrites(program.overwrites, direct, graph_call(graph, device))

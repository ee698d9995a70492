"""How a function's tests on values came out: looked at again in every run, before anything rests on them.

A run may compute what the reference would not have computed after a test that came out otherwise. So a test on what the
prologue makes is looked at before the rest of the prologue runs; those in the loop and after it once all is computed,
and what raises there is taken for a test that would have come out otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import Graph, Node
from ..program import Check, Program
from ..rules.scopes import before_loop
from .graphs import GraphCall, graph_call

Env = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Checks:
    """The checks of one program on one device. Threads may share it.

    ``stages``: parts of the prologue, one for each of the checks ``before`` the loop, which needs no more than them;
    then the rest of it.
    """

    stages: tuple[GraphCall, ...]
    before: tuple[Check, ...]
    after: tuple[Check, ...]
    unseen: frozenset[str] = frozenset()  # those that only bounds can show to have come out as they did

    def prologue(self, env: Env) -> tuple[Env, str]:
        """``env`` with what the prologue makes, and which test came out otherwise; if one did, only what is known."""
        for stage, check in zip(self.stages, self.before, strict=False):
            env = stage.extend(env) if stage.outputs else env
            if not _holds(check, env):
                return env, otherwise(check)
        return self.stages[-1].extend(env), ""

    def failed(self, env: Env) -> str:
        """Which test in or after the loop came out otherwise; ``env`` holds the results, too."""
        found = next((check for check in self.after if not _holds(check, env)), None)
        return "" if found is None else otherwise(found, found.value.name not in self.unseen)


TOO_OFTEN = 3
"""Runs in vain, beyond those that were not, after which no more are begun."""


@dataclass(slots=True)
class Late:
    """How often sweeps were in vain, because a test that is looked at after them came out otherwise."""

    count: int = 0
    why: str = ""

    @property
    def too_often(self) -> bool:
        return self.count >= TOO_OFTEN

    def note(self, swept: bool, otherwise: str) -> None:
        """A run ended; ``otherwise`` says which test came out otherwise, if one did."""
        if swept:
            self.count = self.count + 1 if otherwise else max(self.count - 1, 0)
            self.why = otherwise or self.why


def otherwise(check: Check, seen: bool = True) -> str:
    """What is said where a test comes out otherwise, or may."""
    now = "is not now" if seen else "in some step may not be now"
    return f"the test at {check.source} was {check.holds} when the function was compiled, and {now}"


def _holds(check: Check, env: Env) -> bool:
    value = env[check.value.key]
    return bool((value if check.holds else ~value).all())


def make_checks(program: Program, device: torch.device, unseen: Iterable[str] = ()) -> Checks:
    """The checks of ``program``, and its prologue in their stages, compiled for ``device``."""
    early = before_loop(program)
    before = tuple(check for check in program.checks if check.value.name in early)
    after = tuple(check for check in program.checks if check.value.name not in early)
    stages = tuple(graph_call(graph, device) for graph in _staged(program.prologue, before))
    return Checks(stages, before, after, frozenset(unseen))


def _staged(prologue: Graph, checks: Sequence[Check]) -> list[Graph]:
    """The prologue in parts that run one after the other."""
    rest = {node.name: node for node in prologue.nodes}
    parts: list[list[Node]] = []
    for check in checks:
        needed = _needed(rest, check.value.name)
        parts.append([node for node in prologue.nodes if node.name in needed])
        rest = {name: node for name, node in rest.items() if name not in needed}
    parts.append([*rest.values()])
    read = dict.fromkeys(prologue.outputs)
    graphs = []
    for part in reversed(parts):
        own = {node.name for node in part}
        graphs.append(Graph((), tuple(part), tuple(ref for ref in read if ref.name in own)))
        read |= {ref: None for node in part for ref in node.refs()}
    return graphs[::-1]


def _needed(nodes: Mapping[str, Node], name: str) -> set[str]:
    """Those of ``nodes`` that a value is made from."""
    found: set[str] = set()
    stack = [name]
    while stack:
        name = stack.pop()
        if name in nodes and name not in found:
            found.add(name)
            stack += [ref.name for ref in nodes[name].refs()]
    return found

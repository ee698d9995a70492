"""A chain of unlike blocks told to its user: families, stages, levels, and what a sweep costs."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from ..alike import alike
from ..graph import Graph
from ..plan import Costs, Plan, Tolerance
from ..program import Chain

SHOWN = 4  # families, and operators of one
MANY_AT_ONCE = "a device on which many blocks at once take about the time of one: here "
ONE_BY_ONE = "they run one after the other, so a sweep over all blocks costs what the whole function does"
TOGETHER = "only blocks that are alike run at once"


def chain_lines(plan: Plan, chain: Chain) -> list[str]:
    """What stands under "why" in an explanation."""
    return [_blocks(plan, chain), *_families(chain), *_calls(plan, chain), _levels(chain), *_costs(plan.costs, chain)]


def chain_changes(chain: Chain) -> list[str]:
    """What would make sweeps pay."""
    return [
        MANY_AT_ONCE + (TOGETHER if chain.together else ONE_BY_ONE),
        "fewer levels: branches that do not read each other are computed together",
    ]


def _blocks(plan: Plan, chain: Chain) -> str:
    own = [family for k, family in enumerate(chain.families) if k not in chain.joints]
    assert plan.program is not None
    stem, head = len(plan.program.prologue.nodes), len(plan.program.epilogue.nodes)
    families = _counted(len(set(own)), "family", "families")
    ends = f"a stem of {stem} operators before, a head of {head} after"
    return f"{len(own)} blocks in {families}{_stages(chain)}; {ends}"


def _stages(chain: Chain) -> str:
    """How many blocks stand between the joints."""
    if not chain.joints:
        return ""
    cuts = [-1, *chain.joints, chain.blocks]
    counts = [b - a - 1 for a, b in pairwise(cuts)]
    return f", {_listed(counts)} of them between {_counted(len(chain.joints), 'transition', 'transitions')}"


def _listed(counts: list[int]) -> str:
    return f"{', '.join(map(str, counts[:-1]))} and {counts[-1]}" if len(counts) > 1 else str(counts[0])


def _families(chain: Chain) -> list[str]:
    """The largest ones: how many blocks, which operators, where."""
    first = {family: chain.graphs[k] for k, family in reversed(list(enumerate(chain.families)))}
    joints = {chain.families[k] for k in chain.joints}
    counts = Counter(chain.families).most_common()
    lines = [_family(count, first[family], family in joints) for family, count in counts[:SHOWN]]
    return lines + ([f"and {len(counts) - SHOWN} families more"] if len(counts) > SHOWN else [])


def _family(count: int, graph: Graph, joint: bool) -> str:
    ops = list(dict.fromkeys(node.op.split(".")[1] for node in graph.nodes))
    named = ", ".join(ops[:SHOWN]) + (", .." if len(ops) > SHOWN else "")
    kind = _counted(count, "transition", "transitions") if joint else _counted(count, "block", "blocks")
    return f"{kind} of {len(graph.nodes)} operators ({named}) like those from {graph.nodes[0].source} on"


def _calls(plan: Plan, chain: Chain) -> list[str]:
    """Which blocks a sweep computes in one call."""
    if chain.together:
        counts = [len(numbers) for numbers in chain.together]
        calls = "one call" if len(counts) == 1 else f"{len(counts)} calls"
        rest = chain.blocks - sum(counts)
        others = f", the other {rest} one by one" if rest else ""
        return [f"a sweep computes {_listed(counts)} blocks that are alike in {calls}, their weights stacked{others}"]
    if isinstance(plan.equality, Tolerance):
        why = "they differ in shapes or numbers, or have an operator that is evaluated for one at a time"
        return [f"a sweep computes the blocks one by one: {why}"]
    if not alike(chain.graphs):
        return []
    return ["a sweep makes the recorded calls one by one: blocks that are alike would round otherwise in one call"]


def _levels(chain: Chain) -> str:
    if len(chain.levels) == chain.blocks:
        return f"each reads the one before it: {chain.blocks} levels, after as many sweeps all are final"
    return (
        f"{chain.blocks} in {len(chain.levels)} levels that do not read each other: wavefront needs "
        f"{len(chain.levels)} sweeps and no iteration"
    )


def _costs(costs: Costs | None, chain: Chain) -> list[str]:
    if costs is None:
        return []
    reference = costs.step * chain.blocks
    share = f" ({100 * costs.sweep / reference:.0f} %)" if reference else ""
    return [f"one sweep over all blocks takes {costs.sweep:.4g} s{share}, the whole function {reference:.4g} s"]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"

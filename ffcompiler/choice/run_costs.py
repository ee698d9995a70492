"""What sweeps over a recurrence cost that compute runs of its steps in order: a call for each step of a run."""

from __future__ import annotations

from itertools import islice

import torch

from ..plan import Equality
from ..runtime.blocks import Env
from ..runtime.compare import compare_blocks
from ..runtime.recurrent import Recurrent, Trajectory
from ..runtime.runner import Execution
from .timing import median_seconds

SHARES = (1, 8, 64, 1 << 62)
"""Sweeps are priced over one block in so many: over all, and at last over one run."""
CALLS = 32
"""So many calls of a sweep are timed at most, and the others taken to cost the same."""


def fronts_in_runs(system: Recurrent) -> set[int]:
    """From which block on sweeps are timed."""
    return {system.runs.begin(system.blocks - max(system.blocks // share, 1)) for share in SHARES}


def seconds_in_runs(
    system: Recurrent, execution: Execution, equality: Equality, lo: int, device: torch.device
) -> float:
    """Of a sweep from ``lo`` on: told from some of its calls, and from what is done with the last blocks of runs."""
    env, state = system.prepare(execution.env), system.start_from(execution.init)
    return _calls(system, env, state, lo, device) + _ends(system, state, equality, lo, device)


def _ends(system: Recurrent, state: Trajectory, equality: Equality, lo: int, device: torch.device) -> float:
    hi = system.blocks
    new = tuple(leaf.clone() for leaf in system.read(state, lo, hi))

    def compared() -> None:
        compare_blocks(equality, system.read(state, lo, hi), new, [])
        system.write(state, lo, hi, new)

    return median_seconds(compared, device)


def _calls(system: Recurrent, env: Env, state: Trajectory, lo: int, device: torch.device) -> float:
    hi, size = system.blocks, min(system.runs.size, system.blocks - lo)
    turns = list(islice(system.runs.turns(lo, hi), CALLS))

    def begun() -> None:
        for blocks in turns:
            system.put(state, blocks, system.turn(env, state, blocks))

    return median_seconds(begun, device) * size / len(turns)

"""What a step of a repeated map costs, and a look at whether it changed anything: measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import torch

from ..plan import Bits, Costs, Equality
from .record import RunRecord
from .repeat import Env, Repeat, RepeatRun, State, StepGuard
from .unmoved import look
from .watch import Clock

STEPS = 50
"""Steps that are timed at most, in one go."""
ENOUGH = 0.2
"""Seconds: about so long is timed."""
ROUNDS = 5
"""Turns of measuring."""
NOISE = 1.1
"""A step makes the calls of the reference's; if it seems to cost up to so many times as much, it costs the same."""


def repeat_costs(
    repeat: Repeat,
    env: Env,
    init: State,
    equality: Equality,
    reference: float,
    now: Clock,
    again: Callable[[], float],
) -> Costs:
    """``sweep``: one step; ``certify``: one step and one look.

    ``reference``: seconds of all steps of the reference; ``again`` measures them once more, so that both kinds of
    steps are compared as the machine is at one moment. ``now`` waits for the device.
    """
    state = repeat.steps(env)(init)  # not counted: the first call
    one = _steps_seconds(repeat, env, init, 1, now)
    if (count := min(STEPS, repeat.blocks - 1, int(ENOUGH / max(one, 1e-9)))) < 1:
        state, count = init, 1  # no more steps than there are: further ones may read past the end of something
    turns = [(again() / repeat.blocks, _steps_seconds(repeat, env, state, count, now) / count) for _ in range(ROUNDS)]
    ratio = min(ours for _, ours in turns) / max(min(theirs for theirs, _ in turns), 1e-9)
    step = reference / repeat.blocks
    ours = step * (1.0 if 1.0 < ratio <= NOISE else ratio)
    copies = tuple(t.clone(memory_format=torch.preserve_format) for t in state)
    looks = [_seconds(lambda: look(copies, state, equality), now) for _ in range(ROUNDS + 1)]
    return Costs(step, ours, ours + statistics.median(looks[1:]), 0.0)


def _steps_seconds(repeat: Repeat, env: Env, state: State, count: int, now: Clock) -> float:
    """Seconds of some steps as a run makes them, without a look."""
    some = replace(repeat, loop=replace(repeat.loop, lo=0, hi=count))
    run = RepeatRun(some, Bits(), StepGuard(None, count), count, env, RunRecord("", count))
    return _seconds(lambda: run.run(state), now)


def _seconds(call: Callable[[], object], now: Clock) -> float:
    started = now()
    call()
    return now() - started

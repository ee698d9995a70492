"""What a run costs beside its sweeps: steps of the captured loop, and what comes after the last block; measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import torch

from ..capture import Replay
from ..plan import Costs
from ..runtime.runner import Execution, Runner
from .workers import block_seconds, together_seconds

Now = Callable[[], float]
"""Seconds, once the device has done all that it was told."""
ENOUGH = 0.1
"""Seconds: about so long are steps of the captured loop timed."""
STEPS = 20
"""So many of them at most."""
IN_A_ROW = 32
"""Steps of a recurrence that are timed together, at most: each by itself takes longer."""
AT_LEISURE = 0.5
"""Seconds: blocks of a chain that takes longer are timed once each."""


def with_rest(costs: Costs, runner: Runner, execution: Execution, known: Replay, now: Now) -> Costs:
    """``costs`` with what the guard has to know of a run that hands over, and of one that need not.

    ``known``: the recorded run whose beginning ``execution`` is.
    """
    if runner.draws:
        costs = replace(costs, draws=_median(runner.draws, 3, now))
    with torch.no_grad():
        try:
            after = _median(lambda: _end(runner, execution, known), 3, now)
            if runner.chained is not None:
                turns = 1 if costs.step * runner.chained.blocks > AT_LEISURE else 5
                blocks = block_seconds(runner.chained, execution.env, now, turns)
                together = together_seconds(runner.chained, execution.env, now, turns)
                return replace(costs, after=after, blocks=blocks, together=together)
            again = _median(lambda: runner.checks.prologue(execution.env), 3, now)
            return replace(costs, after=after, captured=_step(runner, execution, known, now), again=again)
        except AssertionError:  # our own logic
            raise
        except Exception:  # the user's operators, on values that never occur: the reference's steps stand for these
            return costs


def _end(runner: Runner, execution: Execution, known: Replay) -> None:
    """What follows when sweeps have come to the end."""
    if runner.chained is not None:
        held = runner.chained.start_from(())
        runner.results(execution, runner.chained.finish(execution.env, held, runner.chained.blocks))
        return
    collected = known.left
    if runner.recurrent is not None and runner.recurrent.loop.collected:
        part = runner.recurrent
        collected = part.collect(part.prepare(execution.env), part.start_from(execution.init), part.blocks)
    if runner.system is not None:
        system, final = runner.system, known.final[0]
        collected = system.collect(execution.env, final, execution.init[0], system.blocks)
    runner.results(execution, (*known.final, *collected))


def _step(runner: Runner, execution: Execution, known: Replay, now: Now) -> float:
    """Seconds of a step of the captured loop as a handover makes it: of a few, from a state that occurs before them."""
    checkpoint = known.checkpoints[len(known.checkpoints) // 2]
    k, system = checkpoint.position, runner.system
    if system is not None:
        state, env = system.start_from(checkpoint.before[0]), execution.env
        return _few(lambda: system.step(env, state, k), now)
    step = runner.repeat.steps(execution.env) if runner.repeat is not None else None
    if step is not None:
        return _few(lambda: step(checkpoint.before), now)
    assert runner.recurrent is not None
    steps, env, before = runner.recurrent.steps, execution.env, checkpoint.before
    one = _median(lambda: steps.run(env, before, k, k + 1), 2, now)
    count = min(IN_A_ROW, runner.recurrent.blocks - k, int(ENOUGH / max(one, 1e-9)))
    return one if count < 2 else _few(lambda: steps.run(env, before, k, k + count), now) / count


def _few(call: Callable[[], object], now: Now) -> float:
    call()  # not counted
    one = _median(call, 1, now)
    return _median(call, max(min(STEPS, int(ENOUGH / max(one, 1e-9))), 1), now)


def _median(call: Callable[[], object], times: int, now: Now) -> float:
    seconds = []
    for _ in range(times):
        started = now()
        call()
        seconds.append(now() - started)
    return statistics.median(seconds)

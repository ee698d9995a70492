"""One system: compiled by ``auto``, then run with every candidate on fresh inputs, and on hard ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ...choice.choose import to_try
from ...compiled import Compiled
from ...driver import compile as compile_function
from ...plan import Method, Schedule
from ..harness import load_between, moment, seconds_of
from ..samplers import with_schedule
from .checked import Checks, Variant, check
from .decision import EAGER, Decision, Seconds
from .system import Function, Inputs, System

FAR = 5.0
"""What is that many times slower than the fastest is not run again: it cannot be the best."""
ENOUGH, FEWEST = 6.0, 3
"""Seconds after which no further round is begun, and the rounds that are made all the same."""
HARD_ROUNDS = 9
SEQUENTIAL, JACOBI = Schedule(Method.SEQUENTIAL), Schedule(Method.JACOBI)

Variants = Mapping[str, Variant]


def decide(system: System, pairs: int, setting: str) -> Decision:
    """Measure a system; whatever compiling or running it raises is kept as its ``error``."""
    before, began = moment(), time.perf_counter()
    known = (system.name, system.kind, str(system.equality), setting)
    try:
        with torch.no_grad():
            found = _decided(system, pairs)
    except Exception as error:  # the others are still to be measured
        found = {"error": f"{type(error).__name__}: {error}"}
    whole = time.perf_counter() - began
    return Decision(*known, **found, whole_seconds=whole, faults=load_between(before, moment()).faults())


def _decided(system: System, pairs: int) -> dict[str, Any]:
    function = system.make()
    torch.manual_seed(0)
    began = time.perf_counter()
    auto = compile_function(function, system.inputs(0), equality=system.equality, cache=False)
    compile_seconds = time.perf_counter() - began
    candidates = auto.plan.candidates
    variants, chosen, checks = dict(every_variant(function, auto)), str(auto.plan.schedule), Checks()
    check(system, variants, system.inputs, checks)
    seconds = in_turns(variants, system.inputs, range(2, 2 + pairs), keep={chosen})
    hard = {} if auto.plan.refusal is not None else dict(on_hard_inputs(system, variants, seconds, chosen, checks))
    return {
        "chosen": chosen,
        "refusal": auto.plan.refusal,
        "predicted": {str(c.schedule): c.seconds if c.predicted is None else c.predicted for c in candidates},
        "on_example": {str(c.schedule): c.seconds for c in candidates if c.measured},
        "seconds": seconds,
        "errors": checks.errors,
        "residuals": checks.residuals,
        "wrong": checks.wrong,
        "hard": hard,
        "compile_seconds": compile_seconds,
    }


def every_variant(function: Function, auto: Compiled) -> Iterator[tuple[str, Variant]]:
    """The function itself, what ``auto`` gave, and the same plan with every other schedule, guarded."""
    yield EAGER, lambda *arguments: (function(*arguments), None)
    yield str(auto.plan.schedule), auto.run
    if auto.plan.refusal is None:
        for schedule in others(auto):
            yield str(schedule), with_schedule(auto, schedule).run


def others(auto: Compiled) -> list[Schedule]:
    """What `auto` did not choose: the other candidates of its plan, and those that it left out for lack of time."""
    table = auto.plan.candidates
    every = (SEQUENTIAL, *(c.schedule for c in table), *to_try(auto.plan, auto.proof, None))
    never = {auto.plan.schedule, *(c.schedule for c in table if c.excluded)}
    return [schedule for schedule in dict.fromkeys(every) if schedule not in never]


def in_turns(variants: Variants, inputs: Inputs, seeds: Iterable[int], keep: set[str]) -> Seconds:
    """Seconds of each variant on the inputs of each seed, one variant after the other.

    After the first round those that are far slower than the fastest drop out, but for ``keep``.
    """
    seconds: Seconds = {name: [] for name in variants}
    began = time.perf_counter()
    for done, seed in enumerate(seeds):
        if done >= FEWEST and time.perf_counter() - began > ENOUGH:
            break
        arguments = inputs(seed)
        for name in _worth_running(seconds, keep):
            torch.manual_seed(seed)
            seconds[name].append(seconds_of(lambda: variants[name](*arguments), torch.device("cpu")))  # noqa: B023
    return seconds


def _worth_running(seconds: Seconds, keep: set[str]) -> list[str]:
    first = [times[0] for times in seconds.values() if times]
    return [name for name, times in seconds.items() if name in keep or not times or times[0] <= FAR * min(first)]


def on_hard_inputs(
    system: System, variants: Variants, seconds: Seconds, chosen: str, checks: Checks
) -> Iterator[tuple[str, Seconds]]:
    """Guarded schedules on inputs harder than those of the plan: the chosen one, the best parallel one, Jacobi."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    parallel = sorted(set(variants) - {EAGER, str(SEQUENTIAL)}, key=medians.__getitem__)
    names = [name for name in dict.fromkeys((chosen, *parallel[:1], str(JACOBI))) if name in parallel]
    taken = {name: variants[name] for name in (EAGER, *names)}
    for kind, inputs in system.hard.items():
        check(system, taken, inputs, checks, f" ({kind})")
        yield kind, in_turns(taken, inputs, range(2, 2 + HARD_ROUNDS), keep=set(taken))

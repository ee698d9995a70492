"""One system: compiled by ``auto``, then run with every candidate on fresh inputs, and on hard ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ...driver import compile as compile_function
from ...plan import Method, Schedule
from ..harness import load_between, moment, seconds_of
from .checked import Checks, Variant, check
from .decision import EAGER, Decision, Seconds
from .system import Function, Inputs, System
from .ways import SEQUENTIAL, Way, on_example, predicted, refusal_of, ways_of

FAR, TWICE = 5.0, 2
"""What is that many times slower than the fastest, twice, is not run again: it cannot be the best."""
ENOUGH, FEWEST = 6.0, 3
"""Seconds after which no further round is begun, and the rounds that are made all the same."""
HARD_ROUNDS = 9
JACOBI = Schedule(Method.JACOBI)

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
    ways = ways_of(system, function, auto)
    variants, chosen, checks = dict(every_variant(function, ways)), ways[0].name, Checks()
    refusal = refusal_of(auto.plan)
    check(system, variants, system.inputs, checks)
    seconds = in_turns(variants, system.inputs, range(2, 2 + pairs), keep={chosen})
    hard = {} if refusal is not None else dict(on_hard_inputs(system, variants, seconds, chosen, checks))
    return {
        "chosen": chosen,
        "refusal": refusal,
        "predicted": {w.name: s for w in ways if (s := w.seconds(predicted)) is not None},
        "on_example": {w.name: s for w in ways if (s := w.seconds(on_example)) is not None},
        "seconds": seconds,
        "errors": checks.errors,
        "residuals": checks.residuals,
        "wrong": checks.wrong,
        "hard": hard,
        "compile_seconds": compile_seconds,
    }


def every_variant(function: Function, ways: Iterable[Way]) -> Iterator[tuple[str, Variant]]:
    """The function itself, and every way of running it, guarded."""
    yield EAGER, lambda *arguments: (function(*arguments), None)
    yield from ((way.name, way.compiled.run) for way in ways)


def in_turns(variants: Variants, inputs: Inputs, seeds: Iterable[int], keep: set[str]) -> Seconds:
    """Seconds of each variant on the inputs of each seed, one variant after the other.

    After two rounds those that are far slower than the fastest drop out: in one, a machine that does something else for
    a moment can make any of them slow. What is to be kept drops out of none, and the function itself after `FEWEST`.
    """
    seconds: Seconds = {name: [] for name in variants}
    began = time.perf_counter()
    for done, seed in enumerate(seeds):
        if done >= FEWEST and time.perf_counter() - began > ENOUGH:
            break
        arguments = inputs(seed)
        for name in _worth_running(seconds, keep | ({EAGER} if done < FEWEST else set())):
            torch.manual_seed(seed)
            seconds[name].append(seconds_of(lambda: variants[name](*arguments), torch.device("cpu")))  # noqa: B023
    return seconds


def _worth_running(seconds: Seconds, keep: set[str]) -> list[str]:
    first = {name: min(times[:TWICE]) for name, times in seconds.items() if len(times) >= TWICE}
    fastest = min(first.values(), default=0.0)
    return [name for name in seconds if name in keep or name not in first or first[name] <= FAR * fastest]


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

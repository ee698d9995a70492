"""Functions with several loops in a row: what each part is given and takes, and whether solving some is worth it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..capture import Replay
from ..modes import as_recorded
from ..plan import Method, Plan, Schedule, in_a_row
from ..proof import Proof
from ..runtime.guard import SLACK
from ..runtime.runner import Runner
from .calibrate import Example

SEQUENTIAL = Schedule(Method.SEQUENTIAL)
ENOUGH = 1.0
"""Seconds: a reference that takes longer than this is timed once, else three times."""


@dataclass(frozen=True, slots=True)
class PartSeconds:
    """Of one part: its share of the reference's seconds, and the seconds of its captured loop run step by step."""

    reference: float
    captured: float

    def share(self, budget: float) -> float:
        """Its seconds, whatever the budget: the reference cannot run one part by itself."""
        return self.reference


def inputs_of_parts(
    plan: Plan,
    proofs: Sequence[Proof],
    examples: Sequence[Example],
    inputs: Sequence[Sequence[Tensor]],
    left: Callable[[], float],
) -> list[tuple[Replay, ...]]:
    """For each part what it is given when the function is called with further ``inputs``, as far as there is time.

    What a part gives, its captured loop run step by step, is what the next one is given. A call that goes another way
    than the recorded one, or raises, is not followed any further.
    """
    given: list[list[Replay]] = [[] for _ in examples]
    runners = [_sequential(part, proof) for part, proof in zip(plan.parts, proofs, strict=True)]
    for arguments in inputs:
        handed: Sequence[Tensor] | None = arguments
        for k, (runner, example) in enumerate(zip(runners, examples, strict=True)):
            if handed is None:
                break
            given[k].append(Replay(tuple(handed), (), (), (), (), False, example.replay.generators))
            last = k + 1 == len(runners)
            handed = None if last or left() <= 0.0 else _handed_on(runner, example, handed)
    return [tuple(calls) for calls in given]


def _handed_on(runner: Runner, example: Example, arguments: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """What a part gives on other arguments, with the random numbers of the recorded run; None if it is not its own."""
    try:
        with torch.no_grad(), as_recorded(runner.device):
            execution = runner.begin(arguments, example.weights(), example.replay.generators)
            results = [] if execution.otherwise else runner.complete(execution)
            return None if execution.otherwise else runner.returned(results)
    except AssertionError:  # our own logic
        raise
    except Exception:  # the user's operators: the function raises on these arguments too
        return None


def measure_parts(
    plan: Plan, proofs: Sequence[Proof], examples: Sequence[Example], timed: Callable[[float], float]
) -> list[PartSeconds]:
    """The reference is timed whole; its parts share its time as their captured loops share theirs."""
    own = [_captured_seconds(p, x, e) for p, x, e in zip(plan.parts, proofs, examples, strict=True)]
    whole = timed(ENOUGH)
    if whole < ENOUGH:
        whole = min(whole, timed(ENOUGH), timed(ENOUGH))
    total = sum(own)
    return [PartSeconds(whole * seconds / total, seconds) for seconds in own]


def _captured_seconds(plan: Plan, proof: Proof, example: Example) -> float:
    """The better of two times."""
    runner = _sequential(plan, proof)
    device, known, weights = runner.device, example.replay, example.weights()
    times = []
    with torch.no_grad(), as_recorded(device):
        for _ in range(2):
            started = time.perf_counter()
            execution = runner.begin(known.arguments, weights, known.generators)
            runner.complete(execution)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
    return min(times)


def _sequential(plan: Plan, proof: Proof) -> Runner:
    """Runs the captured loop of one part step by step."""
    return Runner(replace(plan, schedule=SEQUENTIAL, rest=None), proof, torch.device(plan.device))


def worth_it(parts: Sequence[Plan], seconds: Sequence[PartSeconds]) -> Plan:
    """The parts as they were chosen, or all of them sequential where that costs less: then the function runs as it is.

    A part that is not solved is run by its captured loop, beside others that are; should the guard then end the sweeps
    of the others late, the whole must still keep its promise.
    """
    whole = sum(own.reference for own in seconds)
    pairs = list(zip(parts, seconds, strict=True))
    if all(part.schedule.method is Method.SEQUENTIAL for part in parts):
        return in_a_row(parts)
    mixed = sum(_seconds(part, own) for part, own in pairs)
    worst = sum(_worst(part, own) for part, own in pairs)
    if mixed < whole and worst <= SLACK * whole:
        return in_a_row(parts)
    most = "" if mixed >= whole else f"at most {worst:.4g} s, and "
    why = f"with the other parts all would take {most}{mixed:.4g} s, and the function itself {whole:.4g} s"
    return in_a_row([replace(part, schedule=SEQUENTIAL, why=f"{part.why}; {why}".lstrip("; ")) for part in parts])


def _seconds(part: Plan, own: PartSeconds) -> float:
    if part.schedule.method is Method.SEQUENTIAL:
        return own.captured
    return next(c.seconds for c in part.candidates if c.schedule == part.schedule)


def _worst(part: Plan, own: PartSeconds) -> float:
    """What it may take: the guard bounds the sweeps of a part by its share of the reference."""
    return SLACK * own.reference if part.schedule.sweeps else own.captured

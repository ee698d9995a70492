"""Before a program is trusted: it must do what the user's function did, in bits, on recorded runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .capture import Captured, Replay
from .errors import CaptureError
from .program import Chain
from .proof import Proof, Refusal
from .runtime.equality import compare, same_bits
from .runtime.premises import below, really_finite
from .runtime.runner import Execution, Runner
from .runtime.system import System, by_levels
from .runtime.unseen import unsettled


def confirm(runner: Runner, captured: Captured, weights: Mapping[str, Tensor]) -> None:
    """Prologue, a few steps and epilogue give the bits of the user's own code, on the example and on second inputs.

    Raises: `CaptureError` with the first place that differs.
    """
    with torch.no_grad():
        for which, replay in zip(("the example inputs", "second inputs"), captured.replays, strict=True):
            _confirm_replay(runner, replay, weights, which)


def _confirm_replay(runner: Runner, replay: Replay, weights: Mapping[str, Tensor], which: str) -> None:
    execution = runner.begin(replay.arguments, weights, replay.generators)
    _went_the_same_way(execution, which)
    _same(execution.init, replay.init, f"the state before the loop, on {which}")
    for checkpoint in replay.checkpoints:
        after = runner.one_step(execution, checkpoint.before, checkpoint.position)
        _same(after, checkpoint.after, f"the state after step {checkpoint.position} of the loop, on {which}")
    final = (*replay.final, *replay.left, *_tested(runner, replay))
    whole = len(replay.final) + len(runner.program.loop.collected) != len(final)
    if whole and not replay.complete:
        _was_confirmed(runner, which)
        return
    if whole or isinstance(runner.program.loop, Chain):
        final = runner.finish(execution)
    _same(runner.results(execution, final), replay.results, f"the result, on {which}")
    if replay.complete:
        _went_the_same_way(execution, which)


def _was_confirmed(runner: Runner, which: str) -> None:
    """Of an array that steps write into, and in a run of a few steps not all did, the other run tells what becomes."""
    if which != "second inputs":
        arrays = ", ".join(value.name for value in runner.program.loop.collected)
        raise CaptureError(
            f"the steps of the loop, which write into arrays ({arrays}), take too long to be run whole and compared\n"
            "  compile with a shorter example, or give the steps' results by ffc.scan"
        )


def _tested(runner: Runner, replay: Replay) -> Iterator[Tensor]:
    """In place of what the tests in steps that were left out would have seen."""
    came_out = {check.value.name: check.holds for check in runner.program.checks}
    for value in runner.program.loop.collected[len(replay.left) :]:
        if value.name in came_out and not replay.complete:
            yield torch.full(value.type.shape, came_out[value.name], device=runner.device)


def _went_the_same_way(execution: Execution, which: str) -> None:
    if execution.otherwise:
        raise CaptureError(f"the captured program does not reproduce a test, on {which}: {execution.otherwise}")


def _same(got: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    for output, (a, b) in enumerate(zip(got, expected, strict=True)):
        if not same_bits(a, b):
            difference = compare(output, a, b) if a.shape == b.shape and a.dtype == b.dtype else f"{a.shape}, {b.shape}"
            raise CaptureError(
                f"the captured program does not reproduce {what}: {difference}\n"
                "  the function is not deterministic, or depends on something besides its arguments (call it twice and "
                "compare, with torch.use_deterministic_algorithms(True)); or it computes in place on part of a tensor, "
                "which can round otherwise than into a new one: write x[:, :3] = x[:, :3].sigmoid()"
            )


def interference(runner: Runner, captured: Captured, proof: Proof, weights: Mapping[str, Tensor]) -> Refusal | None:
    """Whether, on this device, values round alike whatever stands at the positions that they do not depend on.

    The certificate rests on this (docs/exactness.md); a kernel for which it does not hold makes sweeps unsound here.
    """
    assert runner.system is not None
    replay = captured.replays[0]
    orders = [(runner.system, proof)]
    if proof.wave is not None:  # a sweep by levels rests on more: steps before it in the loop may be after it here
        orders.append((by_levels(runner.system, proof.wave), proof.wave.proof))
    with torch.no_grad():
        execution = runner.begin(replay.arguments, weights, replay.generators)
        found = (_interference_in(system, known, execution.env, replay.final[0]) for system, known in orders)
        return next((refusal for refusal in found if refusal is not None), None)


def untold(runner: Runner, captured: Captured, weights: Mapping[str, Tensor]) -> Refusal | None:
    """Why the last array does not tell what the steps on the example left besides it, or how their tests came out."""
    system, replay = runner.system, captured.replays[0]
    if system is None or not system.loop.collected:
        return None
    with torch.no_grad():
        execution = runner.begin(replay.arguments, weights, replay.generators)
        (init,), final = execution.init, replay.final[0]
        for test in unsettled(system.loop, system.unseen, execution.env, (init, final)):
            return Refusal(test.why)
        left = system.collect(execution.env, final, init, system.blocks) if replay.complete else ()
    for value, got, expected in zip(system.loop.collected, left, replay.left, strict=False):
        if not same_bits(got, expected):
            return Refusal(f"on this device, {value.name} is not on the last array what the steps left on theirs")
    return None


def _interference_in(system: System, proof: Proof, env: Mapping[str, Tensor], final: Tensor) -> Refusal | None:
    """The same, for blocks in the order of ``system``."""
    expected = system.all_seen(env, final)
    if not _holds(system, env, expected, final):
        return None
    for front in _fronts(system.blocks):
        for filling in _fillings(final):
            state = system.start_from(final)
            system.region.write(state, front, system.blocks, system.region.read(filling, front, system.blocks))
            try:
                got = system.all_seen(env, state)
            except AssertionError:  # our own logic
                raise
            except Exception:  # the user's operators, on values that never occur: nothing to compare
                continue
            if not _holds(system, env, got, state):
                continue  # a premise fails: a sweep would certify nothing either
            name = _disturbed(got, expected, proof, front)
            if name is not None:
                return Refusal(
                    f"on this device, {name} changes at positions before {front} when only later positions change: "
                    "a kernel's rounding depends on values that the result does not depend on"
                )
    return None


FRONTS = 16
"""Of a loop with up to this many steps every front is tried; of others, quarters."""


def _fronts(blocks: int) -> list[int]:
    """From which block on positions are disturbed: from the first too, for what depends on no step."""
    return list(range(blocks)) if blocks <= FRONTS else [quarter * blocks // 4 for quarter in range(4)]


def _holds(system: System, env: Mapping[str, Tensor], values: Mapping[str, Tensor], state: Tensor) -> bool:
    everything = {**env, **values, system.loop.carry.name: state}
    return really_finite(everything[name] for name in system.finite) and below(everything, system.bounds)


def _fillings(final: Tensor) -> list[Tensor]:
    """What later positions are disturbed with: zeros of both signs, other values, large values."""
    if not final.dtype.is_floating_point:
        return [torch.zeros_like(final), final.flip(0)]
    return [torch.zeros_like(final), torch.full_like(final, -0.0), -final, final * 100.0]


def _disturbed(got: Mapping[str, Tensor], expected: Mapping[str, Tensor], proof: Proof, front: int) -> str | None:
    for name, latest in proof.latest.items():
        for key in (key for key in got if key.split(".")[0] == name):  # each result of an operator that has several
            settled = torch.from_numpy(np.asarray(latest < front)).to(got[key].device).expand(got[key].shape)
            if not same_bits(got[key][settled], expected[key][settled]):
                return key
    return None

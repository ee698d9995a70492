"""Whether sweeps may solve a recurrence on this device, under the equality that was asked for; and why not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .capture import Captured, Replay
from .graph import Node
from .plan import Bits, Equality
from .proof import Refusal
from .runtime.chained import Chained
from .runtime.equality import same_bits
from .runtime.recurrent import Recurrent
from .runtime.runner import Runner
from .runtime.together import Together
from .stacks import ONE_LAYER

NEAR = 1e-3
"""Of the largest element: how far a lifted step may be from the step itself, in the precision of float32."""


def sweepable(runner: Runner, captured: Captured, weights: Mapping[str, Tensor], equality: Equality) -> Refusal | None:
    """None if sweeps may run; else the operator that is in the way, its line, and what to do."""
    system = runner.recurrent
    assert system is not None
    if (why := obstacle(system, equality)) is not None:
        return why
    with torch.no_grad():
        wrong = next((place for r in captured.replays if (place := _wrong(runner, system, r, weights))), None)
    if wrong is None:
        return None
    return Refusal(f"on this device many steps at once do not give what single steps give: {wrong}")


def by_levels(runner: Runner, captured: Captured, weights: Mapping[str, Tensor], why: Refusal) -> Refusal | None:
    """None if the steps may be taken level by level, by the recorded calls; ``why`` not all at once."""
    system = runner.recurrent
    assert system is not None
    if system.waves is None:
        return Refusal(f"{why}\n{ONE_LAYER}")
    if not system.waves.recorded:
        return why
    with torch.no_grad():
        wrong = next((place for r in captured.replays if (place := _otherwise(runner, system, r, weights))), None)
    return None if wrong is None else Refusal(f"{why}\nlevel by level they do not either: {wrong}")


def _otherwise(runner: Runner, system: Recurrent, replay: Replay, weights: Mapping[str, Tensor]) -> str | None:
    """The first of the recorded steps that comes out otherwise when a sweep goes through all levels."""
    execution = runner.begin(replay.arguments, weights, replay.generators)
    state = system.start_from(execution.init)
    system.update(system.prepare(execution.env), state, 0, system.blocks, True)
    for checkpoint in replay.checkpoints:
        if not all(map(same_bits, system.at(state, checkpoint.position + 1), checkpoint.after)):
            return f"the state after step {checkpoint.position} of the loop"
    return None


def obstacle(system: Recurrent, equality: Equality) -> Refusal | None:
    """The operator that many steps at once cannot have, or not with the bits of single ones."""
    if system.unlifted:
        return Refusal(
            f"{_place(system.unlifted[0])} cannot be evaluated for many steps at once (it has no batching rule, or its "
            "shape depends on the step's number)\n  write it with other operators, or move it out of the loop"
        )
    if isinstance(equality, Bits) and not system.exact:
        return Refusal(
            f"{_place(system.inexact[0])} may round otherwise for many steps at once than for one: sweeps would "
            "not give the bits of the loop\n"
            "  equality=ffc.tolerance(1e-6, 1e-6) lets sweeps solve it: then the residual of every step is within "
            "the tolerance, and the run reports an estimated error"
        )
    return None


def together(runner: Runner, captured: Captured, weights: Mapping[str, Tensor]) -> tuple[tuple[int, ...], ...]:
    """The blocks of a chain that are computed together, as far as each then has what it has alone."""
    assert runner.chained is not None
    chained, right = runner.chained, list(runner.chained.together)
    with torch.no_grad():
        for replay in captured.replays if right else ():
            env = chained.prepare(runner.begin(replay.arguments, weights, replay.generators).env)
            alone = dict(zip((ref.key for ref in chained.chain.left), chained.finish(env, None), strict=True))
            right = [family for family in right if _as_alone(family, chained, {**env, **alone})]
    return tuple(family.blocks for family in right)


def _as_alone(family: Together, chained: Chained, env: Mapping[str, Tensor]) -> bool:
    made = family.made(env, env.__getitem__, 0, chained.blocks)
    agree = same_bits if family.exact else _near
    return all(agree(t, env[key]) for k, values in made.items() for key, t in zip(chained.keys[k], values, strict=True))


def _place(node: Node) -> str:
    return f"{node.op} at {node.source}"


def _wrong(runner: Runner, system: Recurrent, replay: Replay, weights: Mapping[str, Tensor]) -> str | None:
    """The first of the recorded steps that comes out otherwise among all steps; they all begin from its state."""
    execution = runner.begin(replay.arguments, weights, replay.generators)
    env = system.prepare(execution.env)
    agree = same_bits if system.exact else _near
    for checkpoint in replay.checkpoints:
        try:
            values, _ = system.update(env, system.start_from(checkpoint.before), 0, system.blocks, False)
        except AssertionError:  # our own logic
            raise
        except Exception:  # the user's operators, on states that other steps never have: nothing to compare
            continue
        if not all(map(agree, (leaf[checkpoint.position] for leaf in values), checkpoint.after)):
            return f"the state after step {checkpoint.position} of the loop"
    return None


def _near(got: Tensor, expected: Tensor) -> bool:
    """Alike but for rounding."""
    if not expected.dtype.is_floating_point and not expected.dtype.is_complex:
        return torch.equal(got, expected)
    kind = torch.complex128 if expected.dtype.is_complex else torch.float64
    precision = torch.finfo(expected.dtype).eps / torch.finfo(torch.float32).eps
    a, b = got.to(kind), expected.to(kind)
    finite = b.abs().nan_to_num(nan=0.0, posinf=0.0)
    limit = NEAR * max(precision, 1e-3) * (1.0 + float(finite.max()) if b.numel() else 1.0)
    return torch.allclose(a, b, 0.0, min(limit, 0.5), equal_nan=True)

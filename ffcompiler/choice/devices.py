"""What the verdict would be on another device: a step and a sweep measured there, where this process uses it already.

The user's function is bound to the device of its modules, its captured program is not: the captured loop, run step by
step there, stands for the function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..capture import Replay
from ..capture.captured import Checkpoint
from ..modes import as_recorded
from ..plan import Alternative, Costs, Method, Schedule
from ..program import ArrayLoop, Recurrence
from ..runtime.runner import Runner
from .choose import JACOBI, Outlook
from .measure import Example, Trial
from .rest_costs import with_rest
from .timing import now

MOST_BYTES = 2**30
"""No more than so many bytes of weights are copied to another device."""
CALLS = 12
"""So many sweeps are timed, about."""


def others_in_use(device: str) -> list[torch.device]:
    """The kinds of device besides this one that the process has used: none is started for what is only told."""
    known = ["cpu", *(["cuda"] if torch.cuda.is_initialized() else [])]  # type: ignore[no-untyped-call]
    return [torch.device(kind) for kind in known if kind != device]


def on_devices(
    outlook: Outlook, example: Example, devices: Sequence[torch.device], left: Callable[[], float]
) -> tuple[Alternative, ...]:
    """Plain Jacobi on each, as it is predicted there; none where the program does not run there, or takes too long."""
    if not isinstance(outlook.plan.system, ArrayLoop | Recurrence) or not outlook.traces:
        return ()
    return tuple(_on_each(outlook, example, devices, left))


def _on_each(
    outlook: Outlook, example: Example, devices: Sequence[torch.device], left: Callable[[], float]
) -> Iterator[Alternative]:
    for device in devices:
        try:
            with torch.no_grad(), as_recorded(device):
                there = _outlook_on(outlook, example, device, left)
        except AssertionError:  # our own logic
            raise
        except Exception:  # an operator that this device does not have, or not enough memory on it
            continue
        found = None if there is None else there.predict(JACOBI, {})
        if there is not None and found is not None:
            change, reference = f"on {device.type}", there.reference_seconds
            yield Alternative(change, found.sweeps, found.seconds, reference, schedule=found.schedule)


def _outlook_on(outlook: Outlook, example: Example, device: torch.device, left: Callable[[], float]) -> Outlook | None:
    """The same traces with the costs of another device; None where measuring them would take longer than there is time.

    A sweep of an array loop takes about as long as a step, one of a recurrence less than all steps.
    """
    weights = example.weights()
    if sum(t.nbytes for t in weights.values()) > MOST_BYTES:
        return None
    moved = {name: t.to(device) for name, t in weights.items()}
    plan = replace(outlook.plan, device=device.type, schedule=Schedule(Method.JACOBI))
    there = replace(example, replay=_moved(example.replay, device), weights=lambda: moved)
    runner = Runner(plan, outlook.proof, device, guarded=False)
    execution = runner.begin(there.replay.arguments, moved)
    known = with_rest(Costs(0.0, 0.0, 0.0, 0.0), runner, execution, there.replay, partial(now, device))
    system = plan.system
    assert system is not None
    if known.captured is None or known.captured * (CALLS if isinstance(system, ArrayLoop) else system.blocks) > left():
        return None
    reference = known.captured * system.blocks
    trial = Trial(plan, outlook.proof, there, device)
    costs = trial.called(trial.costs(reference, (JACOBI,)))
    costs = replace(costs, after=known.after, captured=known.captured, draws=known.draws)
    return replace(outlook, plan=plan, shape=trial.shape, costs=costs, reference_seconds=reference, memory_limit=None)


def _moved(replay: Replay, device: torch.device) -> Replay:
    """What was recorded, on another device; where random generators were belongs to the old one."""

    def to(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(t.to(device) for t in tensors)

    checkpoints = tuple(Checkpoint(c.position, to(c.before), to(c.after)) for c in replay.checkpoints)
    return replace(
        replay,
        arguments=to(replay.arguments),
        init=to(replay.init),
        checkpoints=checkpoints,
        final=to(replay.final),
        results=to(replay.results),
        generators={},
        left=to(replay.left),
    )

"""Costs, convergence and candidates of a plan, measured on the example inputs within a budget (docs/decision.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..modes import as_recorded
from ..plan import Costs, Plan, Schedule
from ..proof import Proof
from .choose import Calibration, Outlook
from .contest import Contest, Progress
from .measure import Example, Trial
from .memory import predicted_bytes
from .reference import QUICK, Reference
from .timing import Left

__all__ = ["QUICK", "Calibration", "Effort", "Example", "calibrate"]

TRACING = 0.4
"""The share of what is left of the budget that traces may take."""
CERTIFYING = 0.2
"""And a look at how many sweeps certify after windowed ones."""
LYAPUNOV = 0.1
"""And the Lyapunov exponent of a recurrence."""


@dataclass(frozen=True, slots=True)
class Effort:
    """``budget``: seconds for measuring costs, traces and candidates; the reference is timed besides.

    ``memory_limit``: bytes that a run may need besides arguments and weights, by prediction. ``by_name``: the schedule
    was asked for, and is run whatever budget and memory limit.
    """

    budget: float = 5.0
    memory_limit: int | None = None
    by_name: bool = False


def calibrate(
    plan: Plan,
    proof: Proof,
    example: Example,
    schedules: Sequence[Schedule],
    say: Progress,
    effort: Effort = Effort(),
) -> Calibration:
    """Costs on this machine now, and the candidates with predicted and measured seconds and sweeps.

    Of a schedule that was asked for by name nothing is predicted.
    """
    device = torch.device(plan.device)
    trial = Trial(plan, proof, example, device)
    reference = Reference.of(example.seconds, device)
    left = Left(effort.budget)
    with as_recorded(device):
        costs = trial.rest(trial.costs(reference.seconds, [s for s in schedules if s.sweeps]))
        reference.again(left)
        if effort.by_name:
            return _of_one(trial, schedules[0], reference.priced(costs, plan.system), reference, say)
        traces = trial.traces(left.share(TRACING))
        convergence = trial.convergence(traces, left.share(LYAPUNOV))
        certifying = trial.certifying(left.share(CERTIFYING))
        reference.again(left)
        costs = reference.priced(costs, plan.system)
        outlook = Outlook(plan, proof, trial.shape, costs, reference.seconds, traces, effort.memory_limit)
        contest = Contest(trial, outlook, schedules, reference, left, say, certifying)
        candidates, wrong = contest.held()
    say("candidates", len(schedules), len(schedules))
    outlook, certifying = contest.outlook, contest.certifying
    harder = {c.schedule: outlook.harder(c.schedule, certifying) for c in candidates if not c.excluded}
    seconds = outlook.reference_seconds
    return Calibration(outlook.costs, seconds, candidates, wrong, convergence, outlook, certifying, harder)


def _of_one(trial: Trial, schedule: Schedule, costs: Costs, reference: Reference, say: Progress) -> Calibration:
    """Of the schedule that was asked for."""
    say("candidates", 0, 1)
    alone, ok = trial.run(schedule, costs, reference.seconds)
    say("candidates", 1, 1)
    alone = replace(alone, memory=predicted_bytes(trial.plan, trial.proof, schedule))
    return Calibration(costs, reference.seconds, (alone,), None if ok else alone.note)

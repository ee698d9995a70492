"""Costs, convergence and candidates of a plan, measured on the example inputs within a budget (docs/decision.md)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..modes import as_recorded
from ..plan import EXCLUDED, Candidate, Plan, Schedule
from ..proof import Proof
from .choose import Calibration, Outlook, next_to_run
from .measure import QUICK, Example, Trial, reference_seconds_of
from .timing import Left

__all__ = ["QUICK", "Calibration", "Effort", "Example", "calibrate"]

Progress = Callable[[str, int, int], None]
TRACING = 0.4
"""The share of what is left of the budget that traces may take."""
CERTIFYING = 0.2
"""And a look at how many sweeps certify after windowed ones."""
LYAPUNOV = 0.1
"""And the Lyapunov exponent of a recurrence."""
ROUNDS = 6
"""So many times the best candidates are run again, in turns, so that a machine that slows down slows all of them."""
CLOSE = 1.5
"""Those that took at most so many times as long as the best."""


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
    reference_seconds = reference_seconds_of(example, device)
    left = Left(effort.budget)
    with as_recorded(device):
        costs = trial.rest(trial.costs(reference_seconds, schedules))
        outlook = Outlook(plan, proof, trial.shape, costs, reference_seconds, (), effort.memory_limit)
        if effort.by_name:
            say("candidates", 0, 1)
            alone, ok = trial.run(schedules[0], costs, reference_seconds)
            say("candidates", 1, 1)
            alone = replace(alone, memory=outlook.bytes_of(schedules[0]))
            return Calibration(costs, reference_seconds, (alone,), None if ok else alone.note)
        traces = trial.traces(left.share(TRACING))
        convergence = trial.convergence(traces, left.share(LYAPUNOV))
        certifying = trial.certifying(left.share(CERTIFYING))
        outlook = replace(outlook, traces=traces)
        contest = _Contest(trial, outlook, schedules, left, say, certifying)
        candidates, wrong = contest.held()
    say("candidates", len(schedules), len(schedules))
    if contest.references:  # the machine may have been faster, or slower, at the beginning
        reference_seconds = statistics.median([reference_seconds, *contest.references])
        costs = replace(costs, step=reference_seconds / max(plan.system.blocks if plan.system else 1, 1))
    return Calibration(costs, reference_seconds, candidates, wrong, convergence, outlook, contest.certifying)


@dataclass(slots=True)
class _Contest:
    """The best predicted candidates, run one after the other; without predictions all, in their order."""

    trial: Trial
    outlook: Outlook
    schedules: Sequence[Schedule]
    left: Left
    say: Progress
    certifying: dict[bool, int]  # as expected, then as the runs so far have needed
    run: dict[Schedule, Candidate] = field(default_factory=dict)
    wrong: str | None = None
    references: list[float] = field(default_factory=list)  # seconds of the reference in between

    def held(self) -> tuple[tuple[Candidate, ...], str | None]:
        """All candidates in their order, and which went wrong."""
        predicted = self._predicted()
        if not predicted:
            for schedule in self._able():
                if self.left() <= 0.0 and self.run:
                    break
                self._try(schedule, None)
        while (best := self._next(predicted)) is not None:
            before = dict(self.certifying)
            self._try(best.schedule, best.predicted)
            if self.certifying != before:
                predicted = {**predicted, **self._predicted()}
        self._again()
        shown = [s for s in self.schedules if s in self.run or self._shown(s, predicted)]
        return tuple(self._told(s, predicted) for s in shown), self.wrong

    def _again(self) -> None:
        """The best ones in turns with the reference, as long as there is time."""
        fastest = min((c.seconds for c in self.run.values()), default=0.0)
        close = [s for s, c in self.run.items() if c.seconds <= CLOSE * fastest]
        for _ in range(ROUNDS):
            for schedule in close:
                if self.left() < self.run[schedule].seconds:
                    return
                self.run[schedule] = self.trial.again(self.run[schedule], self.outlook.reference_seconds)
            if self.left() > self.outlook.reference_seconds:
                self.references.append(self.trial.reference())

    def _able(self) -> list[Schedule]:
        return [s for s in self.schedules if not self.outlook.too_large(s)]

    def _predicted(self) -> dict[Schedule, Candidate]:
        """Of all that were not run, as far as there are traces."""
        found = {s: self.outlook.predict(s, self.certifying) for s in self._able() if s not in self.run}
        return {s: c for s, c in found.items() if c is not None}

    def _next(self, predicted: Mapping[Schedule, Candidate]) -> Candidate | None:
        if self.left() <= 0.0:
            return None
        waiting = [c for s, c in predicted.items() if s not in self.run]
        return next_to_run(tuple(self.run.values()), waiting, self.outlook.reference_seconds)

    def _try(self, schedule: Schedule, predicted: float | None) -> None:
        self.say("candidates", len(self.run), len(self.schedules))
        found, ok = self.trial.run(schedule, self.outlook.costs, self.outlook.reference_seconds)
        self.wrong = self.wrong or (None if ok else found.note)
        self.run[schedule] = replace(found, predicted=predicted, memory=self.outlook.bytes_of(schedule))
        if found.certifying and found.certifying < found.sweeps:
            self.certifying[schedule.windows] = found.certifying

    def _shown(self, schedule: Schedule, predicted: Mapping[Schedule, Candidate]) -> bool:
        return schedule in predicted or self.outlook.too_large(schedule)

    def _told(self, schedule: Schedule, predicted: Mapping[Schedule, Candidate]) -> Candidate:
        if schedule in self.run:
            return self.run[schedule]
        if not self.outlook.too_large(schedule):
            return predicted[schedule]
        needed, limit = self.outlook.bytes_of(schedule) or 0, self.outlook.memory_limit or 0
        note = f"{EXCLUDED}: about {needed} bytes are needed, and {limit} allowed"
        return Candidate(schedule, self.outlook.reference_seconds, 0, note, measured=False, memory=needed)

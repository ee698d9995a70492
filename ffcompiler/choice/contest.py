"""The candidates that are predicted to be best, run: each through to its end, and the fastest in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from ..plan import EXCLUDED, Candidate, Costs, Schedule
from .choose import CAPTURED, HOPELESS, NEAR, RUNS, Outlook, next_to_run
from .measure import Trial
from .reference import Reference
from .timing import Left

Progress = Callable[[str, int, int], None]
ROUNDS = 3
"""So many times the best candidates are run again, in turns, so that a machine that slows down slows all of them."""
CLOSE = 1.5
"""Those that took at most so many times as long as the best."""
SMALL = 0.1
"""Of the time that is left: the recorded calls are run whatever is predicted of them if they take so little."""
PAIRS, PAIRING = 5, 0.3
"""So many times recorded calls and the reference are run in turns, within this share of what is left."""
LOOKS = 3
"""So many times candidates are chosen to be run: anew where the reference turns out to take another time."""


@dataclass(slots=True)
class Contest:
    """The best predicted candidates, run one after the other; without predictions all, in their order."""

    trial: Trial
    outlook: Outlook
    schedules: Sequence[Schedule]
    reference: Reference
    left: Left
    say: Progress
    certifying: dict[bool, int]  # as expected, then as the runs so far have needed
    run: dict[Schedule, Candidate] = field(default_factory=dict)
    pairs: list[float] = field(default_factory=list)  # recorded calls by the reference, run one after the other
    wrong: str | None = None

    def held(self) -> tuple[tuple[Candidate, ...], str | None]:
        """All candidates in their order, and which went wrong."""
        predicted: Mapping[Schedule, Candidate] = self._predicted()
        if not any(schedule.sweeps for schedule in predicted):  # there is nothing to tell from
            for schedule in self._able():
                if self.left() <= 0.0 and self.run:
                    break
                self._try(schedule, None)
        if self._steps(predicted):
            predicted = {**predicted, **self._predicted()}
        for look in range(LOOKS):
            predicted = self._run_best(predicted, RUNS + look)
            self._again()
            if not self._moved():
                break
            predicted = {**predicted, **self._predicted()}
        self._again()
        self._settled()
        shown = [s for s in self.schedules if s in self.run or self._shown(s, predicted)]
        return tuple(self._told(s, predicted) for s in shown), self.wrong

    def _steps(self, predicted: Mapping[Schedule, Candidate]) -> bool:
        """Run the recorded calls if that takes little: what sweeps may risk depends on it. Does it change much?"""
        steps = predicted.get(CAPTURED)
        if (
            steps is None
            or CAPTURED in self.run
            or steps.seconds > SMALL * self.left()
            or steps.seconds > HOPELESS * self.reference.seconds
        ):
            return False
        self._try(CAPTURED, steps.predicted)
        return self._moved()

    def _pair(self) -> None:
        """Recorded calls, then the reference: a machine that is slow for a moment is slow for both."""
        self.run[CAPTURED] = self.trial.again(self.run[CAPTURED], self.outlook.reference_seconds)
        self.reference.look()
        self.pairs.append(self.trial.last(CAPTURED) / self.reference.times[-1])
        self._scale()

    def _scale(self) -> None:
        """Recorded calls take their share of what the reference is now known to take."""
        if self.pairs:
            share = median(self.pairs)
            note = f"{1.0 / share:.1f}x the reference's speed"
            self.run[CAPTURED] = replace(self.run[CAPTURED], seconds=share * self.reference.seconds, note=note)

    def _run_best(self, predicted: Mapping[Schedule, Candidate], limit: int) -> Mapping[Schedule, Candidate]:
        """Run what is predicted to be best, as far as it can change the choice; the predictions as they are then."""
        while (best := self._next(predicted, limit)) is not None:
            before = dict(self.certifying)
            self._try(best.schedule, best.predicted)
            if self.certifying != before:
                predicted = {**predicted, **self._predicted()}
        return predicted

    def _again(self) -> None:
        """The best ones in turns with the reference, as long as there is time."""
        fastest = min((c.seconds for c in self.run.values()), default=0.0)
        close = [s for s, c in self.run.items() if c.seconds <= CLOSE * fastest]
        for _ in range(ROUNDS):
            for schedule in close:
                if self.left() < self.run[schedule].seconds:
                    return
                if schedule != CAPTURED:
                    self.run[schedule] = self.trial.again(self.run[schedule], self.outlook.reference_seconds)
            left = self.left() - self.outlook.reference_seconds
            if CAPTURED in close and left > self.run[CAPTURED].seconds:
                self._pair()
            elif left > 0.0:
                self.reference.look()

    def _moved(self) -> bool:
        """Whether single steps take another time than was thought, by which the guard may let other runs go on.

        Those of the reference, or the recorded ones. Runs that it ended are forgotten then.
        """
        was, now = self.outlook.costs, self._settled()
        if _near(was.step, now.step) and _near(was.captured or was.step, now.captured or now.step):
            return False
        for schedule in [s for s in self.run if self.trial.was_ended(s)]:
            del self.run[schedule]
        return True

    def _settled(self) -> Costs:
        """What all is predicted from, as single steps are now known."""
        self._scale()
        self.outlook = replace(self.outlook, reference_seconds=self.reference.seconds, costs=self._priced())
        return self.outlook.costs

    def _priced(self) -> Costs:
        """With single steps as they are now known: recorded ones from whole runs, before which a few were timed."""
        costs, system = self.reference.priced(self.outlook.costs, self.outlook.plan.system), self.outlook.plan.system
        steps = self.run.get(CAPTURED)
        if steps is None or system is None or costs.captured is None or not system.blocks:
            return costs
        besides = costs.once + costs.draws + costs.after
        return replace(costs, captured=max(steps.seconds - besides, 0.0) / system.blocks)

    def _able(self) -> list[Schedule]:
        return [s for s in self.schedules if not self.outlook.too_large(s)]

    def _predicted(self) -> dict[Schedule, Candidate]:
        """Of all that were not run, as far as there are traces."""
        found = {s: self.outlook.predict(s, self.certifying) for s in self._able() if s not in self.run}
        return {s: c for s, c in found.items() if c is not None}

    def _next(self, predicted: Mapping[Schedule, Candidate], limit: int) -> Candidate | None:
        if self.left() <= 0.0:
            return None
        waiting = [c for s, c in predicted.items() if s not in self.run]
        return next_to_run(tuple(self.run.values()), waiting, self.outlook.reference_seconds, limit)

    def _try(self, schedule: Schedule, predicted: float | None) -> None:
        self.say("candidates", len(self.run), len(self.schedules))
        found, ok = self.trial.run(schedule, self.outlook.costs, self.outlook.reference_seconds)
        self.wrong = self.wrong or (None if ok else found.note)
        self.run[schedule] = replace(found, predicted=predicted, memory=self.outlook.bytes_of(schedule))
        if found.certifying and found.certifying < found.sweeps:
            self.certifying[schedule.windows] = found.certifying
        if schedule == CAPTURED:
            left = self.left.share(PAIRING)
            while len(self.pairs) < PAIRS and left() > self.run[CAPTURED].seconds + self.reference.seconds:
                self._pair()

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


def _near(was: float, now: float) -> bool:
    """As long, but for noise."""
    return now <= NEAR * was and was <= NEAR * now

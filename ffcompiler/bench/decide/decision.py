"""What was measured of one system, and what follows for the choice: regret, slow-down, error of the prediction."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from ...choice.choose import CAPTURED

EAGER, SEQUENTIAL = "eager", "sequential"
NEXT = " | "
"""Between the schedules of parts."""
STEPWISE = frozenset({SEQUENTIAL, str(CAPTURED)})
Seconds = dict[str, list[float]]


def ratio(seconds: list[float], by: list[float]) -> float:
    """The median over the turns that both have: a machine that slows down slows both."""
    return statistics.median(a / b for a, b in zip(seconds, by, strict=False))


@dataclass(frozen=True, slots=True)
class Decision:
    """One system, compiled by ``auto`` on its example and run on fresh inputs with every candidate.

    ``seconds``: by schedule, and of the user's function (`EAGER`), in turns; far slower ones have fewer. ``predicted``:
    seconds by schedule before it was tried (of sequential execution: of the reference). ``on_example``: those measured
    on the example, where it was tried. ``refusal``: why there is nothing to choose from. ``wrong``: what is not as it
    should be, by schedule. ``hard``: seconds by kind of hard input, of the function and of guarded schedules.
    ``faults``: why the machine may not have been quiet. ``error``: what compiling or running raised, if anything.
    """

    system: str
    kind: str
    equality: str
    setting: str
    chosen: str = ""
    refusal: str | None = None
    predicted: dict[str, float] = field(default_factory=dict)
    on_example: dict[str, float] = field(default_factory=dict)
    seconds: Seconds = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    residuals: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    hard: dict[str, Seconds] = field(default_factory=dict)
    compile_seconds: float = 0.0
    whole_seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def decided(self) -> bool:
        """Whether there were schedules to choose from."""
        return self.refusal is None and self.error is None

    def median(self, variant: str) -> float:
        return statistics.median(self.seconds[variant])

    @property
    def best(self) -> str:
        """The schedule that the chosen one is farthest behind, itself if behind none.

        The user's function counts for none: it is no choice that the compiler has. Nor do schedules that dropped out.
        """
        return self._best(slice(None))

    @property
    def regret(self) -> float:
        """Time of the chosen schedule by that of the best one: 1 at least, and 1 where there was nothing to choose.

        The best is named by every other turn, and held against the choice in the turns between; then the other way
        round, and the geometric mean is taken. Named by the turns in which it is measured, the best of twenty that take
        the same time would be ahead by noise.
        """
        halves = [slice(0, None, 2), slice(1, None, 2)]
        if not self.decided or len(self.seconds[self.chosen]) < len(halves):
            return self.lead
        found = [self._behind(self._best(named), held) for named, held in (halves, halves[::-1])]
        return max(statistics.geometric_mean(found), 1.0)

    @property
    def lead(self) -> float:
        """As `regret`, with the best named by the same turns."""
        return self._behind(self.best, slice(None)) if self.decided else 1.0

    def _best(self, turns: slice) -> str:
        """By some of the turns."""
        stayed = [n for n, t in self.seconds.items() if n != EAGER and len(t) == len(self.seconds[self.chosen])]
        return max([self.chosen, *stayed], key=lambda name: self._behind(name, turns))

    def _behind(self, name: str, turns: slice) -> float:
        """Time of the chosen schedule by that of another one, in some of the turns."""
        return ratio(self.seconds[self.chosen][turns], self.seconds[name][turns])

    @property
    def slowdown(self) -> float:
        """Time of a call of the compiled function by that of the user's own."""
        return ratio(self.seconds[self.chosen], self.seconds[EAGER])

    @property
    def prediction(self) -> float | None:
        """Predicted by measured time of the chosen schedule."""
        predicted = self.predicted.get(self.chosen)
        return None if predicted is None or not self.decided else predicted / self.median(self.chosen)

    @property
    def parallel(self) -> bool:
        """Whether any part was to be solved by sweeps."""
        return self.decided and not STEPWISE.issuperset(self.chosen.split(NEXT))

    @property
    def share(self) -> float | None:
        """The predicted share of the reference's seconds by the measured one: the machine's speed is no part of either.

        The former of seconds on the example, as compiling took them; the latter of the turns that both were run in.
        """
        predicted, reference = self.predicted.get(self.chosen), self.predicted.get(SEQUENTIAL)
        if predicted is None or not reference or not self.decided:
            return None
        return predicted / reference / self.slowdown

    def guarded(self) -> dict[str, float]:
        """Time of guarded runs on hard inputs by the user's function's, by kind of input and schedule."""
        return {
            f"{kind}, {name}": ratio(times, seconds[EAGER])
            for kind, seconds in self.hard.items()
            for name, times in seconds.items()
            if name != EAGER
        }

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def derived(self) -> dict[str, Any]:
        """What follows from the raw numbers."""
        if self.error is not None:
            return {"error": self.error}
        return {
            "best": self.best,
            "regret": self.regret,
            "lead": self.lead,
            "slowdown": self.slowdown,
            "predicted_by_measured": self.prediction,
            "predicted_share_by_measured": self.share,
            "guarded_by_eager": self.guarded(),
            "median_seconds": {name: self.median(name) for name in self.seconds},
        }

"""The decisions of many systems together, against the goals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...doctor import machine
from .decision import Decision

GOALS = {
    "regret, geometric mean": 1.05,
    "regret, worst": 1.25,
    "error of the prediction, median": 0.15,
    "guarded time on hard inputs by eager, median": 1.10,
}
"""At most these."""


@dataclass(frozen=True, slots=True)
class Summary:
    """``decisions`` in the order of the list of systems."""

    decisions: tuple[Decision, ...]

    @property
    def decided(self) -> list[Decision]:
        return [d for d in self.decisions if d.decided]

    @property
    def refused(self) -> list[Decision]:
        return [d for d in self.decisions if d.refusal is not None]

    @property
    def failed(self) -> list[Decision]:
        """Those that ended in an error, or gave something that is not the reference's."""
        return [d for d in self.decisions if d.error is not None or d.wrong]

    def figures(self) -> dict[str, float]:
        """By name; only those that there is something to compute from."""
        regrets = [d.regret for d in self.decided]
        slower = [d.slowdown for d in self.decisions if d.error is None]
        guarded = [ratio for d in self.decisions for ratio in d.guarded().values()]
        parallel = [d for d in self.decided if d.parallel]
        found: list[tuple[str, list[float], Callable[[list[float]], float]]] = [
            ("regret, geometric mean", regrets, statistics.geometric_mean),
            ("regret, worst", regrets, max),
            ("regret, worst, the best named by the same turns", [d.lead for d in self.decided], max),
            ("error of the prediction, median", _errors(self.decided), statistics.median),
            ("error of the prediction, parallel ones, median", _errors(parallel), statistics.median),
            ("error of the predicted share, median", _share_errors(self.decided), statistics.median),
            ("error of the predicted share, parallel ones, median", _share_errors(parallel), statistics.median),
            ("compiled by eager, worst", slower, max),
            ("compiled by eager, geometric mean", slower, statistics.geometric_mean),
            ("guarded time on hard inputs by eager, median", guarded, statistics.median),
            ("guarded time on hard inputs by eager, worst", guarded, max),
        ]
        return {name: figure(values) for name, values, figure in found if values}

    def worst(self) -> dict[str, str]:
        """The system behind each figure that is a worst one."""
        of = {
            "regret, worst": {d.system: d.regret for d in self.decided},
            "regret, worst, the best named by the same turns": {d.system: d.lead for d in self.decided},
            "compiled by eager, worst": {d.system: d.slowdown for d in self.decisions if d.error is None},
            "guarded time on hard inputs by eager, worst": {
                f"{d.system}: {what}": ratio for d in self.decisions for what, ratio in d.guarded().items()
            },
        }
        return {name: max(values, key=values.__getitem__) for name, values in of.items() if values}

    def faults(self) -> list[str]:
        """Why the machine may not have been quiet, by system."""
        return [f"{d.system}: {fault}" for d in self.decisions for fault in d.faults]

    @property
    def right(self) -> bool:
        return not self.failed

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": "decide",
            "systems": len(self.decisions),
            "decided": len(self.decided),
            "refused": {d.system: d.refusal for d in self.refused},
            "failed": {d.system: d.error or d.wrong for d in self.failed},
            "figures": self.figures(),
            "worst": self.worst(),
            "goals": GOALS,
            "loaded": {d.system: d.faults for d in self.decisions if d.faults},
            "decisions": [d.to_json() | d.derived() for d in self.decisions],
            "machine": machine(),
        }

    def __str__(self) -> str:
        counts = f"{len(self.decided)} decided, {len(self.refused)} refused, {len(self.failed)} failed"
        lines = [*table(self.decisions), "", f"{len(self.decisions)} systems: {counts}"]
        worst = self.worst()
        lines += [_against_goal(name, figure, worst.get(name)) for name, figure in self.figures().items()]
        lines += [f"REFUSED     {d.system}: sequential ({_first_line(d.refusal)})" for d in self.refused]
        lines += [f"FAILED      {d.system}: {_first_line(d.error or str(d.wrong))}" for d in self.failed]
        loaded = [d.system for d in self.decisions if d.faults]
        if loaded:
            lines.append(f"LOADED      while {len(loaded)} systems were measured, first {loaded[0]}")
        return "\n".join(lines)


def _errors(decisions: Sequence[Decision]) -> list[float]:
    return [abs(d.prediction - 1.0) for d in decisions if d.prediction is not None]


def _share_errors(decisions: Sequence[Decision]) -> list[float]:
    """Of shares of the reference's time: of them the machine's speed is no part."""
    return [abs(d.share - 1.0) for d in decisions if d.share is not None]


def _against_goal(name: str, figure: float, system: str | None) -> str:
    goal = GOALS.get(name)
    verdict = "" if goal is None else f"   goal {goal:.2f}: {'reached' if figure <= goal else 'NOT REACHED'}"
    return f"{name:<54}{figure:>8.3f}{verdict}" + (f"   ({system})" if system else "")


_HEAD = ("system", "chosen", "best measured", "ms", "regret", "predicted", "share", "by eager", "guarded", "equal")
_ROW = "{:<28}{:<32}{:<32}{:>9}{:>8}{:>11}{:>8}{:>10}{:>9}  {}"


def table(decisions: Sequence[Decision]) -> list[str]:
    """One line for each system: regret, predicted by measured (seconds, then shares), compiled and guarded by eager."""
    return [_ROW.format(*_HEAD), *map(_row, decisions)]


def _row(d: Decision) -> str:
    if d.error is not None:
        return f"{d.system:<28}error: {_first_line(d.error)}"
    predicted, share, guarded = d.prediction, d.share, list(d.guarded().values())
    return _ROW.format(
        d.system,
        d.chosen if d.decided else "sequential (refused)",
        d.best if d.decided else "",
        f"{1e3 * d.median(d.chosen):.4g}",
        f"{d.regret:.2f}",
        "" if predicted is None else f"{predicted:.2f}",
        "" if share is None else f"{share:.2f}",
        f"{d.slowdown:.2f}",
        f"{max(guarded):.2f}" if guarded else "",
        "WRONG" if d.wrong else "yes",
    )


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0][:150]

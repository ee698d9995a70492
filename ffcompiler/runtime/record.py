"""What a run did: the front after each sweep, how it ended, and what was certified."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class Ending(Enum):
    """How a run came to its answer; the text says what it means for the user."""

    SWEEPS = "the sweeps reached the last block"
    SEQUENTIAL = "the plan is sequential: this is the reference itself"
    GUARD = "another sweep might have cost more than it saves, so the rest ran sequentially from the certified front"
    PREMISE = "a premise of the proof failed in a sweep, so the rest ran sequentially from the certified front"
    RAISED = "a sweep raised on unconverged values, so the rest ran sequentially from the certified front"
    STALE = "weights or settings have changed such that the plan no longer holds, so the function ran as it is"
    UNPLANNED = "there is no plan for these arguments, so the function ran as it is"


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep over blocks ``lo .. hi - 1``; ``front`` counts the leading final blocks after it.

    ``certified`` says whether the sweep certifies. Under a tolerance, ``residual`` is the largest residual of the
    blocks that it made final, ``change`` the largest of all blocks in the window.
    """

    lo: int
    hi: int
    front: int
    certified: bool
    seconds: float
    residual: float | None = None
    change: float | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is claimed of the result, and on which grounds."""

    equality: str
    method: str
    certified_blocks: int  # established by sweeps
    sequential_blocks: int  # run by the reference's own steps
    certifying_sweeps: int
    premises: tuple[str, ...] = ()
    residual: float | None = None
    estimated_error: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.certified_blocks:
            plural = "" if self.certifying_sweeps == 1 else "s"
            parts.append(f"{self.certified_blocks} blocks by {self.certifying_sweeps} certifying sweep{plural}")
        if self.sequential_blocks:
            parts.append(f"{self.sequential_blocks} blocks by the reference's own steps")
        text = f"{self.equality}: {' and '.join(parts)} ({self.method})"
        if self.residual is not None:
            text += f"; residual at most {self.residual:.3g}, estimated error {self.estimated_error or 0.0:.3g}"
        return text


@dataclass(slots=True)
class RunRecord:
    """Of one call. Seconds are wall-clock; ``spent`` and ``reference`` are in calibrated (counted) cost."""

    schedule: str
    blocks: int
    ending: Ending = Ending.SEQUENTIAL
    sweeps: list[Sweep] = field(default_factory=list)
    certified: int = 0
    seconds: float = 0.0
    spent: float = 0.0
    reference: float = 0.0
    detail: str = ""
    certificate: Certificate | None = None

    @property
    def fronts(self) -> list[int]:
        return [sweep.front for sweep in self.sweeps]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dump``."""
        data = asdict(self)
        return {**data, "ending": self.ending.value, "sweep_count": len(self.sweeps)}

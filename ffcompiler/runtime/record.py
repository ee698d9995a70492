"""What a run did: the front after each sweep, how it ended, and what was certified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from itertools import pairwise
from typing import Any


class Ending(Enum):
    """How a run came to its answer; the text says what it means for the user."""

    SWEEPS = "the sweeps reached the last block"
    SEQUENTIAL = "the plan is sequential: this is the reference itself"
    CAPTURED = "the recorded calls were made step by step, without sweeps"
    GUARD = "another sweep might have cost more than it saves, so the rest ran sequentially from the certified front"
    PREMISE = "a premise of the proof failed in a sweep, so the rest ran sequentially from the certified front"
    RAISED = "a sweep raised on unconverged values, so the rest ran sequentially from the certified front"
    STALE = "weights or settings have changed such that the plan no longer holds, so the function ran as it is"
    OTHERWISE = "a test on values came out otherwise than when this was compiled, so the function ran as it is"
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
            error = "unknown" if self.estimated_error is None else f"{self.estimated_error:.3g}"
            text += f"; residual at most {self.residual:.3g}, estimated error {error}"
        return text


def joined(certificates: Sequence[Certificate | None]) -> str:
    """One text for the certificates of parts in a row, its first words being what holds for all of them.

    >>> parts = [Certificate("bits", "jacobi", 9, 0, 1), Certificate("bits", "this is the reference", 0, 5, 0)]
    >>> print(joined(parts))
    bits in each of 2 parts
      part 1: 9 blocks by 1 certifying sweep (jacobi)
      part 2: 5 blocks by the reference's own steps (this is the reference)
    """
    if len(certificates) == 1:
        return str(certificates[0] or "")
    known = [certificate for certificate in certificates if certificate is not None]
    if len(known) < len(certificates):
        missing = [f"part {k}" for k, certificate in enumerate(certificates, 1) if certificate is None]
        first = f"nothing is claimed of the whole: there is no certificate for {' and '.join(missing)}"
    else:
        first = f"{_weakest(known)} in each of {len(known)} parts"
        if any(certificate.residual is not None for certificate in known):
            first += ", on what the part before it handed on: errors of earlier parts are not bounded in later ones"
    return "\n  ".join([first, *(f"part {k}: {_grounds(c)}" for k, c in enumerate(certificates, 1))])


def _weakest(certificates: Sequence[Certificate]) -> str:
    """The equality that all parts have at least: a tolerance, if one has no more than that."""
    return next((c.equality for c in certificates if c.equality != "bits"), "bits")


def _grounds(certificate: Certificate | None) -> str:
    return "no certificate" if certificate is None else str(certificate).removeprefix(f"{certificate.equality}: ")


@dataclass(slots=True)
class RunRecord:
    """Of one call. Seconds are wall-clock; ``spent`` and ``reference`` are in calibrated (counted) cost.

    Of a function with several loops in a row, the record of its first part; that of the others is ``rest``.
    """

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
    rest: RunRecord | None = None

    @property
    def parts(self) -> tuple[RunRecord, ...]:
        """The records of all parts, this one first."""
        parts = [self]
        while parts[-1].rest is not None:
            parts.append(parts[-1].rest)
        return tuple(parts)

    @property
    def claim(self) -> str:
        """What the certificates of all parts claim together: never more than the weakest of them."""
        return joined([part.certificate for part in self.parts])

    @property
    def swept(self) -> int:
        """Blocks of all parts that are claimed of sweeps."""
        return sum(part.certificate.certified_blocks for part in self.parts if part.certificate is not None)

    @property
    def residual(self) -> float | None:
        """The largest that is claimed of a part; None if there is none."""
        known = (part.certificate.residual for part in self.parts if part.certificate is not None)
        return max((residual for residual in known if residual is not None), default=None)

    @property
    def fronts(self) -> list[int]:
        return [sweep.front for sweep in self.sweeps]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dump``: of several parts, figures of the whole and then ``parts``."""
        if self.rest is None:
            return self._data()
        parts = [part._data() for part in self.parts]
        sums = ("blocks", "certified", "sweep_count", "seconds", "spent", "reference")
        return {**{key: sum(part[key] for part in parts) for key in sums}, "claim": self.claim, "parts": parts}

    def _data(self) -> dict[str, Any]:
        """Of this part alone."""
        data = asdict(replace(self, rest=None))
        del data["rest"]
        return {**data, "ending": self.ending.value, "sweep_count": len(self.sweeps)}


def records_in_a_row(records: Sequence[RunRecord]) -> RunRecord:
    """The records of all parts of a run as one."""
    for record, after in pairwise(records):
        record.rest = after
    return records[0]

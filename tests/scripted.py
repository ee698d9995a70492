"""A triangular system whose convergence is scripted, in a world of known prices: for tests of the guard."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ffcompiler.plan import Costs
from ffcompiler.runtime.guard import Handover


@dataclass(frozen=True)
class World:
    """What things really cost. ``width``, ``narrow``: of a sweep over all blocks, and of one over none.

    The reference is prologue, ``blocks`` steps with the draws among them, epilogue.
    """

    blocks: int
    prologue: float
    step: float  # with its share of the draws
    epilogue: float
    draws: float
    captured: float
    checks: float  # what is done once per call besides the prologue
    wide: float
    narrow: float
    certify: float
    fill: float
    heavy: tuple[float, ...] = ()  # of unlike blocks, the seconds of each captured one

    @property
    def live(self) -> float:
        return self.prologue + self.step * self.blocks + self.epilogue

    @property
    def once(self) -> float:
        return self.prologue + self.checks

    def reference(self, handover: Handover) -> float:
        if handover is Handover.LOADED:
            return self.once + self.draws + self.captured_rest(0)
        return self.live

    def captured_rest(self, done: int) -> float:
        return (sum(self.heavy[done:]) if self.heavy else self.captured * (self.blocks - done)) + self.epilogue

    def sweep(self, lo: int, hi: int, kind: str, by_width: bool) -> float:
        """Seconds of one sweep."""
        if self.heavy:
            return self.wide * sum(self.heavy[lo:hi]) / sum(self.heavy)
        if by_width or kind == "window":
            return self.narrow + (self.wide - self.narrow) * (hi - lo) / self.blocks
        return {"certify": self.certify, "fill": self.fill, "solve": self.wide}[kind]

    @property
    def costs(self) -> Costs:
        """As they would be measured."""
        widths = tuple((w, self.sweep(0, w, "window", True)) for w in (1, self.blocks)) if not self.heavy else ()
        return Costs(
            self.live / self.blocks,
            self.wide,
            self.certify,
            self.once,
            widths if self.blocks > 1 else widths[:1],
            self.heavy,
            self.epilogue,
            self.captured,
            self.fill,
            self.draws,
        )


@dataclass
class Scripted:
    """Blocks of which block k ends as k + 1; after sweep t the first ``fronts[t]`` have come that far.

    ``rounds``: sweeps that do not certify give other bits. ``fails``: (which sweep, how) "raises", "premise".
    """

    blocks: int
    fronts: Sequence[int]
    priced_by_width: bool = False
    ends_anywhere: bool = False
    exact: bool = True
    levels: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    windowed: Any = None
    fails: tuple[int, str] | None = None
    made: list[tuple[int, int, str]] = field(default_factory=list)
    right: int = 0

    @property
    def answer(self) -> Tensor:
        return torch.arange(1.0, self.blocks + 1)

    def prepare(self, env: Any) -> Any:
        return env

    def start_from(self, init: Tensor) -> tuple[Tensor]:
        return (torch.full((self.blocks,), -1.0),)

    def read(self, state: tuple[Tensor], lo: int, hi: int) -> tuple[Tensor]:
        return (state[0][lo:hi],)

    def write(self, state: tuple[Tensor], lo: int, hi: int, values: tuple[Tensor, ...]) -> None:
        state[0][lo:hi] = values[0]

    def update(self, env: Any, state: Any, lo: int, hi: int, exact: bool) -> tuple[tuple[Tensor], list[Tensor]]:
        return self._sweep(state[0], lo, hi, "certify" if exact else "solve"), [torch.zeros(1)]

    def window(self, env: Any, workspace: Any, state: Any, lo: int, hi: int) -> tuple[Tensor]:
        kind = "window" if any(made[2] == "fill" for made in self.made) else "fill"
        return self._sweep(state[0], lo, hi, kind, self.windowed.low)

    def _sweep(self, old: Tensor, lo: int, hi: int, kind: str, low: int | None = None) -> tuple[Tensor]:
        """As far as the script says, and what final blocks make final; the others are far off, and move.

        ``low``: from where buffers are brought up to date, which is paid for too.
        """
        sweep = len(self.made)
        self.made.append((lo if low is None else low, hi, kind))
        if self.fails == (sweep, "raises"):
            raise IndexError("out of range in an unconverged state")
        answer = self.answer + (0.0 if self.exact or kind == "certify" else 0.5)
        known = lo + int((old[lo:hi] == answer[lo:hi]).to(torch.int).cumprod(0).sum())
        self.right = max(self.right, self.fronts[min(sweep, len(self.fronts) - 1)], self.final(known, self.blocks))
        values = torch.where(torch.arange(self.blocks) < self.right, answer, 1e6 * (sweep + 2) + answer)
        return (values[lo:hi],)

    def premises_hold(self, values: list[Tensor], sums: Sequence[float]) -> bool:
        return self.fails != (len(self.made) - 1, "premise")

    def failed(self, values: list[Tensor]) -> str:
        return "a premise"

    def final(self, known: int, computed: int) -> int:
        if self.levels and known < self.blocks:
            return min(self.levels[bisect_right(self.levels, known)], computed)
        return min(known + 1, computed)

    def steps_done(self, blocks: int) -> int:
        if not self.order or blocks == self.blocks:
            return blocks
        return min(self.order[blocks:])


class Buffers:
    """What the solve loop asks of windows, without any."""

    low = 0

    def quantum(self, schedule: Any) -> int:
        return 1

    def prepare(self, workspace: Any, lo: int, hi: int) -> None: ...

    def begin(self, env: Any, state: Any) -> object:
        return object()

    def refresh(self, workspace: Any, state: Any, lo: int, hi: int) -> None:
        self.low = lo

    def end(self, workspace: Any) -> None: ...


@dataclass
class Reached:
    """Says that the reference may have gone too far in the step of block ``at``."""

    at: int

    def broken(self, env: Any, values: Any) -> str | None:
        return "too large" if values and values[0].numel() and float(values[0].max()) > self.at else None


@dataclass
class Stopwatch:
    """A clock that shows, after each sweep of ``system``, what it costs in ``world``: ``factors[k]`` times that."""

    world: World
    system: Scripted
    factors: Sequence[float]
    now: float = 0.0
    inside: bool = False

    def __call__(self) -> float:
        if self.inside and self.system.made:
            k = len(self.system.made) - 1
            self.now += self.price(k) * self.factor(k)
        self.inside = not self.inside
        return self.now

    def price(self, k: int) -> float:
        return self.world.sweep(*self.system.made[k], self.system.priced_by_width)

    def factor(self, k: int) -> float:
        return self.factors[k % len(self.factors)]

    @property
    def total(self) -> float:
        """What all sweeps so far have cost, without delays."""
        return sum(map(self.price, range(len(self.system.made))))


@dataclass
class Steps:
    """A repeated map that leaves its state as it is from step ``repeats`` on."""

    blocks: int
    repeats: int
    made: int = 0

    def steps(self, env: Any) -> Any:
        def step(state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            self.made += 1
            return (torch.full((3,), float(min(self.made, self.repeats))),)

        return step

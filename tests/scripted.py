"""A triangular system whose convergence is scripted, in a world of known prices: for tests of the guard."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ffcompiler.plan import Costs
from ffcompiler.runtime.guard import Handover
from ffcompiler.runtime.runs import ALONE, Runs
from ffcompiler.runtime.watch import Watch, look


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

    def sweep(self, lo: int, hi: int, kind: str, by_width: bool, run: int = 1) -> float:
        """Seconds of one sweep; in runs, a call for each block of a run."""
        if self.heavy:
            return self.wide * sum(self.heavy[lo:hi]) / sum(self.heavy)
        if run > 1 and by_width:
            return min(run, hi - lo) * self.sweep(0, -(-(hi - lo) // run), kind, by_width)
        if run > 1:
            return min(run, self.blocks) * self.certify
        if by_width or kind == "window":
            return self.narrow + (self.wide - self.narrow) * (hi - lo) / self.blocks
        return {"certify": self.certify, "fill": self.fill, "solve": self.wide, "step": self.captured}[kind]

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
            self.prologue,
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
    runs: Runs = ALONE
    fails: tuple[int, str] | None = None
    operators: int = 7  # of a sweep, all alike, with a look at the watch between them
    made: list[tuple[int, int, str]] = field(default_factory=list)
    right: int = 0
    share: float = 0.0  # how far the last sweep has come
    handed: int | None = field(default=None, init=False)  # sweeps before those that only do the rest
    foreseen: bool = field(default=True, init=False)  # the rest cost what it was expected to

    @property
    def answer(self) -> Tensor:
        return torch.arange(1.0, self.blocks + 1)

    def prepare(self, env: Any) -> Any:
        return env

    def start_from(self, init: Tensor | tuple[Tensor]) -> tuple[Tensor]:
        """Of a guess that says nothing, or of a state."""
        return (init[0].clone(),) if isinstance(init, tuple) else (torch.full((self.blocks,), -1.0),)

    def reset_from(self, state: tuple[Tensor], init: Tensor, front: int) -> tuple[Tensor]:
        self.handed = len(self.made) if self.handed is None else self.handed
        fresh = torch.full((self.blocks,), -1.0)
        fresh[:front] = state[0][:front]
        return (fresh,)

    def read(self, state: tuple[Tensor], lo: int, hi: int) -> tuple[Tensor]:
        return (state[0][lo:hi],)

    def write(self, state: tuple[Tensor], lo: int, hi: int, values: tuple[Tensor, ...]) -> None:
        state[0][lo:hi] = values[0]

    def update(
        self, env: Any, state: Any, lo: int, hi: int, exact: bool, watch: Watch | None = None
    ) -> tuple[tuple[Tensor], list[Tensor]]:
        kind = "certify" if exact else "solve"
        if self.handed is not None and hi - lo == 1 and self.made[-1][2] not in ("fill", "window"):
            kind = "step"  # of the rest, no certificate of others
        return self._sweep(state[0], lo, hi, kind, (lo, hi), watch), [torch.zeros(1)]

    def window(
        self, env: Any, workspace: Any, state: Any, lo: int, hi: int, watch: Watch | None = None
    ) -> tuple[Tensor]:
        if self.windowed.refreshed is not None:
            low, high = self.windowed.refreshed
            assert low <= lo and hi <= high, "buffers are not brought up to date where the sweep reads them"
            return self._sweep(state[0], lo, hi, "window", (low, high), watch)
        return self._sweep(state[0], lo, hi, "fill", (lo, hi), watch)

    def _sweep(
        self, old: Tensor, lo: int, hi: int, kind: str, paid: tuple[int, int], watch: Watch | None
    ) -> tuple[Tensor]:
        """As far as the script says, and what final blocks make final; the others are far off, and move.

        ``paid``: the blocks that it costs. Buffers are brought up to date in more than are in play.
        """
        sweep = len(self.made)
        self.made.append((*paid, kind))
        for k in range(self.operators):
            self.share = (k + 1) / self.operators
            if k + 1 < self.operators:
                look(watch)
        if self.fails == (sweep, "raises"):
            raise IndexError("out of range in an unconverged state")
        answer = self.answer + (0.0 if self.exact or kind in ("certify", "step") else 0.5)
        known = lo + int((old[lo:hi] == answer[lo:hi]).to(torch.int).cumprod(0).sum())
        self.right = max(self.right, self.fronts[min(sweep, len(self.fronts) - 1)], self.final(known, self.blocks))
        values = torch.where(torch.arange(self.blocks) < self.right, answer, 1e6 * (sweep + 2) + answer)
        return (values[lo:hi],)

    def premises_hold(self, values: list[Tensor], sums: Sequence[float]) -> bool:
        return self.fails != (len(self.made) - 1, "premise")

    def failed(self, values: list[Tensor]) -> str:
        return "a premise"

    def unmoved(self, lo: int, hi: int, compared: int) -> int:
        return lo + compared

    def final(self, known: int, computed: int) -> int:
        if self.levels and known < self.blocks:
            return min(self.levels[bisect_right(self.levels, known)], computed)
        return self.runs.end(known, computed)

    def steps_done(self, blocks: int) -> int:
        if not self.order or blocks == self.blocks:
            return blocks
        return min(self.order[blocks:])


@dataclass
class Buffers:
    """What the solve loop asks of windows, without any: each takes ``price`` seconds when it is first made."""

    price: float = 0.0
    parts: int = 5  # of the making of a window, with a look at the watch after each
    known: set[tuple[int, int]] = field(default_factory=set)
    making: float = 0.0
    spent: float = 0.0
    refreshed: tuple[int, int] | None = None  # since they were filled
    used: list[tuple[int, int]] = field(default_factory=list)

    def fresh(self) -> Buffers:
        return Buffers(self.price, self.parts, set(self.known))

    def quantum(self, schedule: Any) -> int:
        return 1

    def bound(self, window: tuple[int, int]) -> bool:
        return window in self.known

    def windows(self) -> list[tuple[int, int]]:
        return list(self.known)

    def ready(self, windows: Iterable[tuple[int, int]]) -> bool:
        return self.known >= set(windows)

    def prepare(self, workspace: Any, lo: int, hi: int, watch: Watch | None = None) -> None:
        assert (lo, hi) not in self.known, "it is made once"
        for _ in range(self.parts):
            self.spent += self.price / self.parts
            look(watch)
        self.known.add((lo, hi))

    def begin(self, env: Any, state: Any, watch: Watch | None = None) -> Buffers:
        self.refreshed = None
        return self

    def refresh(self, workspace: Any, state: Any, lo: int, hi: int, watch: Watch | None = None) -> None:
        assert (lo, hi) in self.known, "a sweep is begun before its window is paid for"
        self.refreshed = lo, hi
        self.used.append((lo, hi))

    def end(self, workspace: Any) -> None: ...


@dataclass
class Reached:
    """Says that the reference may have gone too far in the step of block ``at``."""

    at: int

    def broken(self, env: Any, values: Any) -> str | None:
        return "too large" if values and values[0].numel() and float(values[0].max()) > self.at else None


@dataclass
class Stopwatch:
    """A clock that shows what the sweeps of ``system`` have cost in ``world``, the k-th ``factors[k]`` times that.

    And what it took to make its windows.
    """

    world: World
    system: Scripted
    factors: Sequence[float]
    over: int = 0  # sweeps, and their seconds
    before: float = 0.0

    def __call__(self) -> float:
        last = len(self.system.made) - 1
        while self.over < last:
            self.before += self.taken(self.over)
            self.over += 1
        return self.before + (self.taken(last) if last >= 0 else 0.0) + self.making

    def taken(self, k: int) -> float:
        """Seconds in a sweep so far."""
        share = self.system.share if k + 1 == len(self.system.made) else 1.0
        return share * self.price(k) * self.factor(k)

    def counted(self, k: int) -> float:
        """What is to be charged for a sweep: not delays, up to eight times what it costs."""
        return self.price(k) + max(self.taken(k) - 8.0 * self.price(k), 0.0)

    @property
    def making(self) -> float:
        return self.system.windowed.spent if self.system.windowed is not None else 0.0

    @property
    def longest(self) -> float:
        """Seconds of the operator after which the last look was, or of a part of a window's making."""
        k = self.begun - 1
        part = self.system.windowed.price / self.system.windowed.parts if self.system.windowed is not None else 0.0
        return max(part, self.price(k) * self.factor(k) / self.system.operators)

    def price(self, k: int) -> float:
        return self.world.sweep(*self.system.made[k], self.system.priced_by_width, self.system.runs.size)

    def factor(self, k: int) -> float:
        return self.factors[k % len(self.factors)]

    @property
    def begun(self) -> int:
        """Sweeps but for those that only do the rest."""
        return len(self.system.made) if self.system.handed is None else self.system.handed

    @property
    def total(self) -> float:
        """What they have cost, and the windows made for them."""
        return sum(map(self.counted, range(self.begun))) + self.making


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

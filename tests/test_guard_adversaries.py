"""What a guard is for, on every kind of system: what never converges, stalls late, or is unlike the example.

Counted cost throughout: the prices are given, and the clock shows what the test says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from growing import GPT, VOCABULARY, generator
from recurrences import cell
from systems import randn
from test_catalogue import assert_same
from test_guard import FakeClock, constant
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.plan import Costs, Equality
from ffcompiler.runtime.guard import SHARED, Handover, Way
from ffcompiler.runtime.record import Ending, RunRecord
from ffcompiler.runtime.rest import finished
from ffcompiler.runtime.runner import Runner
from ffcompiler.schedules import parse_schedule

pytestmark = pytest.mark.usefixtures("one_thread")

MOST = 1.05
N = 40
FINE, LOOSE = ffc.tolerance(1e-6, 1e-6), ffc.tolerance(1e-4, 1e-4)


@dataclass(frozen=True)
class Adversary:
    """``calls``: arguments of calls that are hard in some way; ``example``: what it was compiled with."""

    name: str
    function: Callable[..., Any]
    example: Tensor
    calls: tuple[Tensor, ...]
    equality: Equality | str = "bits"
    schedules: tuple[str, ...] = ("jacobi", "gs-jacobi(4)", "growing(2)", "sliding(6)", "gauss-seidel", "jacobi-gs(5)")
    marked: bool = True  # the function can go on in its middle


def chaotic_map(x: Tensor) -> Tensor:
    return ffc.fori_loop(0, N, lambda i, s: 3.9 * s * (1 - s) + 0.01 * x[:, i], torch.full_like(x[:, 0], 0.3))


def expanding_filter(x: Tensor) -> Tensor:
    return ffc.fori_loop(0, N, lambda i, s: 1.5 * s + x[:, i], torch.zeros_like(x[:, 0]))


def gated(x: Tensor) -> Tensor:
    """How much is remembered is for the input to say: nothing where it is 0, more than there was where it is 2."""
    return ffc.fori_loop(0, N, lambda i, s: x[:, i] * s + 0.125, torch.ones_like(x[:, 0]))


CELL = cell(nn.RNNCell, 3, 4, 4.0)


def loud_rnn(x: Tensor) -> Tensor:
    """Weights so large that states do not forget."""
    return ffc.fori_loop(0, N, lambda i, h: CELL(x[:, i], h), x.new_zeros(x.shape[0], 4))


UPPER = torch.triu(torch.ones(N, N), 1)


def array_of_chaos(u: Tensor) -> Tensor:
    def step(i: int, x: Tensor) -> Tensor:
        before = x @ torch.triu(torch.ones(N, N), 1).tril(1)
        x = x.clone()
        x[:, i] = (3.9 * before * (1 - before) * 0.25 + u)[:, i]
        return x

    return ffc.fori_loop(0, N, step, torch.zeros_like(u))


def array_gated(u: Tensor) -> Tensor:
    """Positions read the one before them as far as the input lets them."""

    def step(i: int, x: Tensor) -> Tensor:
        before = x @ torch.triu(torch.ones(N, N), 1).tril(1)
        x = x.clone()
        x[:, i] = (before * u + 0.125)[:, i]
        return x

    return ffc.fori_loop(0, N, step, torch.zeros_like(u))


def unmarked_gated(x: Tensor) -> Tensor:
    s = torch.ones_like(x[:, 0])
    for i in range(N):
        s = x[:, i] * s + 0.125
    return s


def drawing(u: Tensor) -> Tensor:
    def step(i: int, x: Tensor) -> Tensor:
        before = x @ torch.triu(torch.ones(N, N), 1).tril(1)
        x = x.clone()
        x[:, i] = (before * u)[:, i] + torch.rand(u.shape[0])
        return x

    return ffc.fori_loop(0, N, step, torch.zeros_like(u))


def alternating(x: Tensor) -> Tensor:
    return ffc.fori_loop(0, N, lambda i, s: -s, x[:, 0].clone())


WIDTHS = [4 + 4 * (k % 5) for k in range(6)]
LAYERS = nn.Sequential(*(nn.Sequential(nn.Linear(8, w), nn.Tanh(), nn.Linear(w, 8)) for w in WIDTHS))


def layers(x: Tensor) -> Tensor:
    return LAYERS(x)


def stalling(at: int) -> Tensor:
    """Forgets at once up to a step, then remembers all."""
    x = torch.zeros(2, N)
    x[:, at:] = 1.0
    return x


QUIET, LOUD = torch.zeros(2, N), torch.full((2, N), 1.25)
TINY = torch.full((2, N), 1e-39)  # denormal
GATES = (LOUD, stalling(3), stalling(N // 2), stalling(N - 3), TINY, QUIET)

ADVERSARIES = [
    Adversary("chaotic_map", chaotic_map, randn(2, N), (randn(2, N, seed=1), TINY)),
    Adversary("expanding_filter", expanding_filter, randn(2, N), (randn(2, N, seed=1) * 1e30, TINY)),
    Adversary("gated", gated, QUIET, GATES),
    Adversary("loud_rnn", loud_rnn, randn(2, N, 3), (randn(2, N, 3, seed=1) * 9, randn(2, N, 3) * 1e-39), FINE),
    Adversary("array_of_chaos", array_of_chaos, randn(2, N), (randn(2, N, seed=1) * 0.1, TINY)),
    Adversary("array_gated", array_gated, QUIET, GATES),
    Adversary("unmarked_gated", unmarked_gated, QUIET, GATES, marked=False),
    Adversary("drawing", drawing, QUIET, GATES, marked=False),
    Adversary("alternating", alternating, randn(2, N), (randn(2, N, seed=1), TINY), schedules=("jacobi",)),
    Adversary(
        "layers", layers, randn(3, 8), (randn(3, 8, seed=1),), schedules=("jacobi", "jacobi-gs(2)", "growing(1)"),
        marked=False,
    ),
]  # fmt: skip


def prices(blocks: int) -> list[Costs]:
    """Of sweeps that are free, cheap, and dear; of captured steps that are faster and slower than the function's."""
    few = [(0.05, 0.07, 0.0), (0.4, 0.4, 0.2), (1.0, 1.3, 0.0), (2.5, 0.4, 0.1), (1.5, 1.6, 0.1)]
    made = [Costs(1.0, a, b, c, ((1, 0.1 * a), (blocks, a))) for a, b, c in few]
    made.append(Costs(1.0, 3.0, 3.0, 0.0, ((1, 1.5), (blocks, 3.0))))  # no sweep is cheaper than the step it may save
    return [replace(costs, captured=k, after=0.02 * blocks) for costs in made for k in (0.8, 1.6)]


@pytest.fixture(scope="module")
def compiled() -> Callable[[Adversary], ffc.Compiled]:
    known: dict[str, ffc.Compiled] = {}

    def of(adversary: Adversary) -> ffc.Compiled:
        if adversary.name not in known:
            known[adversary.name] = ffc.compile(
                adversary.function, (adversary.example,), equality=adversary.equality, schedule="jacobi"
            )
        return known[adversary.name]

    return of


def with_costs(made: ffc.Compiled, costs: Costs, schedule: str, seconds: float = 0.0) -> FakeClock:
    """The next runs are priced so, and each sweep takes so many seconds."""
    wanted = parse_schedule(schedule)
    assert wanted is not None
    part = made.parts[0]
    part.plan = made.plan = replace(made.plan, costs=costs, schedule=wanted)
    clock = FakeClock(constant(seconds))
    part.runner = Runner(part.plan, part.proof, made.device, clock=clock, handover=part.handover)
    return clock


def total(made: ffc.Compiled, record: RunRecord, costs: Costs) -> float:
    """What the call cost, and what came after its sweeps."""
    left = record.blocks - record.certified
    handover = made.parts[0].handover
    if not record.sweeps and record.certified == 0 and handover is not Handover.LOADED:
        return (
            max(record.spent, costs.once) + costs.step * record.blocks if record.spent else costs.step * record.blocks
        )
    if not left:
        return record.spent + costs.after
    if record.certificate is not None and record.certificate.method == "this is the reference":
        return record.spent + costs.step * record.blocks
    captured = (costs.captured or 0.0) * left + costs.after
    inside = (costs.step * record.blocks - costs.after) / record.blocks
    return record.spent + (costs.once + inside * left + costs.after if handover is Handover.RESUMED else captured)


def seeded(seed: int, call: Callable[[], Any]) -> Any:
    torch.manual_seed(seed)
    return call()


def same(equality: Equality | str, got: Any, expected: Any) -> None:
    if equality == "bits":
        assert_same(got, expected)
    else:
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("adversary", ADVERSARIES, ids=lambda a: a.name)
def test_no_call_costs_more_than_the_slack_allows(
    adversary: Adversary, compiled: Callable[[Adversary], ffc.Compiled]
) -> None:
    made = compiled(adversary)
    assert made.plan.system is not None and made.plan.refusal is None
    assert (made.parts[0].handover is Handover.RESUMED) == adversary.marked
    endings = set()
    for costs in prices(made.plan.system.blocks):
        for schedule in adversary.schedules:
            with_costs(made, costs, schedule)
            for seed, argument in enumerate(adversary.calls):
                got, record = seeded(seed, lambda x=argument: made.run(x))
                where = (schedule, costs, seed, record.ending, record.detail)
                assert total(made, record, costs) <= MOST * costs.step * record.blocks + 1e-9, where
                same(adversary.equality, got, seeded(seed, lambda x=argument: adversary.function(x).detach()))
                assert record.ending is not Ending.GUARD or "would be" in record.detail, where
                endings.add(record.ending)
    assert Ending.GUARD in endings


@pytest.mark.parametrize("name", ["chaotic_map", "array_gated", "alternating", "layers"])
def test_a_loaded_artifact_costs_little_more_than_its_own_steps(
    name: str, compiled: Callable[[Adversary], ffc.Compiled], tmp_path: Path
) -> None:
    """Captured steps at a fifth of the function's: what a sweep may cost is measured against them."""
    adversary = next(a for a in ADVERSARIES if a.name == name)
    made = compiled(adversary)
    assert made.plan.system is not None
    blocks = made.plan.system.blocks
    costs = Costs(1.0, 0.2, 0.25, 0.3, ((1, 0.02), (blocks, 0.2)), captured=0.2, after=0.1)
    with_costs(made, costs, "jacobi")
    made.save(tmp_path / "a.ffc")
    loaded = ffc.load(tmp_path / "a.ffc")
    part = loaded.parts[0]
    assert part.handover is Handover.LOADED
    clock = FakeClock(constant(0.0))
    for argument in adversary.calls:
        part.runner = Runner(part.plan, part.proof, loaded.device, clock=clock, handover=part.handover)
        got, record = loaded.run(argument)
        reference = 0.3 + 0.2 * blocks + 0.1
        left = record.blocks - record.certified
        assert record.reference == pytest.approx(reference)
        assert record.spent + 0.2 * left + 0.1 <= MOST * reference + 1e-9
        with torch.no_grad():
            assert_same(got, adversary.function(argument))


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each run of a padded loop, the sweeps before those that only do the rest."""
    counts: list[int] = []

    def counted(system: Any, solve: Any, found: Any, init: Any) -> Any:
        counts.append(len(solve.record.sweeps))
        return finished(system, solve, found, init)

    monkeypatch.setattr("ffcompiler.runtime.runner.finished", counted)
    return counts


def of_the_rest(record: RunRecord, before: int, costs: Costs) -> float:
    """What the sweeps cost that came after so many, which were paid for; and what came after them."""
    swept = record.sweeps[before:]
    if record.certificate is not None and record.certificate.method == "this is the reference":
        return costs.step * record.blocks
    alone = [s for k, s in enumerate(swept) if s.certified and (not k or swept[k - 1].certified)]
    together = [s for s in swept if s.certified and s not in alone]
    windows = [s for s in swept if not s.certified]
    assert all(s.hi == s.lo + 1 for s in (*alone, *windows)) and len(together) <= 1
    return (
        len(alone) * (costs.captured or 0.0)
        + len(together) * costs.certify
        + bool(windows) * costs.fill
        + max(len(windows) - 1, 0) * costs.window(min(SHARED + 1, record.blocks))
        + costs.after
    )


@pytest.mark.parametrize("there", [True, False], ids=["windows are there", "no windows"])
def test_no_call_of_a_sampler_over_a_padded_array_costs_more_than_the_slack_allows(
    there: bool, handed: list[int]
) -> None:
    """Tokens that are given back: what one step draws decides what all later ones see."""
    steps, ways = 24, set()
    sample = generator(GPT(longest=32, layers=2), steps)
    made = ffc.compile(sample, (tokens(0),), equality=LOOSE, schedule="jacobi", cache=False, budget=0.2)
    part = made.parts[0]
    assert part.handover is Handover.CACHED and part.proof.windows is not None
    few = Costs(1.0, 5.0, 5.0, 0.0, ((1, 0.02), (steps, 0.05)), captured=1.6, after=0.5)  # sweeps, and cheap windows
    for costs in (replace(c, fill=1.2 * c.sweep) for c in (few, *prices(steps))):
        for seed, schedule in enumerate(("jacobi", "sliding(6)+windows", "gauss-seidel+windows")):
            if not there:
                part.proof.windows.executors.clear()
            with_costs(made, costs, schedule)
            handed.clear()
            got, record = seeded(seed, lambda k=seed: made.run(tokens(k)))
            where = (schedule, costs, record.ending, record.detail)
            left = of_the_rest(record, handed[0], costs) if handed else costs.step * record.blocks
            assert record.spent + left <= MOST * costs.step * steps + 1e-9, where
            assert torch.equal(got, seeded(seed, lambda k=seed: sample(tokens(k)))), where
            ways |= {way for way in Way if way.value in record.detail}
    assert ways == ({Way.WINDOWS, Way.STEPS, Way.ANEW} if there else {Way.STEPS, Way.ANEW})


def tokens(seed: int) -> Tensor:
    return torch.randint(VOCABULARY, (2, 3), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["chaotic_map", "array_gated", "unmarked_gated", "loud_rnn", "layers"])
def test_a_sweep_that_stalls_is_the_last_and_is_paid_for(
    name: str, compiled: Callable[[Adversary], ffc.Compiled]
) -> None:
    """As where denormals make every operator 200 times slower."""
    adversary = next(a for a in ADVERSARIES if a.name == name)
    made = compiled(adversary)
    assert made.plan.system is not None
    blocks = made.plan.system.blocks
    costs = Costs(1.0, 0.01, 0.01, 0.0, ((1, 0.005), (blocks, 0.01)), captured=1.0)
    clock = with_costs(made, costs, "jacobi", seconds=0.5 * blocks)
    got, record = made.observed_run(clock.over, (adversary.calls[0],), {})
    same(adversary.equality, got, adversary.function(adversary.calls[0]).detach())
    begun = len(record.sweeps) + record.detail.startswith("sweep ")
    assert begun == 1 or record.ending is Ending.SWEEPS
    assert record.spent == pytest.approx((0.5 * blocks - 7 * 0.01) * begun) and begun
    left = f"sweep 1 was left after {0.5 * blocks:.3g} s, predicted 0.01 s"
    assert record.detail in ("", left) or f"after sweep 1, at block {record.certified} of {blocks}" in record.detail


def test_the_end_of_a_run_by_the_guard_says_what_was_spent_and_what_was_needed(
    compiled: Callable[[Adversary], ffc.Compiled],
) -> None:
    made = compiled(ADVERSARIES[0])
    with_costs(made, Costs(1.0, 1.5, 1.5, 0.1), "jacobi")
    _, record = made.run(ADVERSARIES[0].calls[0])
    left = 40 - record.certified
    assert record.ending is Ending.GUARD and 0 < left < 40
    begun, total = f"after sweep {len(record.sweeps)}, at block {40 - left} of 40", record.spent + 1.5 + left + 0.1
    needed = f"{record.spent:.3g} s spent + 1.5 s for a sweep + {left + 0.1:.3g} s for the rest would be {total:.4g} s"
    assert record.detail == f"{begun}: {needed}, above 1.05 of the reference's 40 s"
    with_costs(made, Costs(1.0, 9.0, 9.0, 0.1), "jacobi")
    _, record = made.run(ADVERSARIES[0].calls[0])
    assert record.detail.startswith("no sweep is worth its cost: 0.1 s spent + 9 s for a sweep + 40.1 s for the rest")


@pytest.mark.parametrize("narrows", [True, False])
def test_where_slack_runs_short_narrower_windows_pay_for_wider_ones(
    narrows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a contraction converge at once: until its last sweep Jacobi lives on the slack."""
    if not narrows:
        monkeypatch.setattr("ffcompiler.runtime.guard.KEEP", 0)

    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 400, lambda i, h: 0.8 * h + x[:, i], x.new_zeros(1, 3))

    x = randn(1, 400, 3)
    made = ffc.compile(run, (x,), equality=ffc.tolerance(0.0, 1e-6), schedule="jacobi")
    costs = Costs(1.0, 2.0, 2.0, 0.0, ((25, 0.3), (400, 2.0)))
    found: dict[str, RunRecord] = {}
    for schedule in ("jacobi", "growing(27)"):
        with_costs(made, costs, schedule)
        got, found[schedule] = made.run(x)
        torch.testing.assert_close(got, run(x), rtol=1e-4, atol=1e-4)
    stopped = found["jacobi"].ending is Ending.GUARD and found["jacobi"].certified < 40
    assert stopped if not narrows else found["jacobi"].ending is Ending.SWEEPS
    assert found["growing(27)"].ending is Ending.SWEEPS
    assert found["growing(27)"].spent < 0.5 * 400


def test_groups_that_grow_end_where_all_of_them_fit() -> None:
    growing = parse_schedule("growing(5)")
    assert growing is not None and str(growing) == "growing(5)"
    ends = [growing.ahead(front, 100) for front in range(100)]
    assert sorted(set(ends)) == [5, 15, 35, 75, 100]
    assert all(ends[front] > front for front in range(100)) and ends == sorted(ends)
    assert ends[4] == 5 and ends[5] == 15 and ends[14] == 15 and ends[15] == 35


def test_a_proof_that_failed_is_not_tried_in_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that leak: each call would else pay for a proof that has already failed."""
    weight = UPPER * 0.1

    def function(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = (torch.tanh(x @ weight) + u)[:, i]
            return x

        return ffc.fori_loop(0, N, step, torch.zeros_like(u))

    u = randn(2, N)
    made = ffc.compile(function, (u,), schedule="jacobi")
    with_costs(made, Costs(1.0, 0.1, 0.1, 0.0), "jacobi")
    part, proofs = made.parts[0], 0
    prove = part.prove

    def counted(*args: Any) -> Any:
        nonlocal proofs
        proofs += 1
        return prove(*args)

    part.prove = counted
    weight[7, 3] = 1.0
    for _ in range(3):
        got, record = made.run(u)
        assert record.ending is Ending.STALE
        assert_same(got, function(u))
    assert proofs == 1
    weight[7, 3] = 0.0
    assert made.run(u)[1].ending is not Ending.STALE
    weight[9, 2] = 1.0
    assert made.run(u)[1].ending is Ending.STALE and proofs == 2, "other weights are looked at anew"

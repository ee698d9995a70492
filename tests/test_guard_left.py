"""What takes longer than can be paid for is left in its middle; windows are paid for by the run that makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Buffers, Scripted, World
from systems import Made, affine, randn
from test_catalogue import assert_same
from test_guard_property import MOST, most, plain, rest, run, runs
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.plan import Bits, Costs, Method, Schedule
from ffcompiler.runtime import watch as watching
from ffcompiler.runtime.guard import Guard, Handover
from ffcompiler.runtime.record import Ending
from ffcompiler.runtime.runner import Runner
from ffcompiler.runtime.watch import LeftError, Pace, Watch, look
from ffcompiler.schedules import parse_schedule

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Ticking:
    """A clock that goes on by ``tick`` seconds whenever it is read, from the ``after``-th time on."""

    tick: float
    after: int = 0
    now: float = 0.0
    reads: int = 0

    def __call__(self) -> float:
        self.reads += 1
        self.now += self.tick if self.reads > self.after else 0.0
        return self.now


# ---------------------------------------------------------------------------------------------------- a watch


def test_a_watch_lets_go_on_until_its_time_is_over() -> None:
    watch = Watch(Ticking(1.0), limit=3.0)
    for _ in range(3):
        look(watch)
    with pytest.raises(LeftError) as left:
        look(watch)
    assert left.value.seconds == 4.0
    look(None)


def test_time_that_others_had_the_processors_for_is_not_counted() -> None:
    worked = iter([0.0, 1.0, 2.0, 3.5])
    watch = Watch(Ticking(100.0), lambda: next(worked), limit=3.0)
    look(watch)
    look(watch)
    with pytest.raises(LeftError) as left:
        look(watch)
    assert left.value.seconds == 3.5


@given(st.lists(st.integers(0, 2 * watching.SMALL), max_size=200))
def test_looks_are_neither_far_apart_nor_after_every_small_operator(elements: list[int]) -> None:
    pace, since, count = Pace(), 0, 0
    for k in elements:
        since, count = since + k, count + 1
        due = pace.due(k)
        assert due == (since >= watching.SMALL or count == watching.FEW)
        if due:
            since = count = 0


# ---------------------------------------------------------------------------------------------------- real systems

N = 24
MADE = Made(N)
ONES = torch.triu(torch.ones(N, N), 1)
CELL = nn.GRUCell(3, 40).requires_grad_(False)
LAYERS = nn.Sequential(*(nn.Sequential(nn.Linear(8, 4 + k), nn.Tanh(), nn.Linear(4 + k, 8)) for k in range(8)))


def array(u: Tensor) -> Tensor:
    """A shared part of many operators, and a tail."""

    def step(i: int, x: Tensor) -> Tensor:
        h = x @ ONES
        for _ in range(12):
            h = torch.tanh(0.5 * h + 0.1)
        x = x.clone()
        x[:, i] = (h + u)[:, i]
        return x

    return ffc.fori_loop(0, N, step, torch.zeros_like(u))


def recurrence(x: Tensor) -> Tensor:
    return ffc.fori_loop(0, N, lambda i, h: CELL(x[:, i], h), x.new_zeros(x.shape[0], 40))


def layers(x: Tensor) -> Tensor:
    return LAYERS(x)


LOOSE = ffc.tolerance(1e-5, 1e-5)
CASES: dict[str, tuple[Callable[..., Any], Tensor, Any]] = {
    "array": (array, randn(3, N), "bits"),
    "made": (affine(MADE, N), randn(400, N), "bits"),
    "recurrence": (recurrence, randn(5, N, 3), LOOSE),
    "layers": (layers, randn(3, 8), "bits"),
}


@pytest.fixture(autouse=True)
def many_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As between operators of many elements."""
    monkeypatch.setattr("ffcompiler.runtime.watch.FEW", 2)
    monkeypatch.setattr("ffcompiler.runtime.chained.SOME", 1)


@pytest.fixture(scope="module")
def compiled() -> Callable[[str], ffc.Compiled]:
    known: dict[str, ffc.Compiled] = {}

    def of(name: str) -> ffc.Compiled:
        if name not in known:
            function, example, equality = CASES[name]
            known[name] = ffc.compile(function, (example,), equality=equality, schedule="jacobi")
        return known[name]

    return of


def next_run(made: ffc.Compiled, schedule: str, clock: Any, costs: Costs) -> None:
    wanted, part = parse_schedule(schedule), made.parts[0]
    assert wanted is not None
    part.plan = made.plan = replace(made.plan, costs=costs, schedule=wanted)
    part.runner = Runner(part.plan, part.proof, made.device, clock=clock, handover=part.handover)


CHEAP = Costs(1.0, 0.01, 0.01, 0.0, captured=1.0)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("array", "jacobi"), ("array", "sliding(6)+windows"), ("array", "gauss-seidel+windows"),
        ("array", "jacobi-gs(4)"), ("made", "jacobi"), ("made", "sliding(6)+windows"), ("recurrence", "jacobi"),
        ("recurrence", "jacobi-gs(4)"), ("layers", "jacobi"), ("layers", "jacobi-gs(2)"),
    ],
)  # fmt: skip
def test_a_sweep_that_stalls_is_left_between_operators_and_the_answer_stays_right(
    name: str, schedule: str, compiled: Callable[[str], ffc.Compiled]
) -> None:
    """Wherever in a run it happens; what was half done is nowhere to be seen, also not in the next run."""
    function, example, equality = CASES[name]
    made, expected = compiled(name), function(example).detach()
    next_run(made, schedule, Ticking(0.0), CHEAP)
    made.run(example)  # windows are there
    runner, left = made.parts[0].runner, set()
    for after in range(1, 40):
        runner.clock = Ticking(100.0, after)
        got, record = made.run(example)
        check(got, expected, equality)
        if record.detail.startswith(f"sweep {len(record.sweeps) + 1} was left after"):
            assert record.ending is Ending.GUARD
            left.add(len(record.sweeps))
        runner.clock = Ticking(0.0)
        again, record = made.run(example)
        check(again, expected, equality)
        assert record.ending is Ending.SWEEPS
    assert left and (max(left) > 0 or "windows" not in schedule), "windowed sweeps, too"


def check(got: Any, expected: Any, equality: Any) -> None:
    if equality == "bits":
        assert_same(got, expected)
    else:
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["array", "made", "recurrence", "layers"])
def test_steps_of_the_reference_are_never_left(name: str, compiled: Callable[[str], ffc.Compiled]) -> None:
    """The function itself, and the captured loop: a clock that runs fast ends sweeps only."""
    function, example, equality = CASES[name]
    made = compiled(name)
    for handover in (Handover.CAPTURED, Handover.ONWARD, Handover.LOADED):
        next_run(made, "jacobi", Ticking(1e6), CHEAP)
        part = made.parts[0]
        runner = Runner(part.plan, part.proof, made.device, clock=Ticking(1e6), handover=handover)
        with torch.no_grad():
            execution = runner.begin([example], made.live.weights())  # type: ignore[union-attr]
            runner.sweep(execution)
            (got,) = runner.results(execution, runner.finish(execution))
        assert execution.record.certified < execution.record.blocks
        check(got, function(example).detach(), equality)


def test_where_there_is_no_guard_nothing_is_left(compiled: Callable[[str], ffc.Compiled]) -> None:
    made = compiled("array")
    next_run(made, "sliding(6)+windows", Ticking(1e6), CHEAP)
    made.parts[0].runner.guarded = False
    _, record = made.run(CASES["array"][1])
    assert record.ending is Ending.SWEEPS


@pytest.mark.parametrize(("price", "left"), [(0.1, 2.0), (0.25, 2.0), (0.5, 4.0), (2.0, 16.0)])
def test_a_sweep_is_left_when_it_has_taken_the_room_or_eight_times_its_cost_whichever_is_more(
    price: float, left: float
) -> None:
    """Of a reference of 40 s: what is charged then fits into the room."""
    system = Scripted(40, [1], operators=20_000)
    solve, solution, clock = run(
        system,
        plain(40, certify=price),
        Schedule(Method.JACOBI),
        Bits(),
        Handover.RESUMED,
        factors=[200.0],
    )
    assert not solve.record.sweeps and solution.certified == 0 and solution.ending is Ending.GUARD
    assert left < clock.taken(0) <= left + clock.longest + 1e-9
    assert solution.detail == f"sweep 1 was left after {clock.taken(0):.3g} s, predicted {price:.3g} s"
    assert solve.record.spent == pytest.approx(price + clock.taken(0) - 8 * price)
    assert solve.record.spent <= MOST * 40 - 40 + clock.longest + 1e-9


# ---------------------------------------------------------------------------------------------------- windows


def windowed(fronts: list[int], buffers: Buffers, blocks: int = 40, **prices: float) -> tuple[Scripted, World]:
    return Scripted(blocks, fronts, windowed=buffers), plain(blocks, narrow=0.01, fill=0.1, **prices)


SLIDING = Schedule(Method.SLIDING, 8, True)


def begun(system: Scripted, world: World, **others: Any) -> tuple[Any, Any, float]:
    """A run, and what it cost."""
    solve, solution, clock = run(system, world, SLIDING, Bits(), Handover.RESUMED, **others)
    return solve, solution, clock.total + rest(solve, solution, world)


def anew(system: Scripted) -> Scripted:
    """The same system, with the windows that there are."""
    assert system.windowed is not None
    system.windowed.spent, system.windowed.used = 0.0, []
    return replace(system, made=[], right=0, share=0.0)


def test_a_window_is_paid_for_by_the_run_that_makes_it_and_by_no_other() -> None:
    system, world = windowed([4, 8, 12, 16, 20, 24, 28, 32, 40], Buffers(0.1))
    solve, solution, first = begun(system, world)
    assert solution.ending is Ending.SWEEPS and system.windowed.known
    assert solve.record.spent == pytest.approx(first) and system.windowed.spent > 0.5
    made = system.windowed.spent
    solve, solution, second = begun(anew(system), world)
    assert solution.ending is Ending.SWEEPS and second == pytest.approx(first - made)


def test_what_can_be_spared_for_a_window_leaves_room_for_the_sweep_that_needs_it() -> None:
    guard = Guard(Costs(1.0, 0.5, 0.25, 0.0), 100)
    spare = guard.spare(0, False)
    assert spare == pytest.approx(5.0 - 0.5 - 0.25)
    guard.pay(spare - 1e-6)
    assert guard.allows(0, False)
    guard.pay(1e-3)
    assert not guard.allows(0, False)


def test_windows_that_are_made_while_candidates_are_run_are_not_charged() -> None:
    system, world = windowed([4, 8, 12, 16, 20, 24, 28, 32, 40], Buffers(30.0))
    solve, solution, _ = begun(system, world, rehearsal=True)
    assert solution.ending is Ending.SWEEPS and solve.record.spent < 2.0
    assert system.windowed.spent > 100.0 and system.windowed.making == pytest.approx(30.0)


def test_the_making_of_a_window_is_left_when_it_takes_more_than_there_is_and_not_tried_again() -> None:
    """With sweeps that would be worth their cost: each call would else lose what it can lose."""
    system, world = windowed([4, 8, 12, 16, 20, 24, 28, 32, 40], Buffers(1000.0, parts=1000))
    lost = []
    for _ in range(4):
        _, solution, total = begun(system, world)
        lost.append(system.windowed.spent)
        assert not system.windowed.known and total <= MOST * 40 + 1.0 + 1e-9
        system = anew(system)
    assert lost[0] > 1.0 and lost[-1] == 0.0 and system.windowed.making >= max(lost) / 2
    assert solution.ending is Ending.GUARD and "s for making its window" in solution.detail


def test_where_a_window_cannot_be_paid_for_the_least_that_is_there_and_covers_it_serves() -> None:
    buffers = Buffers(100.0, known={(0, 40), (0, 39), (0, 20), (30, 40)}, making=100.0)
    system, world = windowed([4, 8, 12, 16, 20, 24, 28, 32, 40], buffers)
    _, solution, total = begun(system, world)
    assert solution.ending is Ending.SWEEPS and buffers.spent == 0.0
    assert buffers.used[0] == (0, 20) and (0, 39) not in buffers.used[-1:]
    prices = [world.sweep(lo, hi, "window", False) for lo, hi in buffers.used]
    assert total >= sum(prices), "it is priced as what it is"


def test_where_no_window_can_be_paid_for_what_is_known_is_certified_and_the_rest_handed_over() -> None:
    buffers = Buffers(100.0, making=100.0)
    system, world = windowed([4, 8, 12, 16, 20, 24, 28, 32, 40], buffers)
    _, solution, total = begun(system, world)
    assert [made[2] for made in system.made][:2] == ["fill", "certify"]
    assert solution.certified >= 4 and buffers.spent == 0.0 and total <= MOST * 40


@given(runs(windowed=True), st.integers(2, 4))
@settings(max_examples=100)
def test_windows_are_made_within_the_slack_of_every_run_and_once(drawn: Any, calls: int) -> None:
    """A run that cannot pay for a window is not worse off for trying; those that come after find what was made."""
    system, world, schedule, equality, handover = drawn
    for _ in range(calls):
        known = set(system.windowed.known) if system.windowed is not None else set()
        solve, solution, clock = run(system, world, schedule, equality, handover)
        if system.made or handover is Handover.LOADED:
            total = world.once + world.draws + clock.total + rest(solve, solution, world)
            over = clock.longest if system.made and clock.making else 0.0
            assert total <= most(system, world, handover) + over
            paid = world.once + world.draws + clock.total
            assert abs(solve.record.spent - paid) <= 1e-6 * (1 + paid), "windows are paid for"
        if system.windowed is not None:
            assert known <= system.windowed.known
            system.windowed.spent = 0.0
        assert torch.equal(solution.state[0][: solution.certified], system.answer[: solution.certified])
        system = replace(system, made=[], right=0, share=0.0)


def test_the_windows_that_candidates_made_serve_the_runs_of_the_chosen_one() -> None:
    function, noise = array, randn(3, N)
    made = ffc.compile(function, (noise,), schedule="sliding(6)+windows")
    runner = made.parts[0].runner
    assert runner.system is not None and runner.system.windowed is not None
    found = runner.system.windowed
    assert found._pool and found._pool[0].windows() and found.making > 0.0
    assert Runner(made.plan, made.proofs[0], made.device).system.windowed is found  # type: ignore[union-attr]


def test_real_windows_are_charged_in_the_run_that_first_needs_them(compiled: Callable[[str], ffc.Compiled]) -> None:
    made = compiled("array")
    part = made.parts[0]
    assert part.proof.windows is not None
    part.proof.windows.executors.clear()
    costs = replace(CHEAP, windows=((6, 0.005), (N, 0.01)))
    spent = []
    for _ in range(2):
        next_run(made, "sliding(6)+windows", Ticking(1e-4), costs)
        got, record = made.run(CASES["array"][1])
        assert_same(got, array(CASES["array"][1]))
        assert record.ending is Ending.SWEEPS
        spent.append(record.spent)
    assert spent[0] > spent[1] + 0.01, "looks while windows are made"

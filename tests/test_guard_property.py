"""However sweeps converge and whatever they cost: a run costs 1.05 of its reference at most, and its answer is right.

All in counted cost, told by the tests' own prices, not by the guard's (`scripted.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripted import Buffers, Reached, Scripted, Steps, Stopwatch, World

from ffcompiler.plan import Bits, Costs, Equality, Method, Schedule, Tolerance
from ffcompiler.runtime.guard import Guard, Handover
from ffcompiler.runtime.record import Ending, RunRecord
from ffcompiler.runtime.repeat import RepeatRun, StepGuard
from ffcompiler.runtime.rest import finished, ready, shared_windows
from ffcompiler.runtime.runs import Runs
from ffcompiler.runtime.solve import Solve

MOST = 1.05
SECONDS = st.one_of(st.just(0.0), st.floats(0.001, 3.0), st.floats(0.001, 0.2))
METHODS = [m for m in Method if m not in (Method.SEQUENTIAL, Method.CAPTURED)]
HANDOVERS = [h for h in Handover if h is not Handover.CACHED]  # of any system: that one is for arrays
WITH_BLOCK = (Method.GS_JACOBI, Method.GROWING, Method.JACOBI_GS, Method.SLIDING)


@st.composite
def worlds(draw: Any, blocks: int, unlike: bool, dear: bool) -> World:
    """Prices from negligible to far too high, in units of a step; or to what a run can pay a few times."""
    small, any_price = st.floats(0.0, 0.02 * blocks), st.floats(0.0, 1.5 * blocks)
    cheap = st.one_of(small, any_price) if dear else small
    narrow = draw(small)
    wide = narrow + draw(cheap)
    heavy = tuple(draw(st.lists(st.floats(0.01, 10.0), min_size=blocks, max_size=blocks))) if unlike else ()
    return World(
        blocks,
        prologue=draw(cheap),
        step=1.0,
        epilogue=draw(cheap),
        draws=draw(st.one_of(st.just(0.0), st.floats(0.0, 0.9 * blocks))) if dear else 0.0,
        captured=draw(st.floats(0.01, 3.0)),
        checks=draw(small),
        wide=wide,
        narrow=narrow,
        certify=draw(cheap),
        fill=wide + draw(small),
        heavy=heavy,
    )


@st.composite
def runs(
    draw: Any, windowed: bool = False, handovers: Sequence[Handover] = tuple(Handover)
) -> tuple[Scripted, World, Schedule, Equality, Handover]:
    """A system of some kind, with a schedule that it can have, and how it would be handed over.

    ``windowed``: an array with a schedule of windows, at prices for which sweeps are begun.
    """
    blocks = draw(st.integers(8 if windowed else 1, 40))
    handover = draw(st.sampled_from(handovers))
    padded = handover is Handover.CACHED
    kind = "array" if windowed or padded else draw(st.sampled_from(["array", "recurrence", "chain"]))
    method = draw(st.sampled_from([m for m in METHODS if m is not Method.JACOBI_GS or not (windowed or padded)]))
    windows = kind == "array" and method is not Method.JACOBI_GS and (windowed or draw(st.booleans()))
    schedule = Schedule(method, draw(st.integers(1, blocks)) if method in WITH_BLOCK else None, windows)
    levels: tuple[int, ...] = ()
    if draw(st.booleans()):
        levels = tuple(sorted({*draw(st.lists(st.integers(1, blocks), max_size=8)), blocks}))
    order = tuple(draw(st.permutations(range(blocks)))) if levels and kind == "array" and not padded else ()
    # each sweep makes so many blocks right: by default few, now and then many, so that runs stall early, late, or never
    advances = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, blocks // 2, blocks]), min_size=1, max_size=30))
    tolerance = draw(st.booleans())
    making = draw(st.one_of(st.floats(0.001, 0.03 * blocks), st.floats(0.0, 1.5 * blocks), st.just(0.0)))
    made = set(shared_windows(blocks)) if padded and draw(st.booleans()) else set()
    system = Scripted(
        blocks,
        [min(front, blocks) for front in accumulate(advances)],
        priced_by_width=kind != "array",
        ends_anywhere=kind == "recurrence",
        exact=kind != "array" or draw(st.booleans()),
        levels=levels,
        order=order,
        operators=draw(st.sampled_from([3, 7, 200])),
        windowed=Buffers(making, known=made) if kind == "array" else None,
        runs=Runs(schedule.run),
        fails=draw(st.one_of(st.none(), st.tuples(st.integers(0, 8), st.sampled_from(["raises", "premise"])))),
    )
    world = draw(worlds(blocks, kind == "chain", dear=not windowed))
    if handover is Handover.RESUMED:  # a function that draws is not resumed
        world = replace(world, draws=0.0)
    assume(world.draws <= world.step * blocks)
    return system, world, schedule, Tolerance(0.0, 0.25) if tolerance else Bits(), handover


def guard_of(world: World, schedule: Schedule, handover: Handover) -> Guard:
    run = 1 if world.heavy else schedule.run
    return Guard(world.costs, world.blocks, world.draws, handover, schedule.windows, run)


def run(
    system: Scripted, world: World, schedule: Schedule, equality: Equality, handover: Handover, **others: Any
) -> tuple[Solve, Any, Stopwatch]:
    """A run up to its end; of a function in its own process only if the first sweep is allowed."""
    factors, careful = others.pop("factors", [1.0]), others.pop("careful", False)
    clock, init = Stopwatch(world, system, factors), torch.zeros(1)
    guard = guard_of(world, schedule, handover)
    record = RunRecord(str(schedule), world.blocks)
    solve = Solve(system, schedule, equality, guard, {}, record, clock, **others)
    if handover is not Handover.CACHED:
        return solve, solve.run(init), clock
    guard.cached, guard.careful = ready(system.windowed, world.blocks), careful
    solution = solve.run(init)
    if system.made:  # else all is left to the function
        solution, system.foreseen = finished(system, solve, solution, init)
    return solve, solution, clock


def most(system: Scripted, world: World, handover: Handover) -> float:
    """What a run may cost: of a padded loop whose rest came otherwise than foreseen, the function besides."""
    return MOST * world.reference(handover) + (0.0 if system.foreseen else world.live) + 1e-6


def rest(solve: Solve, solution: Any, world: World) -> float:
    """What comes after the sweeps, by the way that a call goes."""
    system, done = solve.system, solve.system.steps_done(solution.certified)
    if solve.guard.handover is Handover.CACHED:
        swept = system.made[system.handed :] if system.handed is not None else []
        after = world.epilogue if done == world.blocks else world.live
        return sum(world.sweep(*made, system.priced_by_width) for made in swept) + after
    if done == world.blocks:
        return world.epilogue
    if solve.guard.handover is Handover.RESUMED:
        return world.prologue + world.step * (world.blocks - done) + world.epilogue
    return world.live if solve.guard.anew(done) else world.captured_rest(done)


@given(runs())
@settings(max_examples=200)
def test_no_run_costs_more_than_the_slack_allows_and_every_certified_block_is_right(drawn: Any) -> None:
    system, world, _, _, handover = drawn
    solve, solution, clock = run(*drawn)
    record = solve.record
    if not system.made and handover is not Handover.LOADED:
        return  # a call looks before it begins, and leaves all to the function
    total = world.once + world.draws + clock.total + rest(solve, solution, world)
    over = clock.longest if clock.making else 0.0
    assert total <= most(system, world, handover) + over, (total, world.reference(handover), record)
    assert system.foreseen or system.fails is not None or not system.exact
    assert torch.equal(solution.state[0][: solution.certified], system.answer[: solution.certified])
    swept = solution.ending is Ending.SWEEPS or (handover is Handover.CACHED and solution.ending is Ending.GUARD)
    assert (solution.certified == world.blocks) <= swept and (solution.ending is Ending.SWEEPS) <= (
        solution.certified == world.blocks
    )
    assert abs(record.spent - (world.once + world.draws + clock.total)) <= 1e-6 * (1 + record.spent), "all is paid for"
    assert abs(record.reference - world.reference(handover)) <= 1e-6 * record.reference + 1e-9


@pytest.mark.parametrize("kind", ["array", "recurrence"])
@pytest.mark.parametrize("size", [2, 5, 40, 50])
@given(st.lists(st.sampled_from([0, 1, 2, 9, 40]), min_size=1, max_size=9), st.floats(0.001, 2.0), st.floats(0.0, 2.0))
@settings(max_examples=25)
def test_sweeps_in_runs_are_charged_a_call_for_each_block_of_a_run(
    kind: str, size: int, advances: list[int], narrow: float, more: float
) -> None:
    fronts, of_steps = [min(front, 40) for front in accumulate(advances)], kind == "recurrence"
    system = Scripted(40, fronts, of_steps, of_steps, runs=Runs(size))
    world = plain(40, narrow=narrow / size, wide=(narrow + more) / size, certify=narrow / size)
    drawn = (system, world, Schedule(Method.JACOBI_GS, size), Bits(), Handover.RESUMED)
    solve, solution, clock = run(*drawn)
    assert solve.record.spent == pytest.approx(clock.total)
    total = clock.total + rest(solve, solution, world)
    assert not system.made or total <= MOST * world.reference(Handover.RESUMED) + 1e-6
    assert all(hi % size == 0 or hi == 40 for _, hi, _ in system.made)


@given(runs(), st.lists(st.sampled_from([0.3, 1.0, 7.9]), min_size=1, max_size=5))
@settings(max_examples=60)
def test_a_machine_that_is_somewhat_slower_than_calibrated_changes_nothing(drawn: Any, factors: Any) -> None:
    """Then the reference would be slower too: what counts is calibrated cost."""
    twin = replace(drawn[0], made=[], right=0, windowed=drawn[0].windowed and drawn[0].windowed.fresh())
    _, expected, _ = run(*drawn)
    solve, solution, _ = run(twin, *drawn[1:], factors=factors)
    assert twin.made == drawn[0].made and solution.ending is expected.ending
    assert solve.record.certified == expected.certified


@given(runs(), st.lists(st.sampled_from([1.0, 1.0, 1.0, 9.0, 200.0]), min_size=1, max_size=6))
@settings(max_examples=120)
def test_sweeps_that_stall_are_left_before_they_break_the_bound_by_more_than_an_operator(
    drawn: Any, factors: Any
) -> None:
    system, world, _, _, handover = drawn
    solve, solution, clock = run(*drawn, factors=factors)
    if not system.made:
        return
    total = world.once + world.draws + clock.total + rest(solve, solution, world)
    assert total <= most(system, world, handover) + clock.longest
    assert torch.equal(solution.state[0][: solution.certified], system.answer[: solution.certified])
    last = clock.begun - 1
    if (
        handover is not Handover.CACHED and len(solve.record.sweeps) == last and solution.ending is Ending.GUARD
    ):  # it was left: not before it had to be
        before = total - clock.counted(last)
        taken, room = clock.taken(last), MOST * world.reference(handover) - before
        assert taken > max(8.0 * clock.price(last), room) - 1e-6
        assert solution.detail == (
            f"sweep {last + 1} was left after {taken:.3g} s, predicted {clock.price(last):.3g} s"
        )
        assert clock.factor(last) > 8.0


@given(runs(), st.integers(0, 40))
@settings(max_examples=120)
def test_a_state_that_becomes_too_large_late_costs_no_more_than_the_slack(drawn: Any, at: int) -> None:
    """The premise on how large the reference's state can be is looked at as blocks are certified, not at the end."""
    system, world, _, _, handover = drawn
    solve, solution, clock = run(*drawn, reach=Reached(at))
    if not system.made:
        return
    total = world.once + world.draws + clock.total + rest(solve, solution, world)
    assert total <= most(system, world, handover) + (clock.longest if clock.making else 0.0)
    assert solution.certified <= max(at, 0)
    assert solution.ending is not Ending.SWEEPS or world.blocks <= at


PADDED = runs(handovers=[Handover.CACHED])


@given(PADDED)
@settings(max_examples=200)
def test_a_padded_loop_that_is_careful_costs_no_more_than_the_slack_whatever_happens(drawn: Any) -> None:
    """Also where blocks raise, break a premise, or come out otherwise than in windows."""
    system, world, _, _, handover = drawn
    solve, solution, clock = run(*drawn, careful=True)
    if not system.made:
        return
    total = world.once + world.draws + clock.total + rest(solve, solution, world)
    over = clock.longest if clock.making else 0.0
    assert total <= MOST * world.reference(handover) + over + 1e-6
    assert system.handed is None, "nothing but the function from its beginning is trusted with the rest"


def padded(fronts: list[int], known: bool = True, blocks: int = 40, **prices: float) -> tuple[Scripted, World]:
    """A loop over a padded array; ``known``: the windows for its rest are there, and else too dear to be made."""
    buffers = Buffers(100.0, known=set(shared_windows(blocks)) if known else set(), making=100.0)
    given = {"narrow": 0.1, "wide": 0.5, "fill": 1.0, "certify": 1.0, "epilogue": 2.0, **prices}
    return Scripted(blocks, fronts, windowed=buffers), plain(blocks, **given)


STALLING = [4, 8, *[8] * 30]
"""Sweeps that come no further than block 8."""


def of_padded(system: Scripted, world: World, **others: Any) -> tuple[Any, Any, float]:
    solve, solution, clock = run(system, world, Schedule(Method.JACOBI), Bits(), Handover.CACHED, **others)
    return solve, solution, clock.total + rest(solve, solution, world)


def test_the_rest_of_a_padded_loop_goes_on_in_the_windows_that_are_there_at_the_price_that_was_kept_for_it() -> None:
    system, world = padded(STALLING, certify=8.0)
    solve, solution, total = of_padded(system, world)
    kinds = [made[2] for made in system.made[system.handed :]]
    assert solution.certified == 40 and solution.ending is Ending.GUARD and system.foreseen
    assert kinds == ["fill", *["window"] * (len(kinds) - 2), "certify"] and system.windowed.spent == 0.0
    assert {hi - lo for lo, hi, kind in system.made if kind == "window"} <= {16, 17, 9}
    assert total <= MOST * 42 and solution.detail.endswith("; the rest went on in windows, block after block")
    kept, paid = solve.guard.rest(system.made[system.handed][0]), rest(solve, solution, world)
    assert paid <= kept <= 1.1 * paid, "as the guard had it"


def test_without_windows_the_rest_of_a_padded_loop_goes_on_step_by_step_if_that_is_cheaper_than_the_function() -> None:
    for captured, anew in ((0.5, False), (3.0, True)):
        system, world = padded(STALLING, known=False, captured=captured, certify=1.0 if anew else 8.0)
        _, solution, total = of_padded(system, world)
        assert (solution.certified < 40) == anew and total <= MOST * 42 and system.windowed.spent == 0.0
        assert (system.handed is None) == anew
        assert anew or {made[2] for made in system.made[system.handed :]} == {"step"}
        assert solution.detail.endswith("; the rest went on step by step") != anew


def test_windows_that_round_otherwise_are_used_once() -> None:
    system, world = padded(STALLING, captured=0.9, certify=10.0)
    system.exact = False
    _, solution, total = of_padded(system, world)
    kinds = [made[2] for made in system.made[system.handed :]]
    assert kinds.count("certify") == 1 and "step" in kinds and kinds.index("certify") < kinds.index("step")
    assert solution.certified == 40 and not system.foreseen and total <= MOST * 42 + 42
    assert torch.equal(solution.state[0], system.answer) and "came out otherwise" in solution.detail


def test_windows_that_round_otherwise_and_are_not_worth_a_second_way_leave_all_to_the_function() -> None:
    system, world = padded(STALLING, captured=3.0, certify=10.0)
    system.exact = False
    _, solution, total = of_padded(system, world)
    assert solution.certified < 40 and not system.foreseen and total <= MOST * 42 + 42
    assert "window" in {made[2] for made in system.made[system.handed :]}, "they were tried"


def plain(blocks: int, **prices: float) -> World:
    """A world in which only sweeps cost something."""
    free = dict.fromkeys(("prologue", "epilogue", "draws", "checks", "narrow", "fill"), 0.0)
    return World(blocks, **{**free, "step": 1.0, "captured": 1.0, "wide": 0.1, "certify": 0.1, **prices})


def test_a_sweep_that_stalled_without_certifying_is_not_followed_by_one_that_certifies() -> None:
    """There is no room for it any more."""
    system = Scripted(40, [3, 6, 9, 40], exact=False)
    solve, solution, _ = run(
        system, plain(40), Schedule(Method.SLIDING, 4), Bits(), Handover.RESUMED, factors=[1.0, 200.0, 1.0]
    )
    assert [made[2] for made in system.made] == ["solve", "solve"]
    assert solution.certified == 0 and solution.ending is Ending.GUARD
    assert solve.record.spent == pytest.approx(0.1 + 0.1 + 20 / 7 - 0.8)
    assert solution.detail == "sweep 2 was left after 2.86 s, predicted 0.1 s"


@pytest.mark.parametrize(("work", "sweeps"), [(0.05, 3), (30.0, 1)], ids=["other processes", "denormals"])
def test_time_in_which_nothing_was_worked_is_no_stall(work: float, sweeps: int) -> None:
    """A busy machine would else stop runs that are worth their cost."""
    system = Scripted(40, [20, 39, 40])
    ticks = iter(range(100))
    solve, solution, _ = run(
        system,
        plain(40),
        Schedule(Method.JACOBI),
        Bits(),
        Handover.RESUMED,
        factors=[200.0],
        work=lambda: next(ticks) * work,
    )
    assert len(system.made) == sweeps
    assert (solution.ending is Ending.SWEEPS) == (sweeps == 3)
    assert solution.detail.startswith("sweep 1 was left after") == (sweeps == 1)
    assert all(sweep.seconds == pytest.approx(20.0) for sweep in solve.record.sweeps), "what it took is recorded"


def test_a_window_of_few_heavy_blocks_is_priced_by_them() -> None:
    """Three of ten blocks hold nearly all: counting blocks would call a sweep over them cheap."""
    costs = Costs(1.0, 10.0, 10.0, 0.0, ((10, 10.0),), blocks=(*[0.01] * 7, *[3.3] * 3))
    guard = Guard(costs, 10)
    assert guard.cost(True, (7, 10)) > 0.98 * guard.cost(True, (0, 10)) > 10 * guard.cost(True, (0, 7))


def test_a_sweep_that_does_not_certify_must_leave_room_for_one_that_does() -> None:
    """Else its work might be lost."""
    for certify, allowed in ((3.0, True), (5.0, False)):
        guard = Guard(Costs(1.0, 1.5, certify, 0.0), 100)
        assert guard.allows(0, False) is allowed and guard.allows(0, True)


def test_what_comes_after_the_loop_is_part_of_every_ending() -> None:
    """Half of the function is its epilogue: sweeps may not spend that too."""
    guard = Guard(Costs(1.0, 1.0, 1.0, 0.0, after=50.0), 100)
    for certified in (0, 50, 99, 100):
        left = 50.0 * (100 - certified) / 100
        assert guard.rest(certified) == left + 50.0
    guard.spent = 54.0
    assert guard.allows(100, True) and not guard.allows(98, True)


def test_where_captured_steps_are_slow_the_function_begins_anew() -> None:
    guard = Guard(Costs(1.0, 1.0, 1.0, 0.0, captured=2.5), 100, 0.0, Handover.CAPTURED)
    assert guard.anew(0) and guard.anew(59) and not guard.anew(60) and not guard.anew(100)
    assert guard.rest(10) == 100.0 and guard.rest(80) == 50.0
    assert not Guard(Costs(1.0, 1.0, 1.0, 0.0, captured=2.5), 100).anew(0), "it goes on in its middle"


def test_a_loaded_artifact_is_held_to_its_own_steps() -> None:
    costs = Costs(1.0, 1.0, 1.0, 0.5, captured=0.25, after=2.0)
    assert Guard(costs, 100).reference == 100.0
    assert Guard(costs, 100, 0.0, Handover.LOADED).reference == 0.5 + 25.0 + 2.0
    assert Guard(costs, 100).allows(0, True) and not replaced(costs, 1.4).allows(0, True)


def replaced(costs: Costs, sweep: float) -> Guard:
    return Guard(replace(costs, sweep=sweep, certify=sweep), 100, 0.0, Handover.LOADED)


# ---------------------------------------------------------------------------------------------------- repeated maps


@given(
    st.integers(1, 60),
    st.integers(1, 80),
    st.floats(0.2, 4.0),
    st.one_of(st.just(0.0), st.floats(0.0, 2.0)),
    st.floats(0.0, 0.5),
    st.floats(0.0, 5.0),
    st.sampled_from(HANDOVERS),
)
@settings(max_examples=200)
def test_no_repeated_map_costs_more_than_the_slack_allows(
    count: int, repeats: int, captured: float, look: float, checks: float, epilogue: float, handover: Handover
) -> None:
    steps, once = Steps(count, repeats), 1.0 + checks
    live = 1.0 + count + epilogue
    guard = StepGuard(Costs(live / count, captured, captured + look, once, after=epilogue), count, 0.0, handover)
    record = RunRecord("jacobi", count)
    solution = RepeatRun(steps, Bits(), guard, guard.every, {}, record).run((torch.zeros(3),))  # type: ignore[arg-type]
    if not steps.made and handover is not Handover.LOADED:
        return
    done, left = steps.made, count - solution.certified
    looks = sum(1 for k in range(done) if (k + 1) % guard.every == 0 and k + 1 < count)
    paid = once + captured * done + look * looks
    reference = once + captured * count + epilogue if handover is Handover.LOADED else live
    rests = {
        Handover.RESUMED: 1.0 + left + epilogue,
        Handover.CAPTURED: live if guard.anew(solution.certified) else captured * left + epilogue,
        Handover.LOADED: captured * left + epilogue,
    }
    assert paid + (rests[handover] if left else epilogue) <= MOST * reference + 1e-6
    assert float(solution.state[0]) == float(min(done, repeats))
    assert record.ending is (Ending.GUARD if left else Ending.SWEEPS)
    assert not left or "would be" in record.detail

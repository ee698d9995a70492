"""The choice is a pure function of what was measured: ties, memory, candidates that were not run, and each reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plans import MADE
from systems import SYSTEMS

import ffcompiler as ffc
from ffcompiler.choice.calibrate import Calibration
from ffcompiler.choice.choose import MARGIN, NEAR, RUNS, WORTH, Outlook, best_of, bias, choose, next_to_run, to_try
from ffcompiler.choice.contest import LOOKS
from ffcompiler.choice.convergence import Fresh, Shape, Trace
from ffcompiler.choice.memory import peak_bytes, predicted_bytes
from ffcompiler.choice.traces import take_trace
from ffcompiler.plan import EXCLUDED, Candidate, Convergence, Costs, Method, Plan, Schedule
from ffcompiler.program import RepeatedMap
from ffcompiler.proof import NO_PROOF
from ffcompiler.runtime.guard import Handover
from ffcompiler.schedules import parse_schedule
from ffcompiler.tell.decision import candidate_table, convergence_lines
from ffcompiler.written.text import parse
from ffcompiler.zoo import made

COSTS = Costs(step=0.01, sweep=0.002, certify=0.002, once=0.0, windows=((4, 0.0005), (12, 0.002)))
REFERENCE = 0.12


def named(name: str) -> Schedule:
    schedule = parse_schedule(name)
    assert schedule is not None
    return schedule


def ran(name: str, seconds: float, predicted: float | None = None) -> Candidate:
    return Candidate(named(name), seconds, 5, "ran", 1, predicted)


def told(name: str, seconds: float) -> Candidate:
    return Candidate(named(name), seconds, 5, "told", 1, seconds, measured=False)


def chosen(*candidates: Candidate) -> Plan:
    return choose(replace(MADE, candidates=()), None, Calibration(COSTS, REFERENCE, candidates))


def note_of(plan: Plan, name: str) -> str:
    return next(c.note for c in plan.candidates if c.schedule == named(name))


def test_the_fastest_that_was_run_is_taken_and_each_loser_says_by_how_much_it_lost() -> None:
    plan = chosen(ran("jacobi", 0.05), ran("sliding(4)", 0.02, 0.021), told("sliding(2)", 0.03))
    assert plan.schedule == named("sliding(4)") and "6.0x the reference's speed" in plan.why
    assert note_of(plan, "jacobi").endswith("2.50x the time of sliding(4)")
    assert note_of(plan, "sliding(2)").endswith("not run: predicted 1.50x the time of sliding(4)")
    assert note_of(plan, "sequential").endswith("6.00x the time of sliding(4)")
    assert note_of(plan, "sliding(4)") == "ran"


def test_of_candidates_that_are_as_fast_but_for_noise_the_first_is_taken() -> None:
    plan = chosen(ran("jacobi", NEAR * 0.02), ran("sliding(4)", 0.02))
    assert plan.schedule == named("jacobi")
    assert "no faster than jacobi by more than noise" in note_of(plan, "sliding(4)")


def test_sequential_wins_where_nothing_beats_it() -> None:
    assert chosen(ran("jacobi", REFERENCE)).schedule.method is Method.SEQUENTIAL
    assert chosen(told("jacobi", REFERENCE / MARGIN * 1.01)).schedule.method is Method.SEQUENTIAL
    assert chosen().schedule.method is Method.SEQUENTIAL


def test_sweeps_that_gain_less_than_a_tenth_are_not_taken() -> None:
    plan = chosen(ran("jacobi", 0.95 * REFERENCE), ran("sliding(4)", 1.5 * REFERENCE))
    assert plan.schedule.method is Method.SEQUENTIAL and "by enough to count on it" in plan.why
    assert "too little to count on" in note_of(plan, "jacobi")
    assert chosen(ran("jacobi", 0.9 * REFERENCE)).schedule == named("jacobi")


def test_a_prediction_decides_only_with_a_margin() -> None:
    assert chosen(told("jacobi", 0.02)).schedule == named("jacobi")
    assert "predicted for the example inputs" in chosen(told("jacobi", 0.02)).why
    assert chosen(ran("jacobi", 0.02), told("sliding(4)", 0.019)).schedule == named("jacobi")
    assert chosen(ran("jacobi", 0.02), told("sliding(4)", 0.01)).schedule == named("sliding(4)")


def test_predictions_that_were_too_low_of_what_was_run_are_believed_less_of_what_was_not() -> None:
    assert bias([ran("jacobi", 0.04, 0.02), told("sliding(4)", 0.01)]) == 2.0
    assert bias([ran("jacobi", 0.01, 0.02)]) == 1.0 == bias([])
    assert chosen(ran("jacobi", 0.04, 0.02), told("sliding(4)", 0.02)).schedule == named("jacobi")
    assert chosen(ran("jacobi", 0.04, 0.04), told("sliding(4)", 0.02)).schedule == named("sliding(4)")


def test_a_candidate_over_the_memory_limit_is_not_taken_however_fast() -> None:
    large = Candidate(named("jacobi"), 0.001, 0, f"{EXCLUDED}: about 9 bytes are needed, and 8 allowed", measured=False)
    plan = chosen(large, ran("sliding(4)", 0.05))
    assert plan.schedule == named("sliding(4)") and note_of(plan, "jacobi") == large.note


def chosen_with(harder: dict[str, float], *candidates: Candidate) -> Plan:
    found = Calibration(COSTS, REFERENCE, candidates, harder={named(name): s for name, s in harder.items()})
    return choose(replace(MADE, candidates=()), None, found)


def test_sweeps_that_the_guard_would_end_on_a_harder_input_lose_to_ones_that_go_on() -> None:
    edge, sure = ran("jacobi", 0.02), ran("sliding(4)", 0.024)
    assert chosen_with({}, edge, sure).schedule == edge.schedule
    plan = chosen_with({"jacobi": 0.1, "sliding(4)": 0.006}, edge, sure)
    assert plan.schedule == sure.schedule
    told = "0.12 s on inputs that need more sweeps"
    assert note_of(plan, "jacobi").endswith(f"1.20x as fast as sliding(4), but {told}")
    assert plan.why.endswith(f"the fastest other candidate needs 0.02 s, but {told}")
    assert chosen_with({"jacobi": 0.1}, edge).schedule == edge.schedule  # still far better than none
    assert chosen_with({"jacobi": 0.1, "sliding(4)": 0.1}, edge, sure).schedule == edge.schedule


def test_sweeps_that_gain_little_and_are_ended_on_harder_inputs_are_not_taken() -> None:
    assert chosen_with({"jacobi": 0.0}, ran("jacobi", 0.1)).schedule == named("jacobi")
    assert chosen_with({"jacobi": 0.2}, ran("jacobi", 0.1)).schedule.method is Method.SEQUENTIAL


def test_wrong_bits_refuse_all_parallel_schedules() -> None:
    found = choose(MADE, None, Calibration(COSTS, REFERENCE, (ran("jacobi", 0.01),), wrong="its bits are wrong"))
    assert found.refusal is not None and "its bits are wrong" in found.refusal and found.premises == ()


def test_a_schedule_asked_for_by_name_is_taken_though_slower() -> None:
    found = choose(MADE, named("jacobi"), Calibration(COSTS, REFERENCE, (ran("jacobi", 9.0),)))
    assert found.schedule == named("jacobi") and "by name" in found.why


candidates_ = st.lists(
    st.tuples(
        st.sampled_from(["jacobi", "sliding(2)", "sliding(4)", "gs-jacobi(3)", "gauss-seidel"]),
        st.sampled_from([0.01, 0.02, 0.0205, 0.1, 0.2]),
        st.booleans(),
    ),
    unique_by=lambda c: c[0],
)


@given(candidates_)
def test_the_same_measurements_give_the_same_choice_and_never_one_known_to_be_slower(found: Any) -> None:
    all_ = [ran(name, s, s) if measured else told(name, s) for name, s, measured in found]
    sequential = Candidate(Schedule(Method.SEQUENTIAL), REFERENCE, 0, "the reference")
    best = best_of(sequential, all_)
    assert best == best_of(sequential, list(all_))
    fastest = min([REFERENCE, *(c.seconds for c in all_ if c.measured)])
    assert best.seconds <= max(NEAR, WORTH) * fastest
    assert best.measured or MARGIN * best.seconds <= fastest


def test_a_candidate_that_the_guard_would_not_begin_is_not_said_to_take_longer() -> None:
    unbegun = replace(told("jacobi", 1.04 * REFERENCE), sweeps=0, certifying=0, note="the guard would begin no sweep")
    assert note_of(chosen(unbegun), "jacobi") == "the guard would begin no sweep; not run"


def test_only_what_can_change_the_choice_is_run_and_a_few_at_most() -> None:
    waiting = [told("jacobi", 0.05), told("sliding(4)", 0.02)]
    assert next_to_run([], waiting, REFERENCE) == waiting[1]
    assert next_to_run([ran("sliding(4)", 0.02, 0.02)], waiting[:1], REFERENCE) is None  # hopeless beside it
    assert next_to_run([ran("sliding(2)", 0.01)] * 3, waiting, REFERENCE) is None
    assert next_to_run([], [], REFERENCE) is None
    assert next_to_run([], [told("jacobi", 3 * REFERENCE)], REFERENCE) is None


def outlook(limit: int | None = None, traces: tuple[Trace, ...] = (Trace(12, (Fresh(0, (4, 8, 12)),)),)) -> Outlook:
    shape = Shape(12, exact=True)
    return Outlook(MADE, NO_PROOF, lambda schedule: shape, COSTS, REFERENCE, traces, limit)


def test_a_prediction_has_sweeps_seconds_memory_and_what_becomes_of_it() -> None:
    found = outlook().predict(named("jacobi"), {})
    assert found is not None and not found.measured
    assert (found.sweeps, found.seconds, found.predicted) == (3, pytest.approx(0.006), found.seconds)
    assert found.note == "20x the reference's speed" and found.memory == predicted_bytes(
        MADE, NO_PROOF, named("jacobi")
    )
    slow = replace(outlook(), costs=replace(COSTS, sweep=0.2, certify=0.2)).predict(named("jacobi"), {})
    assert slow is not None and slow.note == "the guard would begin no sweep"
    assert outlook(traces=()).predict(named("jacobi"), {}) is None


def test_of_several_inputs_nine_in_ten_are_to_be_as_fast_as_predicted() -> None:
    traces = tuple(Trace(12, (Fresh(0, tuple(range(12 - k, 13))),)) for k in range(11))
    found = outlook(traces=traces[1:]).predict(named("jacobi"), {})
    alone = outlook(traces=(traces[9],)).predict(named("jacobi"), {})
    assert found is not None and alone is not None and found.seconds == alone.seconds


def test_windows_are_predicted_with_the_certifying_sweeps_that_others_needed() -> None:
    one, five = (outlook().predict(named("sliding(4)+windows"), {True: count}) for count in (1, 5))
    assert one is not None and five is not None and (one.certifying, five.certifying) == (1, 5)
    assert five.seconds > one.seconds


def test_what_a_harder_input_takes_more_is_much_where_the_guard_then_ends_the_run() -> None:
    room = replace(COSTS, step=0.01, captured=0.008)  # of 0.12 s in steps: sweeps may spend 0.03 s of the slack
    for sweep, least, most in ((0.002, 0.0019, 0.0021), (0.0138, 0.06, 0.2)):
        trace = Trace(12, (Fresh(0, (1, 2, 12)),))
        shape = Shape(12, exact=True, handover=Handover.CAPTURED)
        costs = replace(room, sweep=sweep, certify=sweep)
        view = Outlook(MADE, NO_PROOF, lambda schedule, shape=shape: shape, costs, REFERENCE, (trace,))
        assert least < view.harder(named("jacobi"), {}) < most
        assert view.harder(named("captured"), {}) == 0.0 == replace(view, traces=()).harder(named("jacobi"), {})


# ---------------------------------------------------------------------------------------------------- memory


def test_memory_counts_results_from_where_they_are_made_to_where_they_are_last_read() -> None:
    loop = MADE.array
    assert loop is not None
    # relu's result beside that of the product it reads, then the next product beside relu's; views count nothing
    assert peak_bytes(loop.shared) == 4 * (4 * 32 + max(4 * 32, 4 * 24))
    narrow = predicted_bytes(MADE, NO_PROOF, named("sliding(2)"))
    wide = predicted_bytes(MADE, NO_PROOF, named("jacobi"))
    assert narrow is not None and wide is not None and narrow < wide


def test_what_needs_too_much_memory_is_neither_run_nor_taken() -> None:
    function, args = SYSTEMS["made_whole_then_sliced"].make()
    plan = ffc.compile(function, args, memory_limit=0, cache=False).plan
    assert not plan.schedule.sweeps
    others = [c for c in plan.candidates if c.schedule.sweeps]
    assert others and all(c.excluded and not c.measured and "0 allowed" in c.note for c in others)
    for nonsense in (-1, float("nan")):
        with pytest.raises(ffc.UsageError, match=f"memory_limit is {nonsense}"):
            ffc.compile(function, args, memory_limit=nonsense)


def test_the_only_schedule_of_a_loop_may_need_too_much_memory_too() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return ffc.fori_loop(0, 40, lambda i, s: torch.cos(s), x)

    plan = ffc.compile(function, (torch.ones(6),), memory_limit=0, cache=False).plan
    assert isinstance(plan.system, RepeatedMap) and plan.schedule.method is Method.SEQUENTIAL
    (only,) = plan.candidates[1:]
    assert only.excluded and not only.measured and "0 allowed" in only.note


def test_a_schedule_asked_for_by_name_is_run_whatever_memory_it_needs() -> None:
    function, args = SYSTEMS["raster_2d"].make()
    plan = ffc.compile(function, args, schedule="jacobi", memory_limit=0, cache=False).plan
    assert plan.schedule.method is Method.JACOBI and plan.candidates[1].measured


# ---------------------------------------------------------------------------------------------------- compile


def test_without_a_budget_nothing_is_run_and_the_plan_still_reads_back() -> None:
    function, args = SYSTEMS["raster_2d"].make()
    compiled = ffc.compile(function, args, budget=0.0, cache=False)
    plan = compiled.plan
    assert parse(str(plan)) == plan and len(plan.candidates) > 1
    assert sum(c.measured for c in plan.candidates) <= 2  # the reference, and one at most
    assert torch.equal(compiled(*args), function(*args))
    with pytest.raises(ffc.UsageError, match="budget is -1"):
        ffc.compile(function, args, budget=-1)


def test_candidates_that_are_run_have_both_figures_and_others_their_prediction() -> None:
    function, args = SYSTEMS["raster_2d"].make()
    plan = ffc.compile(function, args, cache=False).plan
    swept = [c for c in plan.candidates if c.schedule.sweeps]
    run = [c for c in swept if c.measured]
    assert len(run) <= RUNS + LOOKS and all(c.predicted is not None and c.memory for c in swept)
    assert all(c.seconds == c.predicted for c in plan.candidates if not c.measured)
    assert plan.convergence is not None and plan.convergence.sweeps and plan.convergence.lyapunov is None
    data = json.loads(json.dumps(ffc.compile(function, args, cache=False).explain().json))
    assert {"measured", "predicted", "memory", "note"} <= data["candidates"][1].keys()
    assert data["convergence"]["sweeps"] == list(plan.convergence.sweeps)


def test_a_schedule_by_name_is_run_and_not_predicted() -> None:
    function, args = SYSTEMS["raster_2d"].make()
    plan = ffc.compile(function, args, schedule="sliding(5)", budget=0.0, cache=False).plan
    (found,) = plan.candidates[1:]
    assert found.measured and found.predicted is None and plan.convergence is None


def test_made_is_predicted_to_be_fastest_by_sliding_windows() -> None:
    """The sampler that ships: its trace, with costs in the proportions that were measured on an idle machine."""
    function, args = made.sampler(), (made.logistic_noise(4, 0, 784, 1.0),)
    compiled = ffc.compile(function, args, schedule="jacobi", cache=False)
    (trace,) = _traces(compiled)
    widths = ((2, 0.0002), (25, 0.00026), (49, 0.0003), (98, 0.00036), (196, 0.0006), (784, 0.0016))
    costs = Costs(0.001, 0.0015, 0.0015, 0.002, widths, fill=0.0015)
    shape = Shape(784, exact=True)
    view = Outlook(compiled.plan, compiled.proof, lambda schedule: shape, costs, 0.784, (trace,))
    schedules = to_try(compiled.plan, compiled.proof, None)
    assert view.plan.array is not None
    known = [c for s in schedules if s.method is not Method.WAVEFRONT and (c := view.predict(s, {})) is not None]
    best = min(known, key=lambda c: c.seconds)
    assert best.schedule.method is Method.SLIDING and best.schedule.windows


def _traces(compiled: ffc.Compiled) -> Iterator[Trace]:
    from_live = compiled.live
    assert from_live is not None
    found = take_trace(compiled.plan, compiled.proof, from_live.captured.replays[0], from_live.weights(), lambda: 60.0)
    assert found is not None
    yield found


# ---------------------------------------------------------------------------------------------------- told


def test_the_decision_reads_as_expected(golden: Any) -> None:
    plan = chosen(
        replace(ran("jacobi", 0.05, 0.048), memory=3 * 2**20),
        ran("sliding(4)", 0.02, 0.021),
        told("sliding(2)", 0.03),
        Candidate(
            named("gauss-seidel"), REFERENCE, 0, f"{EXCLUDED}: about 9 bytes are needed", measured=False, memory=9
        ),
    )
    lines = candidate_table(plan.candidates)
    for known in (
        Convergence((25,)),
        Convergence((25, 31), cut=True),
        Convergence((30,), lyapunov=-0.5),
        Convergence((30,), lyapunov=0.7),
    ):
        lines += ["", *convergence_lines(replace(plan, convergence=known))]
    lines += ["", *convergence_lines(replace(plan, equality=ffc.tolerance(1e-3, 1e-3), convergence=known))]
    assert golden == "\n".join(lines)


def test_a_plan_with_predictions_and_convergence_reads_back_equal() -> None:
    plan = chosen(ran("jacobi", 0.05, 0.048), told("sliding(2)", 0.03))
    for known in (Convergence(), Convergence((1, 2), True, -0.25), Convergence((7,), lyapunov=0.5), None):
        whole = replace(plan, convergence=known, costs=replace(COSTS, fill=0.5, after=0.25))
        assert parse(str(whole)) == whole

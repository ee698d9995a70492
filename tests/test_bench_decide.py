"""The benchmark of decisions: its arithmetic, its checks, and how it goes on. No time is asserted."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.bench import harness
from ffcompiler.bench.decide import campaign, checked, measured
from ffcompiler.bench.decide.checked import Checks, check
from ffcompiler.bench.decide.decision import EAGER, NEXT, Decision
from ffcompiler.bench.decide.measured import decide, in_turns
from ffcompiler.bench.decide.summary import Summary
from ffcompiler.bench.decide.system import BITS, TIGHT, System, normal
from ffcompiler.bench.decide.systems import SYSTEMS, select
from ffcompiler.bench.decide.ways import Way, on_example, predicted, refusal_of, ways_of
from ffcompiler.bench.harness import Moment
from ffcompiler.cli import main
from ffcompiler.errors import UsageError
from ffcompiler.loops import TimedSteps, drive_loops
from ffcompiler.plan import Candidate, Costs, Method, Schedule, in_a_row
from ffcompiler.runtime.record import Certificate, Ending, RunRecord

QUIET = Moment(0.0, 0.01, 0.1)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "moment", lambda: QUIET)
    monkeypatch.setattr(measured, "moment", lambda: QUIET)


MADE_UP = Decision(
    "made-up", "sampler", "bits", "here",
    chosen="jacobi",
    predicted={"sequential": 8.0, "jacobi": 3.0},
    seconds={EAGER: [8.0], "sequential": [9.0, 8.0, 10.0], "jacobi": [4.0, 2.0, 4.0], "sliding(4)": [2.0, 1.0, 2.0]},
    hard={"x8": {EAGER: [2.0, 1.0, 3.0], "jacobi": [2.2, 1.0, 3.6], "sliding(4)": [2.0]}},
)  # fmt: skip
REFUSED = Decision(
    "r", "map", "bits", "here",
    chosen="sequential", refusal="it leaks\n  at a.py:3", seconds={EAGER: [2.0], "sequential": [3.0]},
)  # fmt: skip
FAILED = Decision("f", "map", "bits", "here", error="ValueError: no")


def test_regret_is_the_time_of_the_chosen_schedule_by_that_of_the_best_one_in_the_same_turn() -> None:
    assert MADE_UP.best == "sliding(4)" and MADE_UP.regret == MADE_UP.lead == 4.0 / 2.0
    assert replace(MADE_UP, chosen="sliding(4)").regret == 1.0


def test_one_turn_in_which_a_schedule_seems_fast_makes_no_regret() -> None:
    turns = [4.0] * 5
    lucky = {f"sliding({k})": [1.0 if turn in (k, k + 1) else 4.1 for turn in range(5)] for k in range(4)}
    lucky["sliding(9)"] = [1.0, 4.1, 1.0, 4.1, 1.0]  # the fastest by every other turn, and by the median of all
    found = replace(MADE_UP, seconds={EAGER: [8.0], "jacobi": turns} | lucky)
    assert found.lead == 4.0 and found.best == "sliding(9)" and found.regret == 1.0
    two = replace(MADE_UP, seconds={EAGER: [8.0], "jacobi": [4.0] * 4, "sliding(4)": [2.0, 1.0, 2.0, 1.0]})
    assert two.regret == pytest.approx(math.sqrt(4.0 * 2.0))
    assert replace(MADE_UP, seconds={EAGER: [8.0], "jacobi": [4.0], "sliding(4)": [2.0]}).regret == 2.0


def test_the_eager_function_is_no_choice_but_what_a_slow_down_is_named_after() -> None:
    quick = replace(MADE_UP, seconds=MADE_UP.seconds | {EAGER: [0.5]})
    assert quick.best == "sliding(4)" and quick.slowdown == 8.0
    assert MADE_UP.slowdown == 0.5


def test_a_prediction_is_held_against_the_median_of_the_chosen_schedule() -> None:
    assert MADE_UP.prediction == 3.0 / 4.0
    assert replace(MADE_UP, chosen="sliding(4)").prediction is None  # the plan says nothing of it


def test_a_choice_is_parallel_if_any_part_of_it_is() -> None:
    names = ("sequential", "captured", "captured | sequential", "jacobi | captured")
    assert [replace(MADE_UP, chosen=name).parallel for name in names] == [False, False, False, True]
    assert not replace(REFUSED, chosen="jacobi").parallel


def test_a_predicted_share_is_held_against_the_share_of_the_function_in_the_same_turns() -> None:
    """A machine that was twice as fast while compiling predicts half of the seconds, and the same share."""
    assert MADE_UP.share == (3.0 / 8.0) / 0.5
    quicker = replace(MADE_UP, predicted={"sequential": 4.0, "jacobi": 1.5})
    assert quicker.share == MADE_UP.share and quicker.prediction == MADE_UP.prediction / 2  # type: ignore[operator]
    assert replace(MADE_UP, predicted={"jacobi": 3.0}).share is None and REFUSED.share is None
    assert "predicted_share_by_measured" in MADE_UP.derived()


def test_guarded_runs_are_held_against_the_function_on_the_same_hard_inputs() -> None:
    assert MADE_UP.guarded() == {"x8, jacobi": 1.1, "x8, sliding(4)": 1.0}


def test_a_refused_system_has_nothing_to_regret_but_may_be_slower() -> None:
    assert not REFUSED.decided and REFUSED.regret == 1.0 and REFUSED.slowdown == 1.5 and REFUSED.prediction is None


def test_the_summary_is_over_what_was_decided_and_counts_the_others() -> None:
    sure = replace(MADE_UP, system="sure", chosen="sliding(4)", predicted={"sliding(4)": 2.2}, hard={})
    summary = Summary((MADE_UP, REFUSED, FAILED, sure))
    assert summary.figures() == pytest.approx(
        {
            "regret, geometric mean": math.sqrt(2.0),
            "regret, worst": 2.0,
            "regret, worst, the best named by the same turns": 2.0,
            "error of the prediction, median": (0.25 + 0.1) / 2,
            "error of the prediction, parallel ones, median": (0.25 + 0.1) / 2,
            "error of the predicted share, median": 0.25,
            "error of the predicted share, parallel ones, median": 0.25,
            "compiled by eager, worst": 1.5,
            "compiled by eager, geometric mean": (0.5 * 1.5 * 0.25) ** (1 / 3),
            "guarded time on hard inputs by eager, median": 1.05,
            "guarded time on hard inputs by eager, worst": 1.1,
        }
    )
    assert summary.worst() == {
        "regret, worst": "made-up",
        "regret, worst, the best named by the same turns": "made-up",
        "compiled by eager, worst": "r",
        "guarded time on hard inputs by eager, worst": "made-up: x8, jacobi",
    }
    data = json.loads(json.dumps(summary.to_json()))
    assert (data["systems"], data["decided"], data["failed"]) == (4, 2, {"f": "ValueError: no"})
    assert data["refused"] == {"r": "it leaks\n  at a.py:3"} and not summary.right
    assert data["decisions"][0]["regret"] == 2.0 and data["decisions"][0]["seconds"] == MADE_UP.seconds
    text = str(summary)
    assert "4 systems: 2 decided, 1 refused, 1 failed" in text and "sequential (it leaks)" in text
    assert "regret, worst" in text and "NOT REACHED" in text and "goal 1.10: reached" in text


def test_without_any_decision_there_are_no_figures() -> None:
    assert Summary((FAILED,)).figures() == {} and "1 failed" in str(Summary((FAILED,)))


def test_what_is_wrong_or_loaded_is_said() -> None:
    wrong = replace(MADE_UP, wrong={"jacobi": "other bits"}, faults=["other programs used 1.00 cores"])
    summary = Summary((wrong,))
    assert not summary.right and summary.faults() == ["made-up: other programs used 1.00 cores"]
    assert "FAILED      made-up" in str(summary) and "LOADED" in str(summary) and "WRONG" in str(summary)


# ---------------------------------------------------------------------------------------------------- measuring


def test_variants_take_turns_on_fresh_inputs_and_slow_ones_drop_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    cost = {"quick": 1.0, "near": 4.0, "far": 6.0, "chosen": 60.0}

    def timed(call: Any, device: torch.device) -> float:
        call()
        return cost[calls[-1][0]]

    def variant(name: str) -> Any:
        return lambda seed: (calls.append((name, int(seed))), None)

    monkeypatch.setattr(measured, "seconds_of", timed)
    variants = {name: variant(name) for name in cost}
    seconds = in_turns(variants, lambda seed: (torch.tensor(seed),), range(2, 5), keep={"chosen"})
    assert {name: len(times) for name, times in seconds.items()} == {"quick": 3, "near": 3, "far": 2, "chosen": 3}
    assert calls[:4] == [("quick", 2), ("near", 2), ("far", 2), ("chosen", 2)]
    assert calls[8:] == [("quick", 4), ("near", 4), ("chosen", 4)]


def test_one_slow_moment_drops_no_variant_nor_makes_one_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {"best": iter([90.0, 1.0, 1.0]), "chosen": iter([80.0, 2.0, 2.0]), "far": iter([9.0, 11.0])}
    monkeypatch.setattr(measured, "seconds_of", lambda call, device: next(call()))
    variants: Any = {name: lambda seed, times=times: times for name, times in cost.items()}
    seconds = in_turns(variants, lambda seed: (torch.tensor(seed),), range(2, 5), keep={"chosen"})
    assert len(seconds["best"]) == 3 and len(seconds["far"]) == 2
    found = replace(MADE_UP, chosen="chosen", seconds=seconds | {"eager": [100.0, 100.0, 100.0]})
    assert found.best == "best" and found.lead == 2.0


def run_record(certified: int, residual: float | None) -> RunRecord:
    certificate = Certificate("tolerance", "sweeps", certified, 0, 1, residual=residual)
    return RunRecord("jacobi", 4, Ending.SWEEPS, certificate=certificate)


@pytest.mark.parametrize(
    ("equality", "off", "certified", "residual", "fault"),
    [
        (BITS, 0.0, 4, None, None),
        (BITS, 1e-6, 4, None, "other bits"),
        (TIGHT, 1e-6, 0, None, "other bits"),  # nothing was swept: this is the function itself
        (TIGHT, 1e-3, 4, 1e-7, None),
        (TIGHT, 1e-3, 4, 1e-3, "a residual of 0.001"),
        (TIGHT, 1e-3, 4, None, "a residual of None"),
        (TIGHT, 0.5, 4, 1e-7, "off by 0.5"),
        (TIGHT, math.nan, 4, 1e-7, "off by nan"),
    ],
)
def test_a_result_that_is_not_the_functions_is_found_out(
    equality: Any, off: float, certified: int, residual: float | None, fault: str | None
) -> None:
    def variant(x: Tensor) -> tuple[Tensor, RunRecord]:
        return x + off, run_record(certified, residual)

    system, checks = System("s", "k", lambda: None, normal(4), equality), Checks()
    check(system, {EAGER: lambda x: (x, None), "jacobi": variant}, system.inputs, checks, " (hard)")
    assert (checks.wrong.get("jacobi (hard)", "") or "").startswith(fault or "") and bool(checks.wrong) == bool(fault)
    assert set(checks.errors) == {"jacobi (hard)"}


@pytest.mark.parametrize(
    ("equality", "off", "fault"), [(TIGHT, 1e-6, ""), (TIGHT, 0.5, "off by"), (BITS, 1e-6, "other")]
)
def test_recorded_calls_may_round_otherwise_under_a_tolerance(equality: Any, off: float, fault: str) -> None:
    def variant(x: Tensor) -> tuple[Tensor, RunRecord]:
        return x + off, replace(run_record(0, None), ending=Ending.CAPTURED)

    system, checks = System("s", "k", lambda: None, normal(4), equality), Checks()
    check(system, {EAGER: lambda x: (x, None), "captured": variant}, system.inputs, checks)
    assert checks.wrong.get("captured", "").startswith(fault) and bool(checks.wrong) == bool(fault)


def test_a_system_that_does_not_forget_may_be_off_within_its_residual() -> None:
    system, checks = System("s", "k", lambda: None, normal(4), TIGHT, forgets=False), Checks()
    variants = {EAGER: lambda x: (x, None), "jacobi": lambda x: (x + 0.5, run_record(4, 1e-7))}
    check(system, variants, system.inputs, checks)
    assert checks.wrong == {} and checks.errors["jacobi"] == pytest.approx(0.5)


def filtered() -> Any:
    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 24, lambda i, s: 0.5 * s + x[:, i], x.new_zeros(x.shape[0]))

    return run


SMALL = System("small", "filter", filtered, normal(2, 24), hard={"x8": normal(2, 24, scale=8.0)})


def test_a_system_is_run_with_every_candidate_and_on_hard_inputs() -> None:
    found = decide(SMALL, 3, "here")
    assert found.error is None and found.refusal is None and found.wrong == {} and found.faults == []
    assert set(found.seconds) >= {EAGER, "sequential", "jacobi", *found.predicted}
    assert set(found.on_example) <= set(found.predicted)
    assert all(times for times in found.seconds.values()) and len(found.seconds[found.chosen]) == 3
    assert "jacobi" in found.hard["x8"] and len(found.hard["x8"][EAGER]) == measured.HARD_ROUNDS
    assert set(found.errors) > {"jacobi", "jacobi (x8)"} and set(found.errors.values()) == {0.0}
    assert found.regret >= 1.0 and found.slowdown > 0.0 and found.prediction is not None


def test_a_system_that_is_refused_is_measured_beside_the_function() -> None:
    def make() -> Any:
        return lambda x: x.clone().geometric_(0.5)

    found = decide(System("drawing", "k", make, normal(3)), 2, "here")
    assert found.refusal is not None and set(found.seconds) == {EAGER, "sequential"} and found.hard == {}
    assert found.wrong == {}


def test_what_compiling_raises_does_not_end_the_benchmark() -> None:
    def make() -> Any:
        raise ValueError("no such model")

    found = decide(System("broken", "k", make, normal(3)), 2, "here")
    assert found.error == "ValueError: no such model" and not found.decided


def two_loops() -> Any:
    """The second reads from last to first what the first leaves: they cannot be one."""

    def run(x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(x.shape[0], 3), []
        for i in range(24):
            h = torch.tanh(0.3 * h + x[:, i])
            outputs.append(h)
        g = torch.zeros_like(h)
        for i in range(24):
            g = torch.tanh(0.3 * g + outputs[23 - i])
        return g

    return run


IN_A_ROW = System("in-a-row", "several loops", two_loops, normal(2, 24, 3), TIGHT, loops=2)


def test_of_several_loops_the_plan_is_run_as_it_is_sequentially_and_with_one_part_changed() -> None:
    found = decide(IN_A_ROW, 2, "here")
    assert found.error is None and found.refusal is None and found.wrong == {}
    every = {EAGER, "sequential", found.chosen}
    assert set(found.seconds) > every and all(name in every or NEXT in name for name in found.seconds)
    assert found.predicted[found.chosen] > 0.0 and found.predicted["sequential"] > 0.0
    assert found.regret >= 1.0 and found.share is not None


@pytest.fixture(scope="module")
def in_a_row_compiled() -> ffc.Compiled:
    made = ffc.compile(two_loops(), IN_A_ROW.inputs(0), equality=TIGHT, schedule="jacobi", cache=False)
    assert len(made.plan.parts) == 2
    return made


def planned(made: ffc.Compiled, *names: str) -> Way:
    """Its parts by these schedules, all known: the k-th candidate takes k seconds as predicted, ten times that run."""
    table = [
        Candidate(Schedule(method), 10.0 * k, 0, "", predicted=1.0 * k)
        for k, method in enumerate((Method.SEQUENTIAL, Method.JACOBI, Method.GAUSS_SEIDEL), 1)
    ]
    parts = [
        replace(
            part,
            schedule=next(c.schedule for c in table if str(c.schedule) == name),
            candidates=tuple(table),
            costs=Costs(1.0, 1.0, 1.0, 0.0, captured=0.5),
        )
        for part, name in zip(made.plan.parts, names, strict=True)
    ]
    return Way(ffc.Compiled(in_a_row(parts), made.proofs, made.prove, made.live))


def test_what_is_predicted_of_several_parts_is_what_all_of_them_take(in_a_row_compiled: ffc.Compiled) -> None:
    """A sequential part beside others that are solved runs as its captured loop; all of them, as the function."""
    both, one = planned(in_a_row_compiled, "jacobi", "gauss-seidel"), planned(in_a_row_compiled, "sequential", "jacobi")
    none = planned(in_a_row_compiled, "sequential", "sequential")
    assert (both.name, one.name, none.name) == ("jacobi | gauss-seidel", "sequential | jacobi", "sequential")
    assert both.seconds(predicted) == 2.0 + 3.0 and both.seconds(on_example) == 20.0 + 30.0
    assert one.seconds(predicted) == 24 * 0.5 + 2.0 and none.seconds(predicted) == 1.0 + 1.0
    unknown = replace(both.plan, candidates=())
    assert (
        Way(ffc.Compiled(unknown, in_a_row_compiled.proofs, both.compiled.prove, both.compiled.live)).seconds(predicted)
        is None
    )


def test_the_ways_of_several_parts_differ_from_the_plan_in_one_part(in_a_row_compiled: ffc.Compiled) -> None:
    way = planned(in_a_row_compiled, "jacobi", "jacobi")
    names = [found.name for found in ways_of(replace(IN_A_ROW, loops=1), two_loops(), way.compiled)]
    assert names == [
        "jacobi | jacobi", "sequential", "sequential | jacobi", "gauss-seidel | jacobi",
        "jacobi | sequential", "jacobi | gauss-seidel",
    ]  # fmt: skip


def test_several_parts_are_refused_only_if_all_are(in_a_row_compiled: ffc.Compiled) -> None:
    plan = in_a_row_compiled.plan
    assert plan.rest is not None
    refused = replace(plan, refusal="no")
    assert refusal_of(refused) is None and refusal_of(replace(refused, rest=replace(plan.rest, refusal="nor"))) == "no"


def test_a_network_of_several_layers_is_run_as_one_loop_and_as_several() -> None:
    """Whichever of the two is chosen."""
    make = SYSTEMS["gru-2-layers-loose"].make
    system = System("two-layers", "several loops", make, normal(1, 40, 8), TIGHT, loops=2)
    network = make()
    with torch.no_grad():
        one = ffc.compile(network, system.inputs(0), equality=TIGHT, schedule="wavefront", cache=False)
        several = ffc.compile(network, system.inputs(0), equality=TIGHT, schedule="jacobi", cache=False)
        assert (len(one.plan.parts), len(several.plan.parts)) == (1, 2)
        for compiled in (one, several):
            parts = {len(way.plan.parts) for way in ways_of(system, network, compiled)}
            assert parts == {1, 2}


# ---------------------------------------------------------------------------------------------------- going on


NAMES = ("a", "b", "c")
THREE = {name: replace(SMALL, name=name) for name in NAMES}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The systems that were measured, in order."""
    names: list[str] = []

    def pretend(system: System, pairs: int, setting: str) -> Decision:
        names.append(system.name)
        return replace(MADE_UP, system=system.name, setting=setting)

    monkeypatch.setattr(campaign, "decide", pretend)
    return names


def say(what: str, done: int, of: int) -> None:
    pass


def test_a_benchmark_goes_on_where_it_was_stopped(tmp_path: Path, asked: list[str]) -> None:
    file = tmp_path / "systems.jsonl"
    campaign.campaign({"b": THREE["b"]}, 3, file, say)
    file.write_text(file.read_text() + '{"system": "c", "ki')  # stopped in the middle of a line
    summary = campaign.campaign(THREE, 3, file, say)
    assert asked == ["b", "a", "c"] and [d.system for d in summary.decisions] == list(NAMES)
    again = campaign.campaign(THREE, 3, file, say)
    assert asked == ["b", "a", "c"] and again == summary and len(file.read_text().splitlines()) == 3


def test_figures_of_other_settings_are_not_mixed(tmp_path: Path, asked: list[str]) -> None:
    file = tmp_path / "systems.jsonl"
    campaign.campaign(THREE, 3, file, say)
    with pytest.raises(UsageError, match=r"3 pairs.*4 pairs"):
        campaign.campaign(THREE, 4, file, say)


def test_strictly_what_a_busy_machine_gave_is_measured_again(tmp_path: Path, asked: list[str]) -> None:
    file = tmp_path / "systems.jsonl"
    setting = campaign.describe(3)
    lines = [
        replace(MADE_UP, system="a", setting=setting, faults=["busy"]),
        replace(MADE_UP, system="b", setting=setting),
    ]
    file.write_text("".join(json.dumps(d.to_json()) + "\n" for d in lines))
    campaign.campaign(THREE, 3, file, say)
    assert asked == ["c"]
    assert campaign.campaign(THREE, 3, file, say, strict=True).faults() == []
    assert asked == ["c", "a"]
    campaign.campaign(THREE, 3, file, say, strict=True)
    assert asked == ["c", "a"]


@pytest.mark.parametrize("content", ["not json\n", "[1]\n", '{"seed": 3}\n'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, asked: list[str]) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text(content)
    with pytest.raises(UsageError, match="not a file of ffc bench decide"):
        campaign.campaign(THREE, 3, file, say)
    assert file.read_text() == content and asked == []


def test_a_decision_reads_back_equal() -> None:
    assert Decision(**json.loads(json.dumps(MADE_UP.to_json()))) == MADE_UP


# ---------------------------------------------------------------------------------------------------- the systems


def test_there_are_systems_of_every_kind() -> None:
    assert len(SYSTEMS) >= 30 and all(name == system.name for name, system in SYSTEMS.items())
    kinds = {system.kind for system in SYSTEMS.values()}
    assert {"sampler", "sampler with draws", "recurrent network", "filter or chaotic map", "repeated map"} < kinds
    assert {"deep network"} < kinds and any(system.hard for system in SYSTEMS.values())
    assert {type(system.equality) for system in SYSTEMS.values()} == {type(BITS), type(TIGHT)}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_runs_and_its_inputs_are_fresh_for_each_seed(name: str) -> None:
    system = SYSTEMS[name]
    function, example, other = system.make(), system.inputs(0), system.inputs(1)
    with torch.no_grad(), drive_loops(TimedSteps(0.02)):  # of marked loops the first steps
        for arguments in (other, *(inputs(1) for inputs in system.hard.values())):
            assert [a.shape for a in arguments] == [a.shape for a in example]
            assert checked.tensors(function(*arguments))[0].isfinite().all()
    assert all(map(torch.equal, other, system.inputs(1)))
    assert system.kind == "sampler with draws" or not all(map(torch.equal, example, other))


def test_systems_are_the_same_each_time_they_are_made() -> None:
    for name in ("transformer-48-batch1", "lstm-16", "residual-24-bits", "densenet-small", "echo-state-32"):
        system = SYSTEMS[name]
        with torch.no_grad():
            torch.manual_seed(len(name))
            one = system.make()(*system.inputs(1))
            assert torch.equal(one, system.make()(*system.inputs(1))), name


def test_systems_are_selected_by_name_in_the_order_of_the_list() -> None:
    assert list(select(["lstm-16", "made-64-batch1"])) == ["made-64-batch1", "lstm-16"]
    assert select([]) == SYSTEMS
    with pytest.raises(UsageError, match="no system 'nonsense'"):
        select(["nonsense"])


# ---------------------------------------------------------------------------------------------------- the command


def test_the_command_lists_the_systems(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "decide", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(SYSTEMS)
    assert main(["bench", "decide", "--only", "nonsense"]) == 2


def test_the_command_measures_what_is_asked_for_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ffcompiler.bench.decide.systems.SYSTEMS", {"small": SMALL})
    monkeypatch.chdir(tmp_path)
    argv = ["bench", "decide", "--only", "small", "--pairs", "2", "--threads", "1", "--resume", "lines.jsonl"]
    assert main([*argv, "--output", "raw.json"]) == 0
    out = capsys.readouterr().out
    assert "regret, worst" in out and "wrote raw.json" in out
    data = json.loads((tmp_path / "raw.json").read_text())
    assert data["decisions"][0]["system"] == "small" and "versions" in data["machine"]
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 1

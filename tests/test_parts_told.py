"""A plan of several parts, and a run of it, are told as a whole and part by part; no claim is more than its parts'."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from plans import CHAIN, MADE, REFUSED, SECOND, TWO_PARTS

from ffcompiler.plan import Candidate, Method, Plan, Schedule
from ffcompiler.runtime.record import Certificate, Ending, RunRecord, Sweep, joined
from ffcompiler.tell.explain import explain
from ffcompiler.tell.parts import verdict_of_all
from ffcompiler.written.layout import part_line

JACOBI = Schedule(Method.JACOBI)
BOTH = replace(TWO_PARTS, rest=replace(SECOND, schedule=JACOBI, candidates=(Candidate(JACOBI, 0.001, 2, ""),)))
SWEPT = Certificate("bits", "jacobi", 12, 0, 2)
REFERENCE = Certificate("bits", "this is the reference", 0, 6, 0)
NEAR = Certificate("tolerance(rtol=0.0, atol=1e-06)", "jacobi", 12, 0, 2, residual=1e-7, estimated_error=1e-6)


def record(*certificates: Certificate | None) -> RunRecord:
    """Of as many parts, each of 12 blocks in two sweeps."""
    first: RunRecord | None = None
    for certificate in reversed(certificates):
        sweeps = [Sweep(0, 12, 6, False, 0.25), Sweep(6, 12, 12, True, 0.25)]
        first = RunRecord("jacobi", 12, Ending.SWEEPS, sweeps, 12, 0.5, certificate=certificate, rest=first)
    assert first is not None
    return first


# ---------------------------------------------------------------------------------------------------- plans


def test_the_verdict_says_how_each_part_is_run_and_the_seconds_of_all() -> None:
    """0.0052 s and 0.003 s against 12 steps of 0.00125 s and 6 of 0.0005 s."""
    assert explain(TWO_PARTS).verdict == (
        "2 parts, one for each loop: part 1 by sliding(4), part 2 sequentially; "
        "2.2x the reference's speed (0.0082 s against 0.018 s), bits"
    )
    assert "part 1 by sliding(4), part 2 by jacobi; 2.9x the" in explain(BOTH).verdict


def test_parts_with_one_schedule_are_told_together() -> None:
    plan = replace(MADE, schedule=JACOBI, rest=replace(MADE, rest=replace(MADE, schedule=JACOBI)))
    assert "3 parts, one for each loop: parts 1 and 3 by jacobi, part 2 by sliding(4); " in explain(plan).verdict


def test_a_part_that_was_not_measured_is_left_out_of_both_sums_and_said_to_be() -> None:
    verdict = explain(replace(TWO_PARTS, rest=REFUSED)).verdict
    assert "2.9x the reference's speed (0.0052 s against 0.015 s) in part 1; part 2 not measured, bits" in verdict


def test_a_sequential_part_beside_others_takes_what_its_captured_loop_takes() -> None:
    """6 steps of 0.001 s in place of 6 of 0.0005 s."""
    assert SECOND.costs is not None
    slower = replace(SECOND, costs=replace(SECOND.costs, captured=0.001))
    assert "(0.0112 s against 0.018 s)" in explain(replace(TWO_PARTS, rest=slower)).verdict


def test_parts_that_are_all_sequential_have_no_speed() -> None:
    plan = replace(REFUSED, rest=replace(REFUSED, rest=SECOND))
    assert explain(plan).verdict == "3 parts, one for each loop: all of them sequential"


def test_a_candidate_of_no_seconds_has_a_verdict_too() -> None:
    free = replace(MADE, candidates=(Candidate(MADE.schedule, 0.0, 1, ""),))
    assert "infx" in explain(free).verdict and "infx" in verdict_of_all((free, free))


def test_the_text_has_every_part_under_its_line() -> None:
    text = str(explain(TWO_PARTS))
    first, second = (str(explain(replace(part, rest=None))) for part in TWO_PARTS.parts)
    second = second.replace("the function runs as it is", "its steps run one by one", 1)
    assert text.endswith(f"\n\n{part_line(1, 2)}\n\n{first}\n\n{part_line(2, 2)}\n\n{second}")
    assert "part 1, from made.py:11 in step on: sliding(4)" in text
    assert "part 2, from made.py:51 in step on: sequential" in text


def test_the_data_has_every_part() -> None:
    data = json.loads(json.dumps(explain(TWO_PARTS).json))
    assert [part["verdict"].partition(":")[0] for part in data["parts"]] == ["sliding(4)", "sequential"]
    assert data["candidates"] == [] and len(data["parts"][0]["candidates"]) == 3
    assert json.loads(json.dumps(explain(MADE).json))["parts"] == []


@pytest.mark.parametrize("plan", [MADE, REFUSED, CHAIN])
def test_one_part_is_told_as_before(plan: Plan) -> None:
    told = explain(plan)
    assert told.parts == () and told.candidates == plan.candidates
    assert "==== part" not in str(told) and "one by one" not in str(told)


# ---------------------------------------------------------------------------------------------------- runs


def test_the_record_of_several_parts_has_sums_and_every_part() -> None:
    run = record(SWEPT, REFERENCE)
    data = json.loads(json.dumps(run.to_json()))
    assert (data["blocks"], data["certified"], data["sweep_count"], data["seconds"]) == (24, 24, 4, 1.0)
    assert [part["sweep_count"] for part in data["parts"]] == [2, 2]
    assert data["claim"] == run.claim and "rest" not in data["parts"][0]
    assert len(run.parts) == 2 and run.parts[0] is run


def test_the_record_of_one_part_has_its_own_figures_only() -> None:
    data = record(SWEPT).to_json()
    assert "parts" not in data and "rest" not in data and data["blocks"] == 12


def test_the_claim_of_one_part_is_its_certificate() -> None:
    assert record(SWEPT).claim == str(SWEPT)
    assert record(None).claim == ""


def test_bits_in_all_parts_are_claimed_of_the_whole() -> None:
    assert joined([SWEPT, REFERENCE]).splitlines() == [
        "bits in each of 2 parts",
        "  part 1: 12 blocks by 2 certifying sweeps (jacobi)",
        "  part 2: 6 blocks by the reference's own steps (this is the reference)",
    ]


def test_a_residual_is_not_said_to_bound_what_later_parts_make_of_it() -> None:
    first = joined([NEAR, NEAR]).splitlines()[0]
    assert first.startswith("tolerance(rtol=0.0, atol=1e-06) in each of 2 parts")
    assert "errors of earlier parts are not bounded in later ones" in first


def test_the_weakest_equality_is_what_is_claimed() -> None:
    for certificates in ([SWEPT, NEAR], [NEAR, SWEPT], [SWEPT, NEAR, SWEPT]):
        assert joined(certificates).startswith("tolerance(rtol=0.0, atol=1e-06) in each of")


def test_the_largest_residual_and_all_swept_blocks_are_those_of_the_whole() -> None:
    run = record(replace(NEAR, residual=2e-7), SWEPT, NEAR, REFERENCE, None)
    assert run.residual == 2e-7 and run.swept == 36
    assert record(SWEPT, REFERENCE).residual is None and record(REFERENCE, None).swept == 0


def test_where_one_part_has_no_certificate_nothing_is_claimed_of_the_whole() -> None:
    lines = joined([SWEPT, None]).splitlines()
    assert lines[0] == "nothing is claimed of the whole: there is no certificate for part 2"
    assert lines[1].startswith("  part 1: 12 blocks") and lines[2] == "  part 2: no certificate"

"""Several loops in a row: one part of the plan for each, and the same answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rows import ROWS, T, drawing, encoder_decoder, layers, sample_and_score, stacked_cells, through_time
from torch import Tensor
from torch.utils._pytree import tree_leaves
from unmarked import randn

import ffcompiler as ffc
from ffcompiler.capture import capture
from ffcompiler.capture.parts import _is_outer
from ffcompiler.capture.repeats import Footprints, Repeat
from ffcompiler.choice.several import PartSeconds, worth_it
from ffcompiler.plan import Bits, Candidate, Equality, Method, Plan, Schedule, in_a_row, tolerance
from ffcompiler.runtime.record import Ending
from ffcompiler.written.text import parse

NEAR = tolerance(1e-6, 1e-6)
JACOBI = Schedule(Method.JACOBI)
SEQUENTIAL = Schedule(Method.SEQUENTIAL)


def bold(compiled: ffc.Compiled) -> ffc.Compiled:
    """Each part that may be swept is, to its end, whatever that costs."""
    parts = [
        replace(p, costs=None, schedule=JACOBI) if p.refusal is None and p.system is not None else p
        for p in compiled.plan.parts
    ]
    return ffc.Compiled(in_a_row(parts), compiled.proofs, compiled.prove, compiled.live, compiled.stored)


def equality_of(name: str) -> Equality:
    return NEAR if name == "layers" else Bits()


@pytest.fixture(scope="module", params=sorted(ROWS))
def row(request: pytest.FixtureRequest) -> tuple[str, ffc.Compiled, tuple[Any, ...]]:
    make, _ = ROWS[request.param]
    function, args = make()
    return request.param, ffc.compile(function, args, equality=equality_of(request.param), schedule="sequential"), args


def test_each_loop_is_a_part_of_its_own(row: Any) -> None:
    name, _, _ = row
    _, kinds = ROWS[name]
    function, args = ROWS[name][0]()
    assert len(capture(function, args).parts) == len(kinds)
    tolerant = ffc.compile(function, args, equality=NEAR, schedule="sequential")
    found = tuple(type(part.system).__name__ for part in tolerant.plan.parts)
    assert found == kinds
    assert all(part.refusal is None for part in tolerant.plan.parts)


def test_sweeps_of_every_part_give_the_bits_of_the_function(row: Any) -> None:
    name, compiled, args = row
    if name == "layers":
        pytest.skip("recurrent layers are solved under a tolerance only")
    torch.manual_seed(5)
    result = bold(compiled).verify(*args)
    assert result.equal, result.differences
    swept = any(part.refusal is None for part in compiled.plan.parts)
    assert len(result.record.parts) == (len(ROWS[name][1]) if swept else 1)
    assert swept or name not in {"in_place", "sample_and_score"}


def test_under_a_tolerance_sweeps_of_every_part_come_near(row: Any) -> None:
    name, _, args = row
    function, args = ROWS[name][0]()
    compiled = bold(ffc.compile(function, args, equality=NEAR, schedule="sequential"))
    torch.manual_seed(5)
    expected = [t.clone() for t in tree_leaves(function(*args))]
    torch.manual_seed(5)
    result, record = compiled.run(*args)
    assert all(part.ending is Ending.SWEEPS for part in record.parts)
    for got, wanted in zip(tree_leaves(result), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_other_inputs_give_their_own_answer(row: Any) -> None:
    name, compiled, args = row
    others = tuple(t * -0.7 for t in args)
    torch.manual_seed(5)
    result = bold(compiled).verify(*others)
    assert result.equal or name == "layers"
    changed = tree_leaves(bold(compiled)(*others))
    assert any(not torch.equal(a, b) for a, b in zip(changed, tree_leaves(compiled(*args)), strict=True))


def test_a_saved_plan_of_several_parts_gives_the_same_bits(row: Any, tmp_path: Path) -> None:
    name, compiled, args = row
    bold(compiled).save(tmp_path / "row.ffc")
    loaded = ffc.load(tmp_path / "row.ffc")
    assert len(loaded.plan.parts) == len(ROWS[name][1])
    torch.manual_seed(5)
    expected = tree_leaves(bold(compiled)(*args))
    torch.manual_seed(5)
    got = tree_leaves(loaded(*args))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    torch.manual_seed(5)
    reference = tree_leaves(loaded.reference(*args))
    assert name == "layers" or all(torch.equal(a, b) for a, b in zip(reference, expected, strict=True))


def test_a_plan_of_several_parts_reads_back_from_its_text(row: Any) -> None:
    _, compiled, _ = row
    assert parse(str(compiled.plan)) == compiled.plan


def test_what_all_steps_leave_is_handed_on_as_one_stack() -> None:
    function, args = stacked_cells()
    first, second = capture(function, args).parts
    shapes = [leaf.type.shape for leaf in second.program.signature.leaves if leaf.type]
    assert (T, 2, 4) in shapes and len(shapes) <= 4
    assert [leaf.type for leaf in first.program.result.leaves] == [
        leaf.type for leaf in second.program.signature.leaves
    ]


def test_a_loop_may_read_what_the_loop_before_left_from_last_to_first() -> None:
    function, args = through_time()
    _, second = capture(function, args).parts
    assert sum(1 for leaf in second.program.signature.leaves if leaf.type and leaf.type.shape == (T, 2, 3)) == 2


def test_the_same_seed_gives_the_same_sample_and_leaves_the_generator_alike() -> None:
    function, args = drawing()
    compiled = bold(ffc.compile(function, args, equality=NEAR, schedule="sequential"))
    for seed in range(20):
        torch.manual_seed(seed)
        expected, after = function(*args), torch.get_rng_state()
        torch.manual_seed(seed)
        got = compiled(*args)
        assert torch.equal(torch.get_rng_state(), after)
        torch.testing.assert_close(got, expected)


def test_weights_of_later_parts_are_those_of_the_call() -> None:
    function, args = sample_and_score()
    compiled = bold(ffc.compile(function, args))
    scorer = function.__closure__[1].cell_contents
    before = compiled(*args)[1].clone()
    with torch.no_grad():
        scorer.weight_hh.mul_(0.5)
    result = compiled.verify(*args)
    assert result.equal and result.record.ending is Ending.SWEEPS
    assert not torch.equal(compiled(*args)[1], before)


def test_a_part_that_may_not_be_swept_runs_step_by_step_beside_one_that_is() -> None:
    function, args = sample_and_score()
    compiled = bold(ffc.compile(function, args))
    result = compiled.verify(*args)
    first, second = result.record.parts
    assert result.equal and first.ending is Ending.SWEEPS and first.certified == T
    if compiled.plan.parts[1].refusal is not None:
        assert second.ending is Ending.SEQUENTIAL and second.certificate is not None
        assert second.certificate.sequential_blocks == T


def test_a_schedule_by_name_is_that_of_every_part_which_can_have_it() -> None:
    function, args = sample_and_score()
    compiled = ffc.compile(function, args, schedule="sliding(4)+windows")
    array, recurrence = compiled.plan.parts
    assert str(array.schedule) == "sliding(4)+windows" and recurrence.schedule == SEQUENTIAL
    assert compiled.verify(*args).equal


def test_a_schedule_that_no_part_can_have_is_an_error() -> None:
    function, args = stacked_cells()
    with pytest.raises(ffc.FFCompilerError, match="recurrence"):
        ffc.compile(function, args, schedule="sliding(4)+windows", equality=NEAR)


def test_layers_in_a_list_are_loops_over_time_and_not_a_loop_over_layers() -> None:
    cells = torch.nn.ModuleList([torch.nn.GRUCell(4, 4) for _ in range(4)])

    def deep(x: Tensor) -> Tensor:
        for cell in cells:
            h, left = torch.zeros(2, 4), []
            for t in range(24):
                h = cell(x[t], h)
                left.append(h)
            x = torch.stack(left)
        return x

    parts = capture(deep, (randn(24, 2, 4),)).parts
    assert [part.program.loop.hi for part in parts] == [24] * 4


@pytest.mark.parametrize(
    ("outer", "inner", "is_outer"),
    [((4, 64), 64, True), ((4, 64), 8, False), ((64, 16), 16, False)],
    ids=["a few long loops", "short loops inside", "many loops"],
)
def test_which_of_two_nested_loops_is_solved(outer: tuple[int, int], inner: int, is_outer: bool) -> None:
    count, period = outer
    one = [k % (period // inner) for k in range(period - 1)] + [99]
    prints = Footprints(numbers=one * count, places=[0] * (period * count))
    assert _is_outer(Repeat(0, period, count), prints) is is_outer


def test_rows_and_columns_of_an_image_stay_one_loop() -> None:
    def raster(noise: Tensor) -> Tensor:
        x = torch.zeros(6, 6)
        for i in range(6):
            for j in range(6):
                x[i, j] = torch.tanh(x.sum() * 0.1 + noise[i, j])
        return x

    (only,) = capture(raster, (randn(6, 6),)).parts
    assert only.program.loop.hi == 36


def chosen(seconds: float, schedule: Schedule = JACOBI) -> Plan:
    candidates = (Candidate(SEQUENTIAL, 1.0, 0, "the reference"), Candidate(schedule, seconds, 3, ""))
    return Plan(None, schedule, Bits(), "cpu", candidates=candidates)


@pytest.mark.parametrize(
    ("solved", "captured", "schedules"),
    [(0.5, 0.9, [JACOBI, SEQUENTIAL]), (0.5, 1.6, [SEQUENTIAL] * 2), (0.5, 1.2, [SEQUENTIAL] * 2)],
    ids=["faster together", "slower together", "slower if the guard ends the sweeps"],
)
def test_parts_are_solved_only_if_all_of_them_together_take_less(
    solved: float, captured: float, schedules: list[Schedule]
) -> None:
    parts = [chosen(solved), replace(chosen(1.0), schedule=SEQUENTIAL)]
    plan = worth_it(parts, [PartSeconds(1.0, 0.8), PartSeconds(1.0, captured)])
    assert [part.schedule for part in plan.parts] == schedules
    assert ("the function itself 2 s" in plan.why) is (schedules[0] == SEQUENTIAL)


def test_an_explanation_tells_of_each_part() -> None:
    function, args = encoder_decoder()
    compiled = ffc.compile(function, args, equality=NEAR)
    text = str(compiled.explain())
    assert "2 parts, one for each loop" in text and "part 1" in text and "part 2" in text
    assert len(compiled.explain().json["parts"]) == 2


def test_recurrent_layers_of_any_length_are_captured() -> None:
    function, _ = layers()
    longer = capture(function, (randn(300, 2, 3),))
    assert [part.program.loop.hi for part in longer.parts] == [300] * 4

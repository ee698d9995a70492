"""Valid plans pass, every rule can fail, and a failure shows what, where and what to do."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from broken_plans import BROKEN, followed_by, in_graph, in_shared, in_tail, row_of
from hypothesis import given
from hypothesis import strategies as st
from plans import ALL, MADE, MADE_LOOP, SECOND, TWO_PARTS, f32

from ffcompiler.errors import InvalidPlanError
from ffcompiler.plan import Method, Plan, Schedule
from ffcompiler.program import Axis, Region
from ffcompiler.rules.loops import _overlap
from ffcompiler.rules.parts import MAX_PARTS
from ffcompiler.rules.verify import RULES, verify


@pytest.mark.parametrize("plan", ALL.values(), ids=ALL)
def test_a_valid_plan_is_returned_as_it_is(plan: Plan) -> None:
    assert verify(plan) is plan


@pytest.mark.parametrize(("rule", "broken"), BROKEN, ids=[f"{i}-{rule}" for i, (rule, _) in enumerate(BROKEN)])
def test_a_broken_plan_fails_by_its_rule(rule: str, broken: Callable[[], Plan]) -> None:
    with pytest.raises(InvalidPlanError) as caught:
        verify(broken())
    assert str(caught.value).partition(":")[0] == rule


def test_every_rule_has_a_broken_plan_and_a_docstring() -> None:
    assert {rule.__name__ for rule in RULES} == {rule for rule, _ in BROKEN}
    assert all(rule.__doc__ for rule in RULES)


def test_a_fault_of_several_parts_says_in_which_one_it_is() -> None:
    with pytest.raises(InvalidPlanError, match=r"^schedule_has_its_block: in part 2 of 2: "):
        verify(followed_by(schedule=Schedule(Method.SLIDING)))
    with pytest.raises(InvalidPlanError, match=r"^parts_agree: in part 1 of 2: .*'cpu'.*'cuda'"):
        verify(followed_by(device="cuda"))


def test_parts_are_numbered_from_the_first_on() -> None:
    assert TWO_PARTS.parts == (TWO_PARTS, SECOND)
    assert SECOND.parts == (SECOND,)


def test_as_many_parts_as_are_allowed_pass() -> None:
    plan = row_of(MAX_PARTS)
    assert len(plan.parts) == MAX_PARTS
    assert verify(plan) is plan


def test_strides_of_what_is_handed_on_may_differ() -> None:
    """Those of a result are not recorded either."""
    assert SECOND.program is not None
    first, last = SECOND.program.signature.leaves
    leaf = replace(first, type=f32(4, 12, stride=(1, 4)))
    signature = replace(SECOND.program.signature, leaves=(leaf, last))
    plan = followed_by(program=replace(SECOND.program, signature=signature))
    assert verify(plan) is plan


def test_a_fault_shows_its_neighbourhood(golden: Callable[[str], None]) -> None:
    with pytest.raises(InvalidPlanError) as caught:
        verify(in_tail(3, op="aten.from_file.default"))
    golden(str(caught.value))


def test_every_fault_of_a_rule_is_listed_up_to_a_limit() -> None:
    shared = MADE_LOOP.shared
    for at in range(len(shared.nodes)):
        shared = in_graph(shared, at, op="aten.save.default")
    assert MADE.program is not None
    with pytest.raises(InvalidPlanError) as caught:
        verify(replace(MADE, program=replace(MADE.program, loop=replace(MADE_LOOP, shared=shared))))
    assert str(caught.value).count("operators_are_admitted") == 5


def test_text_of_a_plan_cannot_reach_the_terminal_raw() -> None:
    with pytest.raises(InvalidPlanError) as caught:
        verify(in_shared(1, op="aten.\x1b[31m"))
    assert "\x1b" not in str(caught.value)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32))
def test_overlap_is_found_exactly_when_two_regions_share_an_element(height: int, width: int, seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(0, 5)
    rows = tuple(rng.randint(0, 8) for _ in range(count))
    columns = tuple(rng.randint(0, 8) for _ in range(count))
    write = Region((Axis(0, 0, height), Axis(1, 1, None if width == 1 else width)))
    loop = replace(MADE_LOOP, lo=0, hi=count, tables=(rows, columns), write=write)
    taken = [(i + a, j + b) for i, j in zip(rows, columns, strict=True) for a in range(height) for b in range(width)]
    assert (_overlap(loop) is not None) == (len(taken) != len(set(taken)))


def test_a_region_knows_its_shape() -> None:
    region = Region((Axis(0, 0, None), Axis(2, 0, 5)))
    assert region.shape((7, 8, 9)) == (8, 5)
    assert str(f32(2, 3)) == "float32[2, 3]"

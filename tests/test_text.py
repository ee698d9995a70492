"""A plan prints as text that reads well and reads back as the very same value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import ALL, MADE, MADE_LOOP, NO_PROGRAM, RECURRENCE, SECOND, TWO_PARTS
from strategies import plans, tables

from ffcompiler.errors import InvalidPlanError
from ffcompiler.plan import Plan
from ffcompiler.written.layout import table_text
from ffcompiler.written.text import parse


def same(a: object, b: object) -> bool:
    """Equal as values and as text, which keeps 1, 1.0 and True apart, and 0.0 and -0.0."""
    return a == b and repr(a) == repr(b)


@pytest.mark.parametrize("plan", ALL.values(), ids=ALL)
def test_a_plan_reads_back_equal(plan: Plan) -> None:
    assert same(parse(str(plan)), plan)


@pytest.mark.parametrize("plan", ALL.values(), ids=ALL)
def test_a_plan_prints_as_expected(plan: Plan, golden: Callable[[str], None]) -> None:
    golden(str(plan))


@settings(max_examples=300)
@given(plans)
def test_any_plan_reads_back_equal(plan: Plan) -> None:
    assert same(parse(str(plan)), plan)


@settings(max_examples=300)
@given(tables)
def test_any_table_reads_back_equal(table: tuple[int | float, ...]) -> None:
    plan = replace(MADE, program=replace(MADE.program, loop=replace(MADE_LOOP, tables=(table,))))
    assert same(parse(str(plan)), plan)


def test_nan_reads_back_as_nan() -> None:
    plan = replace(NO_PROGRAM, costs=None, candidates=(replace(MADE.candidates[0], seconds=float("nan")),))
    assert repr(parse(str(plan))) == repr(plan)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (tuple(range(784)), "range(0, 784)"),
        (tuple(range(8, 0, -2)), "range(8, 1, -2)"),
        (tuple(map(float, range(5))), "range(0.0, 5.0)"),
        (tuple(k // 28 for k in range(784)), "each(range(0, 28), 28)"),
        (tuple(k % 28 for k in range(784)), "range(0, 28) * 28"),
        (tuple(k // 3 % 28 for k in range(28 * 28 * 3)), "each(range(0, 28), 3) * 28"),
        ((3,) * 9, "(3,) * 9"),
        ((1, 1.0, 1, 1.0), "(1, 1.0) * 2"),
        ((0.0, -0.0), "(0.0, -0.0)"),
        ((0, 1, 2), "(0, 1, 2)"),
        ((7,), "(7,)"),
        ((), "()"),
    ],
)
def test_a_table_prints_in_its_simplest_form(table: tuple[int | float, ...], text: str) -> None:
    assert table_text(table) == text


def test_spaces_inside_a_line_and_empty_lines_are_free() -> None:
    text = str(MADE).replace("[4, 12]", "[ 4,12 ]").replace(" = aten", "   =  aten").replace("\n\n", "\n\n\n")
    assert same(parse(text + "\n\n"), MADE)


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ("sliding(4)\neq", "gliding(4)\neq", 1, "unknown schedule"),
        ("equality    bits", "equality    bitwise", 2, "not a tolerance"),
        ("device      cpu", "devise      cpu", 3, "unknown section devise"),
        ("device      cpu\n", "", 1, "there is no section 'device'"),
        ("device      cpu", "device      cpu\ndevice      cpu", 4, "section that is not there yet"),
        ("step=0.00125", "stop=0.00125", 5, "not a costs"),
        ("0.0085   7", "0.0085   7.5", 10, "expected an integer"),
        ("finite(s3", "infinite(s3", 14, "unknown premise"),
        ("= parameter(", "= pickle(", 25, "expected name: type = parameter"),
        ("array_loop:\n", "array_loop:\n    x: float32[1] = a1\n", 32, "an array loop carries one array"),
        ("steps = range(0, 12)", "steps = 12", 32, "there is no line steps = range(lo, hi)"),
        ("step[1] = range(12, 24)", "step[2] = range(12, 24)", 35, "the tables must stand in order"),
        ("step[1] = range(12, 24)", "step[1] = range(0, 10**9)", 35, "expected a number"),
        ("step[1] = range(12, 24)", "step[1] = range(0, 1000000000000)", 35, "expected a range"),
        ("step[1] = range(12, 24)", "step[1] = (1,) * 1000000000000", 35, "a table may have at most"),
        ("step[1] = range(12, 24)", "step[1] = open('/etc/passwd')", 35, "expected a table of numbers"),
        ("x[:, step[0]] = tail()", "x[:, 1:2] = tail()", 38, "expected a subscript"),
        ("aten.mm.default(x, s1)", "aten.mm.default(x, lambda: s1)", 46, "expected a number"),
        ("aten.mm.default(x, s1)", "aten.mm.default(x, s1", 46, "not the text of a plan"),
        ("aten.mm.default(x, s1)", "aten.mm.default(*x)", 46, "expected a number"),
        ("aten.mm.default(x, s1)", "aten.mm.default(**x)", 46, "expected key=value"),
        ("    return s5\n", "", 44, "expected a function that ends in a return"),
        ("s2: float32[4, 32] = aten.mm", "s2 = aten.mm", 46, "expected name: type = op(arguments)"),
        ("s2: float32[4, 32] = aten.mm", "s2: float32 = aten.mm", 46, "expected a type such as float32[2, 3]"),
        ("s2: float32[4, 32] = aten.mm", "s2: float32[True, 32] = aten.mm", 46, "expected a number"),
    ],
)
def test_text_that_is_no_plan_is_refused_with_its_line(old: str, new: str, line: int, why: str) -> None:
    text = str(MADE)
    assert old in text
    with pytest.raises(InvalidPlanError) as caught:
        parse(text.replace(old, new, 1))
    assert str(caught.value).startswith(f"line {line}: ")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ("part 2 of 2", "part 3 of 2", 70, "expected '==== part 2 of 2 ===='"),
        ("part 2 of 2", "part 2 of 3", 70, "expected '==== part 2 of 2 ===='"),
        ("part 2 of 2 ====", "part 2 of 2 ====\n==== part 3 of 3 ====", 70, "expected '==== part 2 of 3 ===='"),
        ("==== part 2 of 2 ====", "", 72, "section that is not there yet"),
        ("device      cpu\nwhy         no", "why         no", 72, "there is no section 'device'"),
        ("aten.mm.default(h, i1)", "aten.mm.default(h, i1", 109, "not the text of a plan"),
        ("==== part 2 of 2 ====", "==== part 2 of 2 ====\n    1", 73, "section that is not there yet"),
    ],
)
def test_text_of_several_parts_is_refused_with_its_line_in_the_whole(old: str, new: str, line: int, why: str) -> None:
    text = str(TWO_PARTS)
    assert old in text
    with pytest.raises(InvalidPlanError) as caught:
        parse(text.replace(old, new, 1))
    assert str(caught.value).startswith(f"line {line}: ")
    assert why in str(caught.value)


def test_nothing_and_a_part_with_nothing_in_it_are_no_plan() -> None:
    for text in ("", "\n  \n", "==== part 2 of 2 ====", f"{SECOND}\n==== part 2 of 2 ====\n"):
        assert "expected a section" in fault_of(text)


def test_each_part_reads_back_alone() -> None:
    first, second = str(TWO_PARTS).split("\n\n==== part 2 of 2 ====\n\n")
    assert same(parse(first), replace(TWO_PARTS, rest=None)) and same(parse(second), SECOND)


@settings(max_examples=50)
@given(st.lists(plans, min_size=2, max_size=4))
def test_any_parts_read_back_equal(parts: list[Plan]) -> None:
    plan = reduce(lambda rest, part: replace(part, rest=rest), reversed(parts))
    assert same(parse(str(plan)), plan)


@given(st.integers(0, 10**6), st.sampled_from(["", "(", ")", "'", "\n", "\0", "=", "x", "#", "é", " " * 4]))
def test_damaged_text_is_read_or_refused(at: int, insert: str) -> None:
    text = str(RECURRENCE)
    at %= len(text)
    message = fault_of(text[:at] + insert + text[at + 1 :])
    assert message == "" or (message.startswith("line ") and "\n" not in message)


def fault_of(text: str) -> str:
    """Why ``text`` is no plan; nothing where it is one."""
    try:
        parse(text)
    except InvalidPlanError as fault:
        return str(fault)
    return ""


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InvalidPlanError, match="line 46: not the text of a plan"):
        parse(str(MADE).replace("aten.mm.default(x, s1)", f"aten.mm.default({'(' * 10**5}", 1))


def test_a_table_that_begins_like_a_long_range_prints_as_it_is() -> None:
    assert table_text((0, 1, 5, 2**52)) == "(0, 1, 5, 4503599627370496)"

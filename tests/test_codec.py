"""A value has one encoding, the encoding gives the value back, and nothing else is read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from broken_plans import row_of
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import ALL, MADE, NO_PROGRAM
from strategies import plans

from ffcompiler.errors import ArtifactError, InvalidPlanError
from ffcompiler.graph import Arg, Node, Ref, Step, Symbol, SymbolKind
from ffcompiler.plan import Costs, Plan, Schedule, Tolerance
from ffcompiler.rules.parts import MAX_PARTS
from ffcompiler.rules.verify import verify
from ffcompiler.written import codec
from ffcompiler.written.codec import decode, encode

NODE = Node(
    "b3", "aten.add.Tensor", (Ref("x"), -1.5, True, None, ("a", Step(0))), (("alpha", 2),), (None,), "made.py:3"
)
TEXT = encode(NODE).decode()


def node_of(arg: Arg) -> Node:
    return replace(NODE, args=(arg,))


def refusal(data: bytes, cls: type = Node) -> str:
    """The message with which ``data`` is refused: one line of ASCII."""
    with pytest.raises(ArtifactError) as caught:
        decode(data, cls)
    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    return message


@pytest.mark.parametrize("plan", ALL.values(), ids=ALL)
def test_a_plan_decodes_equal(plan: Plan) -> None:
    assert repr(decode(encode(plan), Plan)) == repr(plan)


@settings(max_examples=200)
@given(plans)
def test_any_plan_decodes_equal(plan: Plan) -> None:
    data = encode(plan)
    assert repr(decode(data, Plan)) == repr(plan)
    assert encode(decode(data, Plan)) == data


def test_the_encoding_is_what_the_documentation_says() -> None:
    assert TEXT == (
        '{"name":"b3","op":"aten.add.Tensor","args":[{"Ref":{"name":"x","output":null}},-1.5,true,null,'
        '["a",{"Step":{"table":0}}]],"kwargs":[["alpha",2]],"types":[null],"source":"made.py:3"}'
    )


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1, 1.0, True, -0.0, 1e22, 2**63 - 1, -(2**63), "é\n"])
def test_numbers_and_strings_keep_their_kind_and_bits(value: Arg) -> None:
    decoded = decode(encode(node_of(value)), Node).args[0]
    assert (type(decoded), repr(decoded)) == (type(value), repr(value))


def test_an_integer_in_a_field_for_floats_is_saved_as_a_float() -> None:
    assert decode(encode(Costs(1, 2, 3, 4)), Costs) == Costs(1.0, 2.0, 3.0, 4.0)
    assert decode(encode(Tolerance(math.inf, 0)), Tolerance) == Tolerance(math.inf, 0.0)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"name":"b3"', '"name":3', "node.name is an integer, expected str"),
        ('"name":"b3"', '"name":null', "node.name is null, expected str"),
        ('"name":"b3",', "", "node lacks the key 'name'"),
        ('"name":"b3"', '"name":"b3","name":"b3"', "a key stands twice"),
        ('"name":"b3"', '"name":"b3","__class__":"os"', "unknown key '__class__'"),
        ('"name":"x"', '"name":"x","name":"y"', "a key stands twice"),
        ('{"Ref":', '{"Node":', "node.args[0] is an object, expected bool or int"),
        ('{"Ref":', '{"os.system":', "node.args[0] is an object"),
        ('{"Ref":', '{"Step":{"table":0},"Ref":', "node.args[0] is an object"),
        ('{"Ref":{"name":"x","output":null}}', '{"Ref":"x"}', "node.args[0].Ref is a string, expected an object"),
        ('{"Ref":{"name":"x","output":null}}', "{}", "node.args[0] is an object"),
        ('"output":null', '"output":1.0', "node.args[0].output is a float, expected int or NoneType"),
        ('"output":null', '"output":true', "node.args[0].output is a boolean"),
        ('"output":null', '"output":{"float":"inf"}', "node.args[0].output is an object"),
        ("-1.5", "NaN", "NaN is not JSON"),
        ("-1.5", "-Infinity", "-Infinity is not JSON"),
        ("-1.5", "1e999", "too large for a float"),
        ("-1.5", '{"float":"Infinity"}', "node.args[1] is an object"),
        ("-1.5", '{"float":["inf"]}', "node.args[1] is an object"),
        ("-1.5", "-1.50", "not written the way"),
        ("-1.5", "-15e-1", "not written the way"),
        ("-1.5", "9223372036854775808", "more than 64 bits"),
        ("-1.5", "9" * 5000, "an integer of 5000 characters"),
        ("-1.5", "-0", "not written the way"),
        ("-1.5", '"\\ud800"', "half of a surrogate pair"),
        ("-1.5", '"\\u0041"', "not written the way"),
        ("-1.5", '"\\u00E9"', "not written the way"),
        ("-1.5", '"é"', "not the JSON"),
        ('["alpha",2]', '["alpha"]', "node.kwargs[0] has 1 entries, expected 2"),
        ('["alpha",2]', '["alpha",2,3]', "node.kwargs[0] has 3 entries, expected 2"),
        ('["alpha",2]', '{"alpha":2}', "node.kwargs[0] is an object"),
        ('"types":[null]', '"types":null', "node.types is null"),
        ('"types":[null]', '"types":"null"', "node.types is a string"),
        ('"source":"made.py:3"', '"source":["made.py:3"]', "node.source is a list, expected str"),
        (",", ", ", "not written the way"),
        ('{"name":"b3","op":"aten.add.Tensor"', '{"op":"aten.add.Tensor","name":"b3"', "not written the way"),
        ("}", "}}", "not the JSON"),
        ('"b3"', "'b3'", "not the JSON"),
        ('"b3"', '"b\x003"', "not the JSON"),
    ],
)
def test_anything_else_is_refused_with_its_place(old: str, new: str, why: str) -> None:
    assert old in TEXT
    assert why in refusal(TEXT.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"3", b'"x"', b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), b"\xff"]
)
def test_a_document_of_another_kind_is_refused(data: bytes) -> None:
    refusal(data)


def test_trailing_and_leading_space_is_refused() -> None:
    for data in (TEXT + "\n", " " + TEXT):
        assert "not written the way" in refusal(data.encode())


def test_an_unknown_enum_value_is_refused() -> None:
    data = encode(Symbol(SymbolKind.DTYPE, "float32")).replace(b'"dtype"', b'"DTYPE"')
    assert "symbol.kind is 'DTYPE', expected one of dtype, device" in refusal(data, Symbol)
    assert "schedule.method is an integer" in refusal(b'{"method":1,"block":null,"windows":false}', Schedule)


@pytest.mark.parametrize("depth", [65, 10**3, 10**5])
def test_deep_nesting_is_refused(depth: int) -> None:
    assert "nested more than 64 deep" in refusal(TEXT.replace("-1.5", "[" * depth + "]" * depth).encode())


@pytest.mark.parametrize(
    ("limit", "at", "why"),
    [
        ("MAX_BYTES", len(TEXT), "bytes; this build reads at most"),
        ("MAX_VALUES", sum(map(TEXT.count, ",[{")), "values"),
        ("MAX_STRING", len("aten.add.Tensor"), "is a string of 15 characters"),
        ("MAX_DEPTH", 5, "nested more than"),
    ],
)
def test_limits_hold_exactly(limit: str, at: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, limit, at)
    assert decode(TEXT.encode(), Node) == NODE
    monkeypatch.setattr(codec, limit, at - 1)
    assert why in refusal(TEXT.encode())


@pytest.mark.parametrize("arg", [2**63, "\ud800", [1], 1j, b"x", object])
def test_what_cannot_be_read_back_is_not_written(arg: Any) -> None:
    with pytest.raises(InvalidPlanError, match=r"node.args\[0\] is .* cannot be saved"):
        encode(node_of(arg))


def test_a_dataclass_that_the_field_does_not_allow_is_not_written() -> None:
    @dataclass(frozen=True)
    class Stranger:
        name: str

    stranger: Any = Stranger("x")
    with pytest.raises(InvalidPlanError, match="cannot be saved"):
        encode(node_of(stranger))
    with pytest.raises(InvalidPlanError, match=r"plan\.schedule is"):
        encode(replace(MADE, schedule=stranger))


def test_a_later_field_is_left_out_where_it_has_its_default_and_only_there() -> None:
    """So files from before there was such a field are read, and are still the only encoding of what they hold."""
    data = encode(NO_PROGRAM)
    assert b'"rest"' not in data and decode(data, Plan) == NO_PROGRAM
    assert "is not written the way" in refusal(data[:-1] + b',"rest":null}', Plan)
    assert "lacks the key 'align'" in refusal(data.replace(b',"align":1', b""), Plan)
    assert decode(data[:-1] + b',"rest":' + data + b"}", Plan) == replace(NO_PROGRAM, rest=NO_PROGRAM)


def test_plans_of_the_first_minor_version_are_read_and_written_as_they_were() -> None:
    """`plans.ALL` as format 3.0 had it: a field that is new since must be marked as `LATER`."""
    lines = Path(__file__).with_name("plans-3.0.jsonl").read_bytes().splitlines()
    assert len(lines) == 11
    for line in lines:
        assert encode(verify(decode(line, Plan))) == line


def test_as_many_parts_as_a_plan_may_have_can_be_written_and_read() -> None:
    plan = row_of(MAX_PARTS)
    assert decode(encode(plan), Plan) == plan


def test_no_mutant_of_a_small_plan_decodes_to_another_encoding() -> None:
    """Whatever is accepted is canonical: no two files hold the same plan."""
    data = encode(NO_PROGRAM)
    for at in range(len(data)):
        for byte in b'"{}[],:0 \\\x00\x80a':
            mutant = data[:at] + bytes([byte]) + data[at + 1 :]
            assert encoding_of(mutant) in {mutant, None}


@given(st.binary(max_size=40) | st.recursive(st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert encoding_of(data) in {data, None}


def encoding_of(data: bytes) -> bytes | None:
    try:
        return encode(decode(data, Plan))
    except ArtifactError:
        return None

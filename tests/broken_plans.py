"""One deliberately broken plan, or a few, for each rule of `verify`: the check must be able to fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from plans import (
    CHAIN,
    CHECKED,
    DRAWING,
    KEEPING,
    MADE,
    MADE_LOOP,
    NO_PROGRAM,
    OVERWRITING,
    RECURRENCE,
    REPEATED,
    SECOND,
    STRAIGHT,
    TWO_PARTS,
    UNROLLED,
    f32,
    node,
    r,
)

from ffcompiler.graph import Graph, Ref, Step, Symbol, SymbolKind, TensorType, Value
from ffcompiler.plan import (
    Alternative,
    Bounded,
    Candidate,
    Costs,
    Finite,
    Method,
    NoNegativeZero,
    Plan,
    Schedule,
    Tolerance,
    Unchanged,
    ZeroPattern,
)
from ffcompiler.program import ArrayLoop, Axis, Chain, Check, DrawPlace, Leaf, Loop, Overwrite, Region

MADE_PROGRAM, RNN_PROGRAM = MADE.program, RECURRENCE.program
assert MADE_PROGRAM is not None
assert RNN_PROGRAM is not None
assert isinstance(RNN_PROGRAM.loop, Loop)
RNN_LOOP = RNN_PROGRAM.loop
KEEPING_PROGRAM = KEEPING.program
assert KEEPING_PROGRAM is not None
KEPT_LOOP = KEEPING_PROGRAM.loop
assert isinstance(KEPT_LOOP, ArrayLoop)


ELSEWHERE = Alternative("a batch 4 times as large", 3, 0.5, 1.0, schedule=Schedule(Method.SLIDING))


def program(**changes: Any) -> Plan:
    return replace(MADE, program=replace(MADE_PROGRAM, **changes))


def array_loop(**changes: Any) -> Plan:
    return program(loop=replace(MADE_LOOP, **changes))


def keeping(**changes: Any) -> Plan:
    return replace(KEEPING, program=replace(KEEPING_PROGRAM, loop=replace(KEPT_LOOP, **changes)))


def recurrence(**changes: Any) -> Plan:
    return replace(RECURRENCE, program=replace(RNN_PROGRAM, loop=replace(RNN_LOOP, **changes)))


def in_graph(graph: Graph, at: int, **changes: Any) -> Graph:
    """``graph`` with the node ``at`` changed."""
    nodes = list(graph.nodes)
    nodes[at] = replace(nodes[at], **changes)
    return replace(graph, nodes=tuple(nodes))


def in_shared(at: int, **changes: Any) -> Plan:
    return array_loop(shared=in_graph(MADE_LOOP.shared, at, **changes))


def in_tail(at: int, **changes: Any) -> Plan:
    return array_loop(tail=in_graph(MADE_LOOP.tail, at, **changes))


def typed(dtype: str, shape: tuple[int, ...], stride: tuple[int, ...]) -> Plan:
    return in_shared(2, types=(TensorType(dtype, shape, stride),))


def written(*axes: Axis, shape: tuple[int, ...] = (4,), **tables: Any) -> Plan:
    tail = in_graph(MADE_LOOP.tail, -1, types=(f32(*shape),))
    return array_loop(write=Region(axes), tail=tail, **tables)


def tables(*entries: Any) -> Plan:
    return array_loop(tables=entries)


def long_program() -> Plan:
    nodes = tuple(node(f"n{i}", "zeros.default", (), of=f32(), line=1) for i in range(100_001))
    return program(epilogue=Graph((), nodes, ()))


def drawing(at: int, **changes: Any) -> Plan:
    """``DRAWING`` with one of its draws changed."""
    program = DRAWING.program
    assert program is not None
    draws = [*program.draws]
    draws[at] = replace(draws[at], **changes)
    return replace(DRAWING, program=replace(program, draws=tuple(draws)))


def handed(plan: Plan, **changes: Any) -> Plan:
    assert plan.program is not None
    return replace(plan, program=replace(plan.program, loop=replace(plan.program.loop, **changes)))


def stacked(plan: Plan, stack: str) -> Plan:
    """Steps of ``plan`` are handed their first input from ``stack``."""
    assert plan.program is not None
    first, *others = plan.program.loop.inputs
    return handed(plan, inputs=(replace(first, stack=r(stack)), *others))


def blocks(*order: int, **changes: Any) -> Plan:
    """``CHAIN`` with its blocks in another order, or some left out, or changed otherwise."""
    loop = CHAIN.program.loop if CHAIN.program else None
    assert isinstance(loop, Chain)
    graphs = tuple(loop.graphs[k] for k in order) or loop.graphs
    return handed(CHAIN, **{"graphs": graphs, **changes})


def block_hands_on(*names: str) -> Plan:
    """``CHAIN`` whose third block hands on these values."""
    loop = CHAIN.program.loop if CHAIN.program else None
    assert isinstance(loop, Chain)
    third = replace(loop.graphs[2], outputs=tuple(map(r, names)))
    return blocks(graphs=(*loop.graphs[:2], third, *loop.graphs[3:]))


UP, TWICE = tuple(range(12)), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10)
FINITE = Finite("nowhere", "aten.mm.default", "")
SLIDING = Schedule(Method.SLIDING, 4)

BROKEN: list[tuple[str, Callable[[], Plan]]] = [
    ("graphs_are_small_enough", long_program),
    ("names_are_plain", lambda: in_shared(0, name="T1")),
    ("names_are_plain", lambda: in_shared(0, name="step")),
    ("names_are_plain", lambda: in_shared(0, name="lambda")),
    ("names_are_plain", lambda: in_shared(0, name="a" * 201)),
    ("names_are_plain", lambda: in_shared(0, name="é")),
    ("names_are_bound_once", lambda: in_shared(2, name="s2")),
    ("names_are_bound_once", lambda: in_tail(0, name="s2")),
    ("names_are_bound_once", lambda: in_tail(0, name="w1")),
    ("names_are_bound_once", lambda: array_loop(carry=Value("noise", f32(4, 12)))),
    ("arguments_are_tensors_or_constants", lambda: _argument(Leaf("args[0]", "noise", None))),
    ("arguments_are_tensors_or_constants", lambda: _argument(Leaf("args[0]", "noise", f32(4, 12), "3"))),
    ("arguments_are_tensors_or_constants", lambda: _argument(Leaf("args[0]", None, None))),
    ("types_are_possible", lambda: in_shared(0, types=())),
    ("types_are_possible", lambda: typed("float31", (4, 32), (32, 1))),
    ("types_are_possible", lambda: typed("float32", (4, 32), (1,))),
    ("types_are_possible", lambda: typed("float32", (-4, 32), (32, 1))),
    ("types_are_possible", lambda: typed("float32", (4, 32), (-32, 1))),
    ("types_are_possible", lambda: typed("float32", (1,) * 17, (1,) * 17)),
    ("types_are_possible", lambda: typed("float32", (2**30, 2**30), (2**30, 1))),
    ("types_are_possible", lambda: typed("float32", (0, 2**62), (2**62, 1))),
    ("types_are_possible", lambda: typed("float32", (2, 2), (2**62, 1))),
    ("types_are_possible", lambda: _argument(Leaf("args[0]", "noise", TensorType("float32", (4, 12), (1,))))),
    ("draws_read_no_tensor", lambda: drawing(0, place=DrawPlace.AFTER)),
    ("draws_read_no_tensor", lambda: drawing(1, node=node("d1", "from_file.default", "/", of=f32(2, 32), line=1))),
    ("draws_read_no_tensor", lambda: drawing(1, node=node("d1", "normal_.default", r("xs"), of=f32(2, 32), line=1))),
    ("draws_read_no_tensor", lambda: drawing(1, node=node("d1", "normal_.default", Step(0), of=f32(2, 32), line=1))),
    ("steps_are_handed_stacks", lambda: stacked(DRAWING, "xs")),
    ("steps_are_handed_stacks", lambda: stacked(UNROLLED, "d0")),
    ("steps_are_handed_stacks", lambda: stacked(DRAWING, "nowhere")),
    ("body_returns_the_carry", lambda: handed(DRAWING, collected=())),
    ("body_returns_the_carry", lambda: handed(DRAWING, collected=(Value("y0", f32(2, 32)),))),
    ("operators_are_admitted", lambda: in_shared(1, op="aten.from_file.default")),
    ("operators_are_admitted", lambda: in_shared(1, op="aten.mm")),
    ("operators_are_admitted", lambda: in_shared(1, op="os.system")),
    ("arguments_are_well_formed", lambda: in_shared(1, args=(r("x"), [r("s1")]))),
    ("arguments_are_well_formed", lambda: in_shared(1, args=(r("x"), Symbol(SymbolKind.DEVICE, "cuda:7")))),
    ("arguments_are_well_formed", lambda: in_shared(1, args=(r("x"), Symbol(SymbolKind.DTYPE, "float31")))),
    ("arguments_are_well_formed", lambda: in_shared(1, args=(r("x"), (((((1,),),),),)))),
    ("arguments_are_well_formed", lambda: in_tail(5, kwargs=(("alpha", 1), ("alpha", 2)))),
    ("arguments_are_well_formed", lambda: in_tail(5, kwargs=(("from", 1),))),
    ("references_are_available", lambda: in_shared(1, args=(r("x"), r("nowhere")))),
    ("references_are_available", lambda: in_shared(1, args=(r("x"), r("s2")))),
    ("references_are_available", lambda: in_shared(1, args=(r("x"), r("s3")))),
    ("references_are_available", lambda: in_shared(1, args=(r("x"), r("t1")))),
    ("references_are_available", lambda: in_shared(1, args=(r("x"), ((r("nowhere"),),)))),
    ("references_are_available", lambda: in_shared(1, args=(r("x"), Ref("s1", 1)))),
    ("references_are_available", lambda: in_shared(1, args=(r("x"), Ref("s1", -1)))),
    ("references_are_available", lambda: _body(4, args=(r("b4"),))),
    ("references_are_available", lambda: _body(3, types=(None, f32(1)))),
    ("references_are_available", lambda: in_invariant(args=(r("x"),))),
    ("references_are_available", lambda: program(prologue=replace(MADE_PROGRAM.prologue, outputs=(r("x"),)))),
    ("references_are_available", lambda: program(epilogue=in_graph(MADE_PROGRAM.epilogue, 0, args=(r("s5"),)))),
    ("references_are_available", lambda: program(epilogue=in_graph(MADE_PROGRAM.epilogue, 0, args=(r("i1"),)))),
    ("inputs_are_listed", lambda: _shared_inputs(MADE_LOOP.shared.inputs[1:])),
    ("inputs_are_listed", lambda: _shared_inputs((*MADE_LOOP.shared.inputs, Value("noise", f32(4, 12))))),
    ("inputs_are_listed", lambda: _shared_inputs((*MADE_LOOP.shared.inputs, Value("nowhere", f32())))),
    ("inputs_are_listed", lambda: _shared_inputs((*MADE_LOOP.shared.inputs, MADE_LOOP.shared.inputs[0]))),
    ("inputs_are_listed", lambda: _shared_inputs((Value("x", f32(5, 12)), *MADE_LOOP.shared.inputs[1:]))),
    ("tables_have_an_entry_per_step", lambda: tables(UP[:-1], UP)),
    ("tables_have_an_entry_per_step", lambda: tables(UP, (*UP, 12))),
    ("tables_have_an_entry_per_step", lambda: tables(UP, (True,) * 12)),
    ("tables_have_an_entry_per_step", lambda: array_loop(lo=12, hi=0)),
    ("tables_have_an_entry_per_step", lambda: array_loop(hi=2**62)),
    ("steps_stand_in_loops", lambda: in_shared(1, args=(r("x"), r("s1"), Step(0)))),
    ("steps_stand_in_loops", lambda: in_invariant(args=(r("noise"), (Step(0),)))),
    ("steps_stand_in_loops", lambda: in_tail(0, args=(r("s5"), 1, Step(2)))),
    ("steps_stand_in_loops", lambda: in_tail(0, args=(r("s5"), 1, Step(-1)))),
    ("steps_stand_in_loops", lambda: _body(0, args=(r("xs"), 0, Step(3), Step(0)))),
    ("carry_begins_with_its_type", lambda: array_loop(init=r("w1"))),
    ("carry_begins_with_its_type", lambda: array_loop(init=r("s2"))),
    ("carry_begins_with_its_type", lambda: recurrence(init=(r("h0"),))),
    ("carry_begins_with_its_type", lambda: recurrence(init=(r("h0"), r("h0")))),
    ("body_returns_the_carry", lambda: recurrence(body=replace(RNN_LOOP.body, outputs=(r("b3"),)))),
    ("body_returns_the_carry", lambda: recurrence(body=replace(RNN_LOOP.body, outputs=(r("b3"), r("b3"))))),
    ("body_returns_the_carry", lambda: recurrence(body=replace(RNN_LOOP.body, outputs=(r("b3"), Ref("b4", 1))))),
    ("write_stays_inside", lambda: written(Axis(1, 0, None), Axis(0, 0, None))),
    ("write_stays_inside", lambda: written(Axis(1, 0, None), Axis(1, 0, None))),
    ("write_stays_inside", lambda: written(Axis(2, 0, None))),
    ("write_stays_inside", lambda: written(Axis(-1, 0, None))),
    ("write_stays_inside", lambda: written(Axis(1, 2, None))),
    ("write_stays_inside", lambda: written(Axis(1, 1, None))),
    ("write_stays_inside", lambda: written(Axis(1, 0, 0))),
    ("write_stays_inside", lambda: written(Axis(1, 0, 2))),
    ("write_stays_inside", lambda: written(Axis(1, 0, None), tables=(tuple(map(float, UP)), UP))),
    ("write_stays_inside", lambda: written(Axis(1, 0, None), tables=((-1, *UP[1:]), UP))),
    ("positions_are_written_once", lambda: written(Axis(1, 0, None), tables=(TWICE, UP))),
    ("positions_are_written_once", lambda: written(shape=(4, 12))),
    ("positions_are_written_once", lambda: written(Axis(1, 0, 2), shape=(4, 2), tables=((*UP[:-1], 10), UP))),
    ("tail_gives_the_written_part", lambda: in_tail(5, types=(f32(5),))),
    ("tail_gives_the_written_part", lambda: in_tail(5, types=(TensorType("float64", (4,), (1,)),))),
    ("tail_gives_the_written_part", lambda: written(Axis(1, 0, 1))),
    ("tail_gives_the_written_part", lambda: array_loop(tail=replace(MADE_LOOP.tail, outputs=()))),
    ("steps_leave_what_is_collected", lambda: keeping(besides=replace(KEPT_LOOP.besides, outputs=(r("k2"),)))),
    ("steps_leave_what_is_collected", lambda: keeping(collected=KEPT_LOOP.collected[::-1])),
    ("steps_leave_what_is_collected", lambda: keeping(besides=replace(KEPT_LOOP.besides, outputs=(r("k2"), r("k1"))))),
    ("steps_leave_what_is_collected", lambda: array_loop(besides=KEPT_LOOP.besides)),
    ("references_are_available", lambda: keeping(besides=in_graph(KEPT_LOOP.besides, 0, args=(r("k3"),)))),
    ("inputs_are_listed", lambda: keeping(besides=replace(KEPT_LOOP.besides, inputs=KEPT_LOOP.besides.inputs[:1]))),
    ("references_are_available", lambda: block_hands_on("g2c")),
    ("blocks_hand_on_their_own_values", lambda: blocks(0, 2, 1, 3, families=(0, 0, 1, 0))),
    ("blocks_hand_on_their_own_values", lambda: block_hands_on("g2", "g2")),
    ("blocks_hand_on_their_own_values", lambda: block_hands_on("g2", "g0")),
    ("blocks_have_families", lambda: blocks(families=(0, 1, 0))),
    ("blocks_have_families", lambda: blocks(families=(1, 0, 1, 1))),
    ("blocks_have_families", lambda: blocks(joints=(4,))),
    ("blocks_have_families", lambda: blocks(joints=(1, 1))),
    ("blocks_together_are_alike", lambda: blocks(together=((0, 1),))),
    ("blocks_together_are_alike", lambda: blocks(together=((2, 3),))),
    ("blocks_together_are_alike", lambda: blocks(together=((0,),))),
    ("blocks_together_are_alike", lambda: blocks(together=((0, 9),))),
    ("blocks_together_are_alike", lambda: blocks(together=((),))),
    ("results_exist", lambda: _result(Leaf("out", "nowhere", f32(4, 12)))),
    ("results_exist", lambda: _result(Leaf("out", "s5", f32(4, 24)))),
    ("results_exist", lambda: _result(Leaf("out", "z1", f32(4, 11)))),
    ("results_exist", lambda: _result(Leaf("out", "z1", f32(4, 12), "3"))),
    ("results_exist", lambda: _result(Leaf("out", None, None))),
    ("results_exist", lambda: program(result=replace(MADE_PROGRAM.result, left=(Leaf("h", "nowhere", f32(4, 12)),)))),
    ("schedule_has_its_block", lambda: replace(MADE, schedule=Schedule(Method.SLIDING))),
    ("schedule_has_its_block", lambda: replace(MADE, schedule=Schedule(Method.GS_JACOBI, 0))),
    ("schedule_has_its_block", lambda: replace(MADE, schedule=Schedule(Method.GROWING))),
    ("schedule_has_its_block", lambda: replace(MADE, schedule=Schedule(Method.JACOBI, 4))),
    ("schedule_has_its_block", lambda: replace(MADE, candidates=(Candidate(Schedule(Method.SLIDING), 1.0, 1, ""),))),
    ("schedule_has_its_block", lambda: replace(MADE, alternatives=(ELSEWHERE,))),
    ("schedule_has_its_system", lambda: replace(RECURRENCE, schedule=SLIDING)),
    ("schedule_has_its_system", lambda: replace(REPEATED, schedule=SLIDING)),
    ("schedule_has_its_system", lambda: replace(REPEATED, schedule=Schedule(Method.JACOBI, windows=True))),
    ("schedule_has_its_system", lambda: replace(UNROLLED, schedule=Schedule(Method.JACOBI, windows=True))),
    ("schedule_has_its_system", lambda: replace(NO_PROGRAM, schedule=Schedule(Method.GAUSS_SEIDEL))),
    ("schedule_has_its_system", lambda: replace(STRAIGHT, schedule=Schedule(Method.JACOBI))),
    ("schedule_has_its_system", lambda: replace(MADE, schedule=Schedule(Method.JACOBI_GS, 2, windows=True))),
    (
        "schedule_has_its_system",
        lambda: replace(MADE, schedule=Schedule(Method.JACOBI_GS, 2), equality=Tolerance(0.0, 1e-6)),
    ),
    ("schedule_has_its_system", lambda: replace(CHAIN, schedule=Schedule(Method.JACOBI, windows=True))),
    ("schedule_has_its_system", lambda: replace(CHAIN, equality=Tolerance(0.0, 0.0))),
    ("schedule_has_its_block", lambda: replace(CHAIN, schedule=Schedule(Method.JACOBI_GS))),
    ("refused_plans_are_sequential", lambda: replace(MADE, refusal="position 5 reads itself")),
    ("refused_plans_are_sequential", lambda: replace(MADE, refusal="")),
    ("equality_is_finite", lambda: replace(MADE, equality=Tolerance(-1e-6, 1e-5))),
    ("equality_is_finite", lambda: replace(MADE, equality=Tolerance(1e-6, float("inf")))),
    ("equality_is_finite", lambda: replace(MADE, equality=Tolerance(float("nan"), 1e-5))),
    ("figures_are_finite", lambda: replace(MADE, costs=Costs(1.0, 1.0, float("nan"), 1.0))),
    ("figures_are_finite", lambda: replace(MADE, costs=Costs(-1.0, 1.0, 1.0, 1.0))),
    ("figures_are_finite", lambda: replace(MADE, candidates=(Candidate(SLIDING, float("inf"), 1, ""),))),
    ("figures_are_finite", lambda: replace(MADE, candidates=(Candidate(SLIDING, 1.0, -1, ""),))),
    ("figures_are_finite", lambda: replace(MADE, candidates=(Candidate(SLIDING, 1.0, 2, "", certifying=3),))),
    ("figures_are_finite", lambda: replace(MADE, align=0)),
    ("figures_are_finite", lambda: replace(MADE, alternatives=(Alternative("", 1, float("nan"), 1.0),))),
    ("figures_are_finite", lambda: replace(MADE, costs=Costs(1.0, 1.0, 1.0, 0.0, ((4, 1.0), (4, 2.0))))),
    ("figures_are_finite", lambda: replace(MADE, costs=Costs(1.0, 1.0, 1.0, 0.0, ((4, -1.0),)))),
    ("figures_are_finite", lambda: replace(MADE, costs=Costs(1.0, 1.0, 1.0, 0.0, again=-1.0))),
    ("figures_are_finite", lambda: replace(MADE, costs=Costs(1.0, 1.0, 1.0, 0.0, runs=((4, 8, 1.0), (4, 8, 2.0))))),
    ("figures_are_finite", lambda: replace(MADE, costs=Costs(1.0, 1.0, 1.0, 0.0, runs=((4, 8, -1.0),)))),
    ("premises_name_values", lambda: replace(MADE, premises=(FINITE,))),
    ("premises_name_values", lambda: replace(MADE, premises=(ZeroPattern("w1", 5, 4, "00" * 32),))),
    ("premises_name_values", lambda: replace(MADE, premises=(ZeroPattern("w1", 4, 5, "00" * 31 + "0A"),))),
    ("premises_name_values", lambda: replace(NO_PROGRAM, premises=(FINITE,))),
    ("premises_name_values", lambda: replace(MADE, premises=(Bounded("s3", -1.0, "aten.add.Tensor", ""),))),
    ("premises_name_values", lambda: replace(MADE, premises=(Bounded("s3", float("inf"), "aten.add.Tensor", ""),))),
    ("premises_name_values", lambda: replace(MADE, premises=(Bounded("nowhere", 1.0, "aten.add.Tensor", ""),))),
    ("premises_name_values", lambda: replace(MADE, premises=(Unchanged("w1", "00" * 31),))),
    ("premises_name_values", lambda: replace(MADE, premises=(NoNegativeZero("nowhere", "aten.addmm.default", ""),))),
    ("premises_name_values", lambda: replace(MADE, premises=(NoNegativeZero("s3", "aten.addmm.default", ""),))),
    ("premises_name_values", lambda: replace(MADE, premises=(ZeroPattern("x", 4, 5, "00" * 32),))),
    ("premises_name_values", lambda: replace(MADE, premises=(Finite("t3", "aten.mm.default", ""),))),
    ("premises_name_values", lambda: replace(MADE, premises=(Finite("s3.0", "aten.mm.default", ""),))),
    ("premises_name_values", lambda: replace(MADE, premises=(Finite("s3.x", "aten.mm.default", ""),))),
    ("premises_name_values", lambda: replace(_with_two_results(), premises=(Finite("s2", "aten.mm.default", ""),))),
    ("premises_name_values", lambda: replace(_with_two_results(), premises=(Finite("s2.2", "aten.mm.default", ""),))),
    ("overwrites_are_made_from_weights", lambda: overwriting("a1", r("u1"))),
    ("overwrites_are_made_from_weights", lambda: overwriting("w2", r("u2"))),
    ("overwrites_are_made_from_weights", lambda: overwriting("w1", r("u2"))),
    ("overwrites_are_made_from_weights", lambda: overwriting("w1", r("s1"))),
    ("overwrites_are_made_from_weights", lambda: overwriting("w1", r("u1"), outputs=(r("a1"), r("u2")))),
    ("overwrites_are_made_from_weights", lambda: _overwritten_by_an_argument()),
    ("checks_look_at_booleans", lambda: checking(r("nowhere"))),
    ("checks_look_at_booleans", lambda: checking(r("xs"))),
    ("checks_look_at_booleans", lambda: checking(r("b6"))),
    ("checks_look_at_booleans", lambda: checking(Ref("y0", 1))),
    ("checks_look_at_booleans", lambda: checking(r("p1"))),
    ("checks_look_at_booleans", lambda: checking(r("z1"), outputs=())),
    ("schedule_has_its_block", lambda: followed_by(schedule=Schedule(Method.SLIDING))),
    ("parts_are_few", lambda: row_of(33)),
    ("parts_have_programs", lambda: followed_by(program=None, refusal="it could not be captured", candidates=())),
    ("parts_have_programs", lambda: replace(NO_PROGRAM, rest=SECOND)),
    ("parts_agree", lambda: followed_by(device="cuda")),
    ("parts_agree", lambda: followed_by(equality=Tolerance(1e-6, 1e-6))),
    ("parts_hand_on_tensors", lambda: handing_on(Leaf("handed[1]", None, None, "1.0"))),
    ("parts_are_given_what_was_handed_on", lambda: handing_on()),
    ("parts_are_given_what_was_handed_on", lambda: handing_on(Leaf("handed[1]", "w1", f32(32, 12)))),
    ("parts_are_given_what_was_handed_on", lambda: given_besides(Leaf("handed[2]", "a2", f32()))),
    ("parts_are_given_what_was_handed_on", lambda: given_besides(Leaf("handed[2]", None, None, "1.0"))),
    ("parts_are_given_what_was_handed_on", lambda: given_besides(typed_as="float64")),
    ("parts_leave_weights_alone", lambda: _overwriting_part()),
    ("parts_leave_weights_alone", lambda: replace(row_of(1), rest=replace(_overwriting_part(), rest=None))),
]


def checking(value: Ref, outputs: tuple[Ref, ...] = (Ref("z1"),)) -> Plan:
    """``CHECKED`` with one more check, and other outputs of its epilogue."""
    assert CHECKED.program is not None
    own = CHECKED.program
    checks, epilogue = (*own.checks[:2], Check(value, True, "")), replace(own.epilogue, outputs=outputs)
    return replace(CHECKED, program=replace(own, checks=checks, epilogue=epilogue))


def followed_by(**changes: Any) -> Plan:
    """``TWO_PARTS`` with its second part changed."""
    return replace(TWO_PARTS, rest=replace(SECOND, **changes))


def handing_on(*leaves: Leaf) -> Plan:
    """``TWO_PARTS`` whose first part hands on these in place of all but the first."""
    assert TWO_PARTS.program is not None
    result = TWO_PARTS.program.result
    return replace(
        TWO_PARTS, program=replace(TWO_PARTS.program, result=replace(result, leaves=(result.leaves[0], *leaves)))
    )


def given_besides(*leaves: Leaf, typed_as: str = "float32") -> Plan:
    """``TWO_PARTS`` whose second part is given these too, and its own last argument with another dtype."""
    assert SECOND.program is not None
    first, last = SECOND.program.signature.leaves
    assert last.type is not None
    last = replace(last, type=replace(last.type, dtype=typed_as))
    body = SECOND.program.loop.body
    typed = replace(body, inputs=(*body.inputs[:-1], replace(body.inputs[-1], type=last.type)))
    signature = replace(SECOND.program.signature, leaves=(first, last, *leaves))
    loop = replace(SECOND.program.loop, body=typed)
    return followed_by(program=replace(SECOND.program, signature=signature, loop=loop))


def row_of(count: int) -> Plan:
    """Parts that hand on the array which they are given."""
    plan: Plan | None = None
    for _ in range(count):
        plan = replace(_passing_on(), rest=plan)
    assert plan is not None
    return plan


def _passing_on() -> Plan:
    program = replace(MADE_PROGRAM, result=replace(MADE_PROGRAM.result, leaves=(Leaf("handed[0]", "z1", f32(4, 12)),)))
    return replace(
        MADE, program=replace(program, signature=replace(program.signature, leaves=program.signature.leaves[:1]))
    )


def _overwriting_part() -> Plan:
    assert OVERWRITING.program is not None
    passing = _passing_on()
    assert passing.program is not None
    same = {"signature": passing.program.signature, "result": passing.program.result}
    return replace(OVERWRITING, program=replace(OVERWRITING.program, **same), rest=passing)


def _with_two_results() -> Plan:
    """``s2`` as the first of two results."""
    first = MADE_LOOP.shared.nodes[1].type
    nodes = list(MADE_LOOP.shared.nodes)
    nodes[1] = replace(nodes[1], types=(first, first))
    nodes[2] = replace(nodes[2], args=(Ref("s2", 0),))
    return array_loop(shared=replace(MADE_LOOP.shared, nodes=tuple(nodes)))


def overwriting(weight: str, value: Ref, **prologue: Any) -> Plan:
    """``weight`` overwritten with ``value``, and ``w2`` with ``u2`` as well; ``prologue`` changes the prologue."""
    program = OVERWRITING.program
    assert program is not None
    writes = (Overwrite(weight, value, ""), program.overwrites[1])
    return replace(
        OVERWRITING,
        program=replace(program, overwrites=writes, prologue=replace(program.prologue, **prologue)),
    )


def _overwritten_by_an_argument() -> Plan:
    assert OVERWRITING.program is not None
    prologue = OVERWRITING.program.prologue
    made = node("u1", "mul.Tensor", r("w1"), r("a2"), of=f32(32, 12), line=30)
    scale = node("a2", "sum.default", r("noise"), of=f32(), line=29)
    nodes = (prologue.nodes[0], scale, made, prologue.nodes[2])
    return overwriting("w1", r("u1"), nodes=nodes, inputs=(Value("noise", f32(4, 12)), *prologue.inputs))


def in_invariant(**changes: Any) -> Plan:
    return array_loop(invariant=in_graph(MADE_LOOP.invariant, 0, **changes))


def _argument(leaf: Leaf) -> Plan:
    return program(signature=replace(MADE_PROGRAM.signature, leaves=(leaf,)))


def _result(leaf: Leaf) -> Plan:
    return program(result=replace(MADE_PROGRAM.result, leaves=(leaf,)))


def _shared_inputs(inputs: tuple[Value, ...]) -> Plan:
    return array_loop(shared=replace(MADE_LOOP.shared, inputs=inputs))


def _body(at: int, **changes: Any) -> Plan:
    return recurrence(body=in_graph(RNN_LOOP.body, at, **changes))

"""Plans made by hand, as a model's author would meet them: an array loop, a recurrence, a refused plan."""

from __future__ import annotations

from dataclasses import replace

from ffcompiler.graph import EMPTY_GRAPH, Arg, Graph, Node, Ref, Step, Symbol, SymbolKind, TensorType, Value, contiguous
from ffcompiler.plan import Bits, Candidate, Costs, Finite, Method, Plan, Schedule, ZeroPattern, tolerance
from ffcompiler.program import (
    ArrayLoop,
    Axis,
    Chain,
    Check,
    Draw,
    DrawPlace,
    Leaf,
    Loop,
    Overwrite,
    PerStep,
    Program,
    Recurrence,
    Region,
    RepeatedMap,
    Result,
    Signature,
    Weight,
    WeightKind,
)

FLOAT32 = Symbol(SymbolKind.DTYPE, "float32")
RUN = Symbol(SymbolKind.DEVICE, "run")
DIMS, HIDDEN, BATCH = 12, 32, 4


def f32(*shape: int, stride: tuple[int, ...] | None = None) -> TensorType:
    return TensorType("float32", shape, contiguous(shape) if stride is None else stride)


def node(name: str, op: str, *args: Arg, of: TensorType, line: int, **kwargs: Arg) -> Node:
    return Node(name, f"aten.{op}", args, tuple(kwargs.items()), (of,), f"made.py:{line} in step")


def r(name: str) -> Ref:
    return Ref(name)


X, NOISE = Value("x", f32(BATCH, DIMS)), Value("noise", f32(BATCH, DIMS))
W1, W2 = Value("w1", f32(HIDDEN, DIMS)), Value("w2", f32(2 * DIMS, HIDDEN))
H, OUT = Value("b1", f32(BATCH, HIDDEN)), Value("b2", f32(BATCH, 2 * DIMS))

MADE_LOOP = ArrayLoop(
    lo=0,
    hi=DIMS,
    tables=(tuple(range(DIMS)), tuple(range(DIMS, 2 * DIMS))),
    carry=X,
    init=r("a1"),
    carry_tree="*",
    write=Region((Axis(1, 0, None),)),
    invariant=Graph((NOISE,), (node("i1", "exp.default", r("noise"), of=f32(BATCH, DIMS), line=11),), (r("i1"),)),
    shared=Graph(
        (X, W1, W2),
        (
            node("s1", "t.default", r("w1"), of=f32(DIMS, HIDDEN, stride=(1, DIMS)), line=12),
            node("s2", "mm.default", r("x"), r("s1"), of=f32(BATCH, HIDDEN), line=12),
            node("s3", "relu.default", r("s2"), of=f32(BATCH, HIDDEN), line=13),
            node("s4", "t.default", r("w2"), of=f32(HIDDEN, 2 * DIMS, stride=(1, HIDDEN)), line=14),
            node("s5", "mm.default", r("s3"), r("s4"), of=f32(BATCH, 2 * DIMS), line=14),
        ),
        (r("s5"),),
    ),
    tail=Graph(
        (Value("s5", f32(BATCH, 2 * DIMS)), Value("i1", f32(BATCH, DIMS))),
        (
            node("t1", "select.int", r("s5"), 1, Step(0), of=f32(BATCH, stride=(2 * DIMS,)), line=15),
            node("t2", "select.int", r("s5"), 1, Step(1), of=f32(BATCH, stride=(2 * DIMS,)), line=15),
            node("t3", "exp.default", r("t2"), of=f32(BATCH), line=16),
            node("t4", "select.int", r("i1"), 1, Step(0), of=f32(BATCH, stride=(DIMS,)), line=16),
            node("t5", "mul.Tensor", r("t3"), r("t4"), of=f32(BATCH), line=16),
            node("t6", "add.Tensor", r("t1"), r("t5"), of=f32(BATCH), line=16, alpha=1),
        ),
        (r("t6"),),
    ),
)

MADE = Plan(
    program=Program(
        signature=Signature(
            (Leaf("args[0]", "noise", NOISE.type), Leaf("kwargs['temperature']", None, None, "1.0")),
            '[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]',
            (("training model", "False"), ("autocast", "off")),
        ),
        weights=(
            Weight("w1", WeightKind.PARAMETER, "model.fc1.weight", W1.type),
            Weight("w2", WeightKind.PARAMETER, "model.fc2.weight", W2.type),
        ),
        prologue=Graph(
            (),
            (node("a1", "zeros.default", (BATCH, DIMS), of=X.type, line=8, dtype=FLOAT32, device=RUN),),
            (r("a1"),),
        ),
        loop=MADE_LOOP,
        epilogue=Graph((X,), (node("z1", "sigmoid.default", r("x"), of=X.type, line=18),), (r("z1"),)),
        result=Result((Leaf("out", "z1", X.type),), "*"),
    ),
    schedule=Schedule(Method.SLIDING, 4),
    equality=Bits(),
    device="cpu",
    premises=(
        Finite("s3", "aten.mm.default", "made.py:14 in step"),
        ZeroPattern("w1", 192, 384, "5f" * 32),
    ),
    why="least predicted time among the schedules that keep the bits",
    costs=Costs(0.00125, 0.0012, 0.0013, 2e-05),
    candidates=(
        Candidate(Schedule(Method.SEQUENTIAL), 0.015, 12, "the loop as it is written"),
        Candidate(Schedule(Method.JACOBI), 0.0085, 7, "7 sweeps of 12 blocks"),
        Candidate(Schedule(Method.SLIDING, 4), 0.0052, 8, "8 sweeps of 4 blocks, 1 certifying"),
    ),
)

_STATE, _XT = f32(1, HIDDEN), f32(1, HIDDEN, stride=(HIDDEN, 1))
RECURRENCE = Plan(
    program=Program(
        signature=Signature((Leaf("args[0]", "xs", f32(6, HIDDEN)), Leaf("args[1]", "h0", _STATE)), "*"),
        weights=(Weight("u", WeightKind.CLOSURE, "u", f32(HIDDEN, HIDDEN)),),
        prologue=Graph(
            (),
            (node("best0", "scalar_tensor.default", float("-inf"), of=f32(), line=20),),
            (r("best0"),),
        ),
        loop=Loop(
            lo=0,
            hi=6,
            tables=(tuple(range(6)), (0.5,) * 6, (3, 1, 4, 1, 5, 9)),
            carry=(Value("h", _STATE), Value("best", f32())),
            init=(r("h0"), r("best0")),
            carry_tree="(*, *)",
            body=Graph(
                (Value("h", _STATE), Value("xs", f32(6, HIDDEN)), Value("u", f32(HIDDEN, HIDDEN))),
                (
                    node("b1", "slice.Tensor", r("xs"), 0, Step(0), Step(0), of=_XT, line=21),
                    node("b2", "mm.default", r("h"), r("u"), of=_STATE, line=22),
                    node("b3", "add.Tensor", r("b1"), r("b2"), of=_STATE, line=22, alpha=Step(1)),
                    Node(
                        "b4", "aten.max.dim", (r("b3"), -1), (), (f32(1), TensorType("int64", (1,), (1,))), "rnn.py:23"
                    ),
                    node("b5", "sum.default", Ref("b4", 0), of=f32(), line=24),
                ),
                (r("b3"), r("b5")),
            ),
        ),
        epilogue=EMPTY_GRAPH,
        result=Result((Leaf("out[0]", "h", _STATE), Leaf("out[1]", None, None, "'it\\'s\\n'")), "(*, *)"),
    ),
    schedule=Schedule(Method.SEQUENTIAL),
    equality=tolerance(1e-6, 1e-5),
    device="cuda:0",
)
_TRUTH, _NAN = TensorType("bool", (), ()), TensorType("bool", (6, HIDDEN), contiguous((6, HIDDEN)))
_PASSED = TensorType("bool", (6,), (1,))
assert RECURRENCE.program is not None
assert isinstance(RECURRENCE.program.loop, Loop)
_STEP = RECURRENCE.program.loop.body
CHECKED = replace(
    RECURRENCE,
    program=replace(
        RECURRENCE.program,
        prologue=Graph(
            (Value("xs", f32(6, HIDDEN)),),
            (
                *RECURRENCE.program.prologue.nodes,
                node("p1", "isnan.default", r("xs"), of=_NAN, line=18),
                node("p2", "any.default", r("p1"), of=_TRUTH, line=18),
            ),
            (r("best0"), r("p2")),
        ),
        loop=replace(
            RECURRENCE.program.loop,
            body=Graph(
                _STEP.inputs,
                (*_STEP.nodes, node("b6", "gt.Scalar", r("b5"), 0.5, of=_TRUTH, line=25)),
                (*_STEP.outputs, r("b6")),
            ),
            collected=(Value("y0", _PASSED),),
        ),
        epilogue=Graph(
            (Value("best", f32()),), (node("z1", "lt.Scalar", r("best"), 9.0, of=_TRUTH, line=27),), (r("z1"),)
        ),
        checks=(
            Check(r("p2"), False, "made.py:18 in step"),
            Check(r("y0"), True, "made.py:25 in step"),
            Check(r("z1"), True, ""),
        ),
    ),
)
assert MADE.program is not None
_TAIL = MADE_LOOP.tail
KEEPING = replace(
    MADE,
    program=replace(
        MADE.program,
        loop=replace(
            MADE_LOOP,
            besides=Graph(
                (Value("t1", f32(BATCH, stride=(2 * DIMS,))), Value("t6", f32(BATCH))),
                (
                    node("k1", "isnan.default", r("t1"), of=TensorType("bool", (BATCH,), (1,)), line=15),
                    node("k2", "any.default", r("k1"), of=_TRUTH, line=15),
                    node("k3", "sub.Tensor", r("t6"), r("t1"), of=f32(BATCH), line=17),
                ),
                (r("k2"), r("k3")),
            ),
            collected=(Value("y0", TensorType("bool", (DIMS,), (1,))), Value("y1", f32(DIMS, BATCH))),
        ),
        epilogue=Graph(
            (X, Value("y1", f32(DIMS, BATCH))),
            (
                node("z0", "sum.dim_IntList", r("y1"), (0,), of=f32(BATCH), line=18),
                node("z1", "sigmoid.default", r("x"), of=X.type, line=18),
            ),
            (r("z0"), r("z1")),
        ),
        checks=(Check(r("y0"), False, "made.py:15 in step"),),
    ),
)
REFUSED = replace(
    MADE,
    schedule=Schedule(Method.SEQUENTIAL),
    refusal="update of position 5 may read position 5\n  through aten.convolution at models/pixelcnn.py:31",
    premises=(),
    costs=None,
    candidates=(),
    why="",
)

assert MADE.program is not None
NO_PROGRAM = Plan(None, Schedule(Method.SEQUENTIAL), Bits(), "cpu", refusal="the body draws random numbers")

OVERWRITING = replace(
    MADE,
    program=replace(
        MADE.program,
        prologue=Graph(
            (W1, W2),
            (
                *MADE.program.prologue.nodes,
                node("u1", "abs.default", r("w1"), of=W1.type, line=30),
                node("u2", "relu.default", r("w2"), of=W2.type, line=31),
            ),
            (r("a1"), r("u1"), r("u2")),
        ),
        overwrites=(Overwrite("w1", r("u1"), "made.py:30 in forward"), Overwrite("w2", r("u2"), "")),
    ),
)

WINDOWED = replace(
    MADE,
    schedule=Schedule(Method.SLIDING, 4, windows=True),
    align=16,
    costs=Costs(0.00125, 0.0012, 0.0013, 2e-05, ((2, 0.0001), (5, 0.00025))),
    candidates=(
        *MADE.candidates,
        Candidate(Schedule(Method.SLIDING, 4, windows=True), 0.0031, 9, "9 sweeps of 4 blocks", 1),
        Candidate(Schedule(Method.WAVEFRONT), 0.02, 12, "12 levels", 12),
    ),
)

assert RECURRENCE.program is not None
_X, _H = f32(3, HIDDEN), f32(2, HIDDEN)
DRAWING = replace(
    RECURRENCE,
    program=replace(
        RECURRENCE.program,
        draws=(
            Draw(DrawPlace.BEFORE, node("d0", "normal_.default", 0.0, 1.0, of=_H, line=30)),
            Draw(DrawPlace.EACH, node("d1", "exponential_.default", 1.0, of=_H, line=31)),
            Draw(DrawPlace.AFTER, node("d2", "uniform_.default", of=f32(4), line=32)),
        ),
        loop=Loop(
            lo=2,
            hi=5,
            tables=((2, 3, 4),),
            carry=(Value("h", _H),),
            init=(r("d0"),),
            carry_tree="*",
            body=Graph(
                (Value("h", _H), Value("x1", _H), Value("x2", f32(HIDDEN))),
                (
                    node("b1", "mul.Tensor", r("h"), r("x1"), of=_H, line=31),
                    node("b2", "mul.Scalar", r("x2"), Step(0), of=f32(HIDDEN), line=32),
                    node("b3", "add.Tensor", r("b1"), r("b2"), of=_H, line=32),
                ),
                (r("b3"), r("b1")),
            ),
            inputs=(PerStep(Value("x1", _H), r("d1")), PerStep(Value("x2", f32(HIDDEN)), r("xs"))),
            collected=(Value("y0", f32(3, 2, HIDDEN)),),
        ),
        signature=Signature((Leaf("args[0]", "xs", _X),), "*"),
        prologue=EMPTY_GRAPH,
        weights=(),
        result=Result((Leaf("out[0]", "h", _H), Leaf("out[1]", "y0", f32(3, 2, HIDDEN)), Leaf("d", "d2", f32(4))), "*"),
    ),
)
assert DRAWING.program is not None and isinstance(DRAWING.program.loop, Loop)
_LOOP = DRAWING.program.loop
UNROLLED = replace(
    DRAWING,
    schedule=Schedule(Method.JACOBI),
    program=replace(
        DRAWING.program,
        loop=Recurrence(
            *(_LOOP.lo, _LOOP.hi, _LOOP.tables, _LOOP.carry, _LOOP.init, _LOOP.carry_tree),
            invariant=EMPTY_GRAPH,
            ahead=Graph((Value("x2", f32(HIDDEN)),), _LOOP.body.nodes[1:2], (r("b2"),)),
            body=Graph(
                (Value("h", _H), Value("x1", _H), Value("b2", f32(HIDDEN))),
                (_LOOP.body.nodes[0], _LOOP.body.nodes[2]),
                _LOOP.body.outputs,
            ),
            inputs=_LOOP.inputs,
            collected=_LOOP.collected,
        ),
    ),
)
REPEATED = replace(
    DRAWING,
    schedule=Schedule(Method.JACOBI),
    program=replace(
        DRAWING.program,
        draws=DRAWING.program.draws[::2],
        loop=RepeatedMap(
            *(0, 9, _LOOP.carry, _LOOP.init, "*"),
            Graph((Value("xs", _X),), (node("i1", "exp.default", r("xs"), of=_X, line=33),), (r("i1"),)),
            Graph((Value("h", _H),), (node("b1", "tanh.default", r("h"), of=_H, line=34),), (r("b1"),)),
        ),
        result=Result((Leaf("out[0]", "h", _H),), "*"),
    ),
)

_V = f32(3, HIDDEN)


def _grown(name: str, line: int, *reads: str) -> Graph:
    """A block that reads the values before it."""
    wide = f32(3, len(reads) * HIDDEN)
    nodes = (
        node(f"{name}c", "cat.default", tuple(map(r, reads)), 1, of=wide, line=line),
        node(name, "constant_pad_nd.default", r(f"{name}c"), (0, HIDDEN - wide.shape[1]), of=_V, line=line),
    )
    return Graph(tuple(Value(read, _V) for read in reads), nodes, (r(name),))


CHAIN = replace(
    NO_PROGRAM,
    refusal=None,
    schedule=Schedule(Method.JACOBI_GS, 2),
    costs=Costs(0.25, 0.75, 0.75, 0.0, ((1, 0.25), (4, 0.75))),
    candidates=(Candidate(Schedule(Method.JACOBI_GS, 2), 0.5, 2, "2 sweeps", 2),),
    program=Program(
        signature=Signature((Leaf("x", "x", _V),), "*"),
        weights=(),
        prologue=Graph((Value("x", _V),), (node("s0", "relu.default", r("x"), of=_V, line=40),), (r("s0"),)),
        loop=Chain(
            (
                _grown("g0", 41, "s0"),
                Graph((Value("s0", _V),), (node("g1", "exp.default", r("s0"), of=_V, line=42),), (r("g1"),)),
                _grown("g2", 41, "s0", "g0"),
                _grown("g3", 41, "s0", "g1", "g2"),
            ),
            families=(0, 1, 0, 0),
            joints=(1,),
        ),
        epilogue=Graph((Value("g3", _V),), (node("z0", "tanh.default", r("g3"), of=_V, line=43),), (r("z0"),)),
        result=Result((Leaf("out[0]", "z0", _V), Leaf("out[1]", "g1", _V)), "(*, *)"),
    ),
)
assert CHAIN.program is not None
STRAIGHT = replace(
    CHAIN,
    schedule=Schedule(Method.SEQUENTIAL),
    candidates=(),
    program=replace(
        CHAIN.program,
        prologue=EMPTY_GRAPH,
        loop=Chain(),
        epilogue=CHAIN.program.prologue,
        result=Result((Leaf("out", "s0", _V),), "*"),
    ),
)

_ITERATED = Value("h", X.type)
SECOND = Plan(
    program=Program(
        signature=Signature((Leaf("handed[0]", "a0", X.type), Leaf("handed[1]", "a1", X.type)), "[*, *]"),
        weights=(
            Weight("w1", WeightKind.PARAMETER, "model.fc1.weight", W1.type),
            Weight("w2", WeightKind.CONSTANT, "made.py:50", f32()),
        ),
        prologue=EMPTY_GRAPH,
        loop=Recurrence(
            lo=0,
            hi=6,
            tables=(),
            carry=(_ITERATED,),
            init=(r("a0"),),
            carry_tree="*",
            invariant=Graph(
                (W1,), (node("i1", "t.default", r("w1"), of=f32(DIMS, HIDDEN, stride=(1, DIMS)), line=51),), (r("i1"),)
            ),
            ahead=EMPTY_GRAPH,
            body=Graph(
                (_ITERATED, Value("i1", f32(DIMS, HIDDEN, stride=(1, DIMS))), W1, Value("a1", X.type)),
                (
                    node("b1", "mm.default", r("h"), r("i1"), of=f32(BATCH, HIDDEN), line=52),
                    node("b2", "mm.default", r("b1"), r("w1"), of=X.type, line=52),
                    node("b3", "add.Tensor", r("b2"), r("a1"), of=X.type, line=53),
                ),
                (r("b3"),),
            ),
        ),
        epilogue=Graph(
            (_ITERATED, Value("w2", f32())),
            (node("z1", "mul.Tensor", r("h"), r("w2"), of=X.type, line=54),),
            (r("z1"),),
        ),
        result=Result((Leaf("out['x']", "z1", X.type), Leaf("out['steps']", None, None, "6")), "{*, *}"),
    ),
    schedule=Schedule(Method.SEQUENTIAL),
    equality=Bits(),
    device="cpu",
    why="no parallel schedule was faster than the reference on the example inputs",
    costs=Costs(0.0005, 0.0011, 0.0011, 1e-05),
    candidates=(
        Candidate(Schedule(Method.SEQUENTIAL), 0.003, 0, "the reference"),
        Candidate(Schedule(Method.JACOBI), 0.0066, 6, "0.5x the reference", 6),
    ),
)
TWO_PARTS = replace(
    MADE,
    program=replace(
        MADE.program,
        result=Result((Leaf("handed[0]", "z1", X.type), Leaf("handed[1]", "noise", NOISE.type)), "[*, *]"),
    ),
    rest=SECOND,
)

ALL = {
    "two_parts": TWO_PARTS,
    "chain": CHAIN,
    "straight": STRAIGHT,
    "drawing": DRAWING,
    "unrolled": UNROLLED,
    "repeated": REPEATED,
    "made": MADE,
    "overwriting": OVERWRITING,
    "windowed": WINDOWED,
    "recurrence": RECURRENCE,
    "checked": CHECKED,
    "keeping": KEEPING,
    "refused": REFUSED,
    "no_program": NO_PROGRAM,
}

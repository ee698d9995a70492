"""Values of `graph.py` and `plan.py` as hypothesis draws them: well-formed, not necessarily valid together."""

from __future__ import annotations

import keyword
from dataclasses import replace

from hypothesis import strategies as st
from plans import MADE, MADE_LOOP, RECURRENCE

from ffcompiler.graph import RESERVED, Graph, Node, Ref, Step, Symbol, SymbolKind, TensorType, Value, contiguous
from ffcompiler.plan import (
    Bits,
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
from ffcompiler.program import Axis, Leaf, Region, Result, Signature, Weight, WeightKind

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "",
        "'",
        '"',
        'it\'s "so"',
        "a\nb",
        "a\n  b",
        "a\n",
        "\n",
        "\\n",
        "# x",
        " x ",
        "\x1b[0m",
        "é",
        "\u2028",
        "none",
        "-",
    ]
)
names = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True).filter(lambda name: name not in RESERVED)
keys = st.from_regex(r"[a-z_]{1,6}", fullmatch=True).filter(lambda key: not keyword.iskeyword(key))
floats = st.floats(allow_nan=False)
small = st.integers(0, 9)
longs = st.integers(-(2**63), 2**63 - 1)
dtypes = st.sampled_from(["float32", "bool", "int64", "bfloat16"])
shapes = st.lists(small, max_size=4).map(tuple)
types = st.one_of(
    st.builds(lambda dtype, shape: TensorType(dtype, shape, contiguous(shape)), dtypes, shapes),
    st.builds(TensorType, dtypes, shapes, shapes),
)
refs = st.builds(Ref, names, st.none() | small)
symbols = st.builds(Symbol, st.sampled_from(SymbolKind), st.sampled_from(["float32", "run", "channels_last"]))
atoms = st.one_of(st.none(), st.booleans(), longs, floats, texts, refs, st.builds(Step, small), symbols)
args = st.recursive(atoms, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


def tuples_of(strategy: st.SearchStrategy, most: int = 3) -> st.SearchStrategy:
    return st.lists(strategy, max_size=most).map(tuple)


values = st.builds(Value, names, types)
nodes = st.builds(
    Node,
    names,
    st.sampled_from(["aten.addmm.default", "aten.add.Tensor", "made_up"]),
    tuples_of(args),
    tuples_of(st.tuples(keys, args)).filter(lambda kwargs: len({key for key, _ in kwargs}) == len(kwargs)),
    tuples_of(st.none() | types),
    texts,
)
graphs = st.builds(Graph, tuples_of(values, 9), tuples_of(nodes), tuples_of(refs))
tables = st.one_of(
    tuples_of(longs | floats, 9),
    st.builds(lambda a, n, s: tuple(range(a, a + n * s, s)), small, small, st.integers(1, 4)),
    st.builds(lambda a, n, s: tuple(map(float, range(a, a - n * s, -s))), small, small, st.integers(1, 4)),
    st.builds(
        lambda n, a, b: tuple(k // a % b for k in range(n)), st.integers(0, 60), st.integers(1, 7), st.integers(1, 7)
    ),
)
leaves = st.builds(Leaf, texts, st.none() | names, st.none() | types, st.none() | texts).filter(
    lambda leaf: leaf.name != "tree" and leaf.name != "modes"
)
schedules = st.builds(Schedule, st.sampled_from(Method), st.none() | longs)
env_keys = st.builds(lambda name, output: Ref(name, output).key, names, st.none() | small)
premises = st.one_of(
    st.builds(Finite, env_keys, st.sampled_from(["aten.mm.default"]), texts),
    st.builds(Bounded, env_keys, floats, st.sampled_from(["aten.masked_fill.Scalar"]), texts),
    st.builds(ZeroPattern, env_keys, longs, longs, texts),
    st.builds(Unchanged, env_keys, texts),
    st.builds(NoNegativeZero, env_keys, st.sampled_from(["aten.addmm.default"]), texts),
)
axes = st.builds(lambda table, length: (table, length), small, st.none() | longs)
regions = st.dictionaries(small, axes, max_size=3).map(
    lambda at: Region(tuple(Axis(dim, *at[dim]) for dim in sorted(at)))
)
signatures = st.builds(Signature, tuples_of(leaves), texts, tuples_of(st.tuples(texts, texts)))
programs = st.builds(
    lambda loop, program, **parts: replace(program, loop=replace(program.loop, **loop), **parts),
    st.fixed_dictionaries({"lo": longs, "hi": longs, "tables": tuples_of(tables), "carry_tree": texts}),
    st.sampled_from([MADE.program, RECURRENCE.program]),
    signature=signatures,
    weights=tuples_of(st.builds(Weight, names, st.sampled_from(WeightKind), texts, types)),
    prologue=graphs,
    epilogue=graphs,
    result=st.builds(Result, tuples_of(leaves), texts, tuples_of(leaves)),
)
RUNS: list[tuple[tuple[int, int, float], ...]] = [(), ((4, 4, 0.5), (4, 16, 0.75), (8, 16, 0.5))]
array_programs = st.builds(
    lambda region, graph: replace(MADE.program, loop=replace(MADE_LOOP, write=region, tail=graph)), regions, graphs
)
plans = st.builds(
    Plan,
    st.none() | programs | array_programs,
    schedules,
    st.just(Bits()) | st.builds(Tolerance, floats, floats),
    texts,
    tuples_of(premises),
    st.none() | texts,
    texts,
    st.none() | st.builds(Costs, floats, floats, floats, floats, again=st.none() | floats, runs=st.sampled_from(RUNS)),
    tuples_of(st.builds(Candidate, schedules, floats, longs, texts)),
)

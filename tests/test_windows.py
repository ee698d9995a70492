"""Windows: what they compute is what a whole evaluation gives, and no more than has to be computed.

End results are certified, so a wrong window would cost time and never show in them: here the kept values are looked at.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rule_cases_windows import WINDOW_CASES
from systems import SYSTEMS, bold, randn
from test_attention import LENGTH as ATTENTION_LENGTH
from test_attention import STYLES as ATTENTION
from test_catalogue import assert_same
from test_rules import BATCH, CASES, POSITIONS, UNRECORDED, graph_of, seeded
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.capture.record import tensor_type
from ffcompiler.graph import Graph, Node, Ref
from ffcompiler.ops import OPS, Numerics
from ffcompiler.passes.windows.analysis import RULES, WindowAnalysis, answer, results_of, rule_of
from ffcompiler.passes.windows.asked import Asked, Reads, evaluate_whole
from ffcompiler.passes.windows.convolutions import Axis, cropped, reach_over
from ffcompiler.passes.windows.moves import elementwise
from ffcompiler.runtime.graphs import OVERLOADS, argument, graph_call
from ffcompiler.runtime.record import Ending
from ffcompiler.runtime.runner import Runner
from ffcompiler.runtime.solve import Solve
from ffcompiler.schedules import candidates_for, parse_schedule
from ffcompiler.trees import flatten
from ffcompiler.windows import Box, Part, inside, volume, whole

PARALLEL = [name for name, case in SYSTEMS.items() if case.parallel]
SCHEDULES = [
    "jacobi+windows",
    "sliding(4)+windows",
    "gs-jacobi(3)+windows",
    "gauss-seidel+windows",
    "wavefront+windows",
]


FUNCTIONS = {**CASES, **WINDOW_CASES, **ATTENTION}
BOXES = 12
"""Random boxes of each value."""


# ---------------------------------------------------------------------------------------------------- one operator


def part_of(value: Tensor, box: Box) -> Tensor:
    """The elements in a box; over the border, zeros."""
    margins = [(max(-lo, 0), max(hi - size, 0)) for (lo, hi), size in zip(box, value.shape, strict=True)]
    flat = [amount for pair in reversed(margins) for amount in pair]
    padded = torch.nn.functional.pad(value, flat) if any(flat) else value
    return padded[tuple(slice(lo + m[0], hi + m[0]) for (lo, hi), m in zip(box, margins, strict=True))]


def evaluated(arg: Any, values: dict[str, Tensor]) -> Any:
    if isinstance(arg, Part):
        return part_of(values[arg.ref.key], arg.box)
    if isinstance(arg, tuple):
        return [evaluated(a, values) for a in arg]
    return argument(arg, torch.device("cpu"), {})


def called(op: str, args: Any, kwargs: Any, values: dict[str, Tensor]) -> Any:
    return OVERLOADS[op](*[evaluated(a, values) for a in args], **{k: evaluated(v, values) for k, v in kwargs})


def taps_of(kernel: Tensor) -> Box:
    """The box of the entries of a kernel that are not zero, in its spatial dimensions."""
    box = whole(tuple(kernel.shape))
    places = kernel.nonzero()
    ends = zip(places.amin(0).tolist(), places.amax(0).tolist(), strict=True)
    return (*box[:2], *((lo, hi + 1) for lo, hi in list(ends)[2:]))


def check_window(node: Node, ref: Ref, box: Box, values: dict[str, Tensor]) -> bool:
    """The rule's call on parts gives the same part of the whole result, and at least what was asked for.

    Whether it is less than the whole.
    """
    reads = answer(
        Asked(node, box, (), lambda r: tensor_type(values[r.key]), lambda r: taps_of(values[r.key]), ref.output or 0)
    )
    whole_result = values[ref.key]
    assert inside(box, reads.box) and inside(reads.box, whole(tuple(whole_result.shape)))
    made: dict[str, Tensor] = {}
    for call in reads.before:
        result = called(call.op, call.args, call.kwargs, {**values, **made})
        assert result.shape == tuple(hi - lo for lo, hi in call.box)
        flat = [amount for lo, _ in reversed(call.box) for amount in (lo, 0)]
        made[call.ref.key] = torch.nn.functional.pad(result, flat)  # at its own place
    got = called(reads.op or node.op, reads.args, reads.kwargs, {**values, **made})
    got = got if ref.output is None or reads.op else got[ref.output]
    torch.testing.assert_close(got, part_of(whole_result, reads.box), equal_nan=True)
    return volume(reads.box) < whole_result.numel()


def recorded(name: str) -> tuple[Graph, dict[str, Tensor], Tensor]:
    """The graph of a case, its constants and its argument."""
    x = seeded(BATCH, ATTENTION_LENGTH if name in ATTENTION else POSITIONS)
    if name not in UNRECORDED:
        return (*graph_of(FUNCTIONS[name], x), x)
    before, args = UNRECORDED[name]
    graph, constants = graph_of(before, x)
    results = OVERLOADS[name](before(x), *args)
    types = tuple(map(tensor_type, results if isinstance(results, list) else [results]))
    node = Node("c0", name, (graph.outputs[0], *args), (), types, "")
    return Graph(graph.inputs, (*graph.nodes, node), tuple(results_of(node))), constants, x


def check_windows(name: str) -> Counter[str]:
    """Random boxes of all that a case computes; how many calls by operator gave less than the whole."""
    graph, constants, x = recorded(name)
    refs = [r for n in graph.nodes for r, kind in zip(results_of(n), n.types, strict=True) if kind is not None]
    call = graph_call(graph, x.device, refs)
    results = call.values({**constants, "x": x})
    values = {**constants, "x": x, **{r.key: v for r, v in zip(call.outputs, results, strict=True)}}
    choose = random.Random(0)
    cut: Counter[str] = Counter()
    for node in graph.nodes:
        for ref in (ref for ref in results_of(node) if ref.key in values):
            boxes = [random_box(tuple(values[ref.key].shape), choose) for _ in range(BOXES)]
            cut[node.op] += sum(check_window(node, ref, box, values) for box in boxes)
    return cut


def random_box(shape: tuple[int, ...], choose: random.Random) -> Box:
    sides = []
    for size in shape:
        lo = choose.randrange(size) if size else 0
        sides.append((lo, choose.randint(lo + 1, size) if size else 0))
    return tuple(sides)


checked = cache(check_windows)


@pytest.mark.parametrize("name", [*FUNCTIONS, *UNRECORDED])
def test_a_window_of_an_operator_is_that_part_of_its_result(name: str) -> None:
    checked(name)


def test_every_rule_computes_parts_that_are_less_than_the_whole() -> None:
    cut: Counter[str] = sum((checked(name) for name in [*FUNCTIONS, *UNRECORDED]), Counter())
    ruled = {name for name in OPS if rule_of(name) is not evaluate_whole}
    assert {name for name in ruled if cut[name] < 5} == {"aten.cudnn_batch_norm.default"}  # has no kernel here
    assert cut["aten.convolution.default"] > 300 and cut["aten.index.Tensor"] > 100


def test_operators_that_are_evaluated_whole_are_those_that_the_page_explains() -> None:
    ruleless = {name for name, op in OPS.items() if rule_of(name) is evaluate_whole and op.numerics != Numerics.CREATE}
    page = (Path(__file__).parents[1] / "docs" / "windows.md").read_text()
    explained = page[page.index("## What stays whole") : page.index("## Adding a window rule")]
    assert {name for name in ruleless if f"`{name.removeprefix('aten.')}`" not in explained} == set()


def test_windows_of_transposed_convolutions_stay_within_the_margins_of_their_input() -> None:
    choose = random.Random(0)
    for _ in range(400):
        stride, dilation, taps, n = (choose.randint(1, 5) for _ in range(4))
        padding, more = choose.randint(0, dilation * taps), choose.randrange(max(stride, dilation))
        size = (n - 1) * stride - 2 * padding + dilation * (taps - 1) + 1 + more
        first = choose.randrange(taps)
        axis = Axis(stride, padding, dilation, first, (choose.randint(first, taps - 1) - first) * dilation)
        crops = [(w, cropped(axis, w, size)) for w in combinations(range(size + 1), 2)]
        for window, crop in crops:
            made = (crop.inputs[1] - crop.inputs[0] - 1) * stride - 2 * crop.padding + axis.reach + 1
            assert made + crop.output_padding == crop.box[1] - crop.box[0] and crop.output_padding < stride
            assert inside((window,), (crop.box,)) and inside((crop.box,), ((0, size),))
        if crops:
            reach = max(max(-c.inputs[0], c.inputs[1] - n, 0) for _, c in crops)
            assert reach == reach_over(axis, n, size) <= 3 * taps * dilation + stride


def test_a_rule_that_reads_the_wrong_part_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "aten.flip.default", elementwise)
    with pytest.raises(AssertionError):
        check_windows("flip")


# ---------------------------------------------------------------------------------------------------- a system


def compiled_case(name: str) -> tuple[ffc.Compiled, tuple[Any, ...], Any]:
    function, args = SYSTEMS[name].make()
    return bold(ffc.compile(function, args, schedule="jacobi")), args, function


def solver(compiled: ffc.Compiled, args: Any, schedule: str) -> tuple[Solve, Tensor]:
    """An unguarded solve loop that has not begun, and its first state."""
    wanted = parse_schedule(schedule)
    assert wanted is not None and compiled.live is not None
    runner = Runner(replace(compiled.plan, schedule=wanted), compiled.proof, compiled.device, guarded=False)
    arguments = [leaf for _, leaf in flatten(list(args))[0] if isinstance(leaf, Tensor)]
    execution = runner.begin(arguments, compiled.live.weights())
    assert runner.system is not None
    return runner.solver(execution), runner.system.start_from(execution.init[0])


def kept_and_expected(solve: Solve, before: Tensor) -> list[tuple[Ref, Tensor, Tensor]]:
    """Every buffer of the workspace beside its value in a whole evaluation of ``before``."""
    windowed, workspace = solve.system.windowed, solve.workspace
    assert windowed is not None and workspace is not None
    values = dict(zip((r.key for r in windowed._fill.outputs), windowed._evaluate(solve.env, before), strict=True))
    return [
        (b.ref, workspace.kept[b.ref.key], values[b.ref.key]) for b in windowed.layout.buffers if b.ref.key in values
    ]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", PARALLEL)
def test_after_a_windowed_sweep_every_kept_element_that_is_read_is_up_to_date(name: str, schedule: str) -> None:
    compiled, args, _ = compiled_case(name)
    analysis = compiled.proof.windows
    assert isinstance(analysis, WindowAnalysis)
    with torch.no_grad():
        solve, state = solver(compiled, args, schedule)
        if solve.system.order:
            analysis = compiled.proof.wave.proof.windows  # type: ignore[union-attr]
            assert isinstance(analysis, WindowAnalysis)
        while solve.working < solve.system.blocks:
            before = state.clone()
            hi = solve._window(False)[1]
            solve.sweep(state, False)
            for ref, kept, expected in kept_and_expected(solve, before):
                latest = torch.from_numpy(np.broadcast_to(analysis.latest[ref], expected.shape).copy())
                read = latest < hi - 1
                torch.testing.assert_close(kept[read], expected[read], equal_nan=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", PARALLEL)
def test_windowed_schedules_end_with_the_reference_bits_by_certifying_sweeps(name: str, schedule: str) -> None:
    function, args = SYSTEMS[name].make()
    compiled = bold(ffc.compile(function, args, schedule=schedule))
    for _ in range(2):  # the second run finds the workspace of the first
        result, record = compiled.run(*args)
        assert_same(result, compiled.reference(*args))
        assert record.ending is Ending.SWEEPS and record.certified == record.blocks
        assert record.sweeps[-1].certified and not record.sweeps[0].certified


def test_a_workspace_is_used_again_and_carries_nothing_over() -> None:
    function, args = SYSTEMS["raster_2d"].make()
    compiled = bold(ffc.compile(function, args, schedule="sliding(10)+windows"))
    other = (randn(*args[0].shape, seed=11),)
    first = compiled(*args)
    assert_same(compiled(*other), function(*other))
    assert_same(compiled(*args), first)
    assert compiled.parts[0].runner is not None and compiled.parts[0].runner.system is not None
    assert len(compiled.parts[0].runner.system.windowed._pool) == 1  # type: ignore[union-attr]


def test_results_do_not_share_memory_with_the_workspace() -> None:
    function, args = SYSTEMS["conv_1d"].make()
    compiled = bold(ffc.compile(function, args, schedule="sliding(4)+windows"))
    first = compiled(*args)
    copy = first.clone()
    compiled(randn(*args[0].shape, seed=5))
    assert_same(first, copy)


def test_threads_share_a_windowed_plan() -> None:
    function, args = SYSTEMS["raster_2d"].make()
    compiled = bold(ffc.compile(function, args, schedule="sliding(5)+windows"))
    inputs = [randn(*args[0].shape, seed=k) for k in range(12)]
    expected = [function(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(compiled, inputs), expected, strict=True):
            assert_same(got, want)


def test_a_run_in_inference_mode_leaves_nothing_behind_that_others_cannot_use() -> None:
    function, args = SYSTEMS["raster_2d"].make()
    compiled = bold(ffc.compile(function, args, schedule="sliding(5)+windows"))
    with torch.inference_mode():
        compiled(*args)
    assert_same(compiled(*args), function(*args))


def test_windows_that_raise_cost_their_time_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(a: Asked) -> Reads:
        return Reads(a.box, (a.all_of(a.args[0]), (2**50,)), op="aten.expand.default")

    monkeypatch.setitem(RULES, "aten.relu.default", too_large)
    function, args = SYSTEMS["raster_2d"].make()
    compiled = bold(ffc.compile(function, args, schedule="sliding(5)+windows"))
    result, record = compiled.run(*args)
    assert record.ending is Ending.RAISED and record.certified == 0
    assert_same(result, function(*args))


def test_a_workspace_is_taken_by_one_thread_only() -> None:
    """Between the look at the pool and the taking, another thread may take what was found."""
    function, args = SYSTEMS["raster_2d"].make()
    compiled = bold(ffc.compile(function, args, schedule="sliding(5)+windows"))
    compiled(*args)
    windowed = compiled.parts[0].runner.system.windowed  # type: ignore[union-attr]
    assert windowed is not None and len(windowed._pool) == 1

    class Slow(list[Any]):
        """A pool in which finding takes long enough for the others to find the same."""

        def __iter__(self) -> Any:
            for item in list.__iter__(self):
                time.sleep(0.05)
                yield item

    windowed._pool = Slow(windowed._pool)
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: windowed._acquire(), range(4)))
    assert len({id(workspace) for workspace in taken}) == 4


# ---------------------------------------------------------------------------------------------------- how much


def instructions(name: str, settled: int, hi: int) -> dict[str, list[Box]]:
    """Boxes computed of each operator's result."""
    compiled, _, _ = compiled_case(name)
    assert compiled.proof.windows is not None
    found: dict[str, list[Box]] = {}
    for instruction in compiled.proof.windows.program(settled, hi):
        found.setdefault(instruction.op, []).append(instruction.box)
    return found


def test_one_pixel_of_each_layer_is_computed_when_one_pixel_has_changed() -> None:
    boxes = instructions("raster_2d", 11, 13)  # pixel (2, 1) is new, (2, 2) is next
    first, second = boxes["aten.convolution.default"]
    # the first layer (type A) sees it from the next pixel on, and from the row below; the second likewise
    assert first[2:] == ((2, 3), (2, 3)) or volume(first[2:]) <= 6
    assert volume(second[2:]) <= 6


def test_a_window_of_whole_rows_computes_whole_rows() -> None:
    boxes = instructions("raster_2d", 5, 15)  # rows 1 and 2 of a 5 x 5 image
    for box in boxes["aten.convolution.default"]:
        assert box[3] == (0, 5) and box[2][1] - box[2][0] <= 3


def test_scattered_axes_are_computed_in_order_and_no_summed_axis_is_cut() -> None:
    compiled, _, _ = compiled_case("made_whole_then_sliced")
    windows, loop = compiled.proof.windows, compiled.plan.array
    assert windows is not None and loop is not None
    shapes = {node.name: node.type.shape for node in loop.shared.nodes}
    products = [i for i in windows.program(6, 9) if i.op == "aten.addmm.default"]
    assert len(products) == 4  # two hidden layers, and the two heads one by one
    for instruction in products:
        width = instruction.box[1][1] - instruction.box[1][0]
        assert width <= shapes[instruction.ref.name][1] // 3
        left, right = list(instruction.parts())[1:]
        assert left.box[1] == (0, right.box[0][1]) and right.box[0][0] == 0  # whole sums
    assert windows.layout.orders  # hidden units and the two heads take turns


def test_windows_of_a_wide_image_end_at_rows() -> None:
    compiled, args, _ = compiled_case("raster_2d")
    solve, state = solver(compiled, args, "sliding(10)+windows")
    with torch.no_grad():
        while solve.working < solve.system.blocks:
            assert solve._window(False)[1] % 5 == 0 or solve._window(False)[1] == solve.working + 1
            solve.sweep(state, False)


def test_candidates_are_a_few_window_sizes_and_the_cached_sampler() -> None:
    names = [str(schedule) for schedule in candidates_for(784, 28)]
    assert names[0] == "jacobi" and names[-1] == "gauss-seidel+windows"
    assert {"sliding(28)+windows", "sliding(56)+windows", "jacobi+windows"} <= set(names)
    assert [str(s) for s in candidates_for(1)] == ["jacobi"]

"""Windows: what they compute is what a whole evaluation gives, and no more than has to be computed.

End results are certified, so a wrong window would cost time and never show in them: here the kept values are looked at.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from systems import SYSTEMS, bold, randn
from test_catalogue import assert_same
from test_rules import BATCH, CASES, POSITIONS, graph_of, seeded
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.graph import Node, Ref
from ffcompiler.passes.windows.analysis import RULES, WindowAnalysis, rule_of
from ffcompiler.passes.windows.asked import Asked, Reads
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


def check_window(node: Node, ref: Ref, box: Box, values: dict[str, Tensor]) -> None:
    """The rule's call on parts gives the same part of the whole result, and at least what was asked for."""
    reads = rule_of(node.op)(
        Asked(node, box, (), lambda ref: tuple(values[ref.key].shape), lambda ref: whole(tuple(values[ref.key].shape)))
    )
    whole_result = values[ref.key]
    assert inside(box, reads.box) and inside(reads.box, whole(tuple(whole_result.shape)))
    kwargs = {key: evaluated(arg, values) for key, arg in reads.kwargs}
    got = OVERLOADS[reads.op or node.op](*[evaluated(a, values) for a in reads.args], **kwargs)
    got = got if ref.output is None else got[ref.output]
    torch.testing.assert_close(got, part_of(whole_result, reads.box), equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_a_window_of_an_operator_is_that_part_of_its_result(name: str) -> None:
    x = seeded(BATCH, POSITIONS)
    graph, constants = graph_of(CASES[name], x)
    refs = [Ref(node.name, None if len(node.types) == 1 else 0) for node in graph.nodes if node.types[0] is not None]
    call = graph_call(graph, x.device, refs)
    results = call.values({**constants, "x": x})
    values = {**constants, "x": x, **{r.key: v for r, v in zip(call.outputs, results, strict=True)}}
    choose = random.Random(0)
    for node in graph.nodes:
        ref = Ref(node.name, None if len(node.types) == 1 else 0)
        if ref.key not in values or any(r.key not in values for r in node.refs()):
            continue  # reads a later result of an operator with several: those are evaluated whole
        for _ in range(12):
            sides = []
            for size in values[ref.key].shape:
                lo = choose.randrange(size) if size else 0
                sides.append((lo, choose.randint(lo + 1, size) if size else 0))
            check_window(node, ref, tuple(sides), values)


def test_a_rule_that_reads_the_wrong_part_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "aten.flip.default", elementwise)
    with pytest.raises(AssertionError):
        test_a_window_of_an_operator_is_that_part_of_its_result("flip")


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
    assert compiled._runner is not None and compiled._runner.system is not None
    assert len(compiled._runner.system.windowed._pool) == 1  # type: ignore[union-attr]


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
    windowed = compiled._runner.system.windowed  # type: ignore[union-attr]
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

"""Recurrences: a step carries its whole state to the next; sweeps solve them, or the plan says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plans import f32
from recurrences import RECURRENCES, Recurrence, cell, over_time, tensors, zeros
from systems import bold, randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.capture import capture, look
from ffcompiler.graph import Graph, Node, Ref, Symbol, SymbolKind, TensorType, Value
from ffcompiler.passes.recurrence import recurrence
from ffcompiler.plan import Bits, Costs, Method, Plan, Schedule
from ffcompiler.program import Leaf, Loop, PerStep, Program
from ffcompiler.program import Recurrence as RecurrenceLoop
from ffcompiler.proof import NO_PROOF, Refusal
from ffcompiler.rules.verify import verify
from ffcompiler.runtime.equality import same_bits
from ffcompiler.runtime.record import Ending, RunRecord
from ffcompiler.runtime.recurrent import Recurrent
from ffcompiler.runtime.runner import Runner
from ffcompiler.schedules import parse_schedule
from ffcompiler.written.text import parse

pytestmark = pytest.mark.usefixtures("one_thread")

SCHEDULES = ["jacobi", "sliding(7)", "gs-jacobi(8)", "growing(3)", "gauss-seidel", "jacobi-gs(1)", "jacobi-gs(7)"]
SCHEDULES += ["jacobi-gs(2)", "jacobi-gs(100)"]
EXACT = [case for case in RECURRENCES.values() if case.exact]
ROUNDING = [case for case in RECURRENCES.values() if not case.exact]
FINE = ffc.tolerance(1e-6, 1e-6)
SEQUENTIAL = Schedule(Method.SEQUENTIAL)
CONTIGUOUS = Symbol(SymbolKind.MEMORY_FORMAT, "contiguous_format")


def unguarded(compiled: ffc.Compiled, schedule: str, args: tuple[Any, ...]) -> tuple[list[Tensor], RunRecord, Runner]:
    """Sweeps to the end, whatever they cost."""
    wanted = parse_schedule(schedule)
    assert compiled.live is not None and wanted is not None
    runner = Runner(replace(compiled.plan, schedule=wanted), compiled.proof, compiled.device, guarded=False)
    with torch.no_grad():
        execution = runner.begin(tensors(args), compiled.live.weights())
        runner.sweep(execution)
        results = runner.results(execution, runner.finish(execution))
        execution.record.certificate = runner.certify(execution)
    return results, execution.record, runner


def system(compiled: ffc.Compiled) -> Recurrent:
    assert compiled.parts[0].runner is not None and compiled.parts[0].runner.recurrent is not None
    return compiled.parts[0].runner.recurrent


# ---------------------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("case", EXACT, ids=lambda c: c.name)
def test_where_no_operator_rounds_by_shape_every_schedule_gives_the_bits(case: Recurrence) -> None:
    function, args = case.make()
    compiled = ffc.compile(function, args, schedule="jacobi")
    assert compiled.plan.refusal is None and system(compiled).exact
    expected = tensors(function(*args))
    for schedule in SCHEDULES:
        results, record, _ = unguarded(compiled, schedule, args)
        assert all(map(same_bits, results, expected)), schedule
        assert record.ending is Ending.SWEEPS and record.certified == case.blocks == record.blocks
        assert len(record.sweeps) <= case.blocks and all(sweep.certified for sweep in record.sweeps)


@pytest.mark.parametrize("case", ROUNDING, ids=lambda c: c.name)
def test_under_bits_an_operator_that_rounds_by_shape_is_named_with_its_line(case: Recurrence) -> None:
    function, args = case.make()
    compiled = ffc.compile(function, args)
    assert compiled.plan.schedule.method is Method.SEQUENTIAL
    why = compiled.plan.refusal or ""
    assert "recurrences.py" in why or "rnn.py" in why or ".py:" in why
    assert "many steps at once" in why and "ffc.tolerance" in why
    assert all(map(same_bits, tensors(compiled(*args)), tensors(function(*args))))
    with pytest.raises(ffc.CausalityError, match="many steps at once"):
        ffc.compile(function, args, schedule="jacobi")


def test_new_inputs_are_solved_to_their_own_bits() -> None:
    for name in ("linear_filter", "congruential_generator", "cellular_automaton", "driven_logistic_map"):
        function, args = RECURRENCES[name].make()
        compiled = bold(ffc.compile(function, args, schedule="jacobi"))
        other = tuple(t.flip(0) for t in args)
        got, record = compiled.run(*other)
        assert all(map(same_bits, tensors(got), tensors(function(*other)))) and record.ending is Ending.SWEEPS


# ---------------------------------------------------------------------------------------------------- tolerance


@pytest.mark.parametrize("case", RECURRENCES.values(), ids=lambda c: c.name)
def test_under_a_tolerance_every_schedule_is_as_near_as_its_residual_says(case: Recurrence) -> None:
    function, args = case.make()
    compiled = ffc.compile(function, args, schedule="jacobi", equality=FINE)
    assert compiled.plan.refusal is None
    expected = tensors(function(*args))
    for schedule in SCHEDULES:
        results, record, _ = unguarded(compiled, schedule, args)
        assert record.ending is Ending.SWEEPS and record.certified == case.blocks
        assert len(record.sweeps) <= case.blocks and all(sweep.certified for sweep in record.sweeps)
        if case.name == "driven_logistic_map":  # residuals of 1e-6 grow: that is what the estimate is for
            continue
        for got, want in zip(results, expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", ["tanh_rnn", "gru", "lstm"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_residual_of_every_step_is_within_the_tolerance(name: str, schedule: str) -> None:
    """By the loop's own calls from the block before, not by the batched ones that sweeps use."""
    function, args = RECURRENCES[name].make()
    tolerance = ffc.tolerance(0.0, 1e-4)
    compiled = ffc.compile(function, args, schedule="jacobi", equality=tolerance)
    wanted = parse_schedule(schedule)
    assert compiled.live is not None and wanted is not None
    runner = Runner(replace(compiled.plan, schedule=wanted), compiled.proof, compiled.device, guarded=False)
    with torch.no_grad():
        execution = runner.begin(list(args), compiled.live.weights())
        trajectory = runner.sweep(execution).state
        worst = 0.0
        for k in range(RECURRENCES[name].blocks):
            after = runner.one_step(execution, [leaf[k] for leaf in trajectory], k)
            worst = max(
                [worst, *(float((a - leaf[k + 1]).abs().max()) for a, leaf in zip(after, trajectory, strict=True))]
            )
    certificate = runner.certify(execution)
    assert worst <= 1e-4 + 1e-6 and certificate.residual is not None  # 1e-6: a single step rounds otherwise
    assert worst <= certificate.residual + 1e-6 and certificate.estimated_error is not None


def test_jacobi_needs_far_fewer_sweeps_than_steps_where_the_state_forgets() -> None:
    function, args = RECURRENCES["tanh_rnn"].make()
    compiled = ffc.compile(function, args, schedule="jacobi", equality=ffc.tolerance(0.0, 1e-3))
    _, coarse, _ = unguarded(compiled, "jacobi", args)
    compiled = ffc.compile(function, args, schedule="jacobi", equality=ffc.tolerance(0.0, 1e-6))
    _, fine, _ = unguarded(compiled, "jacobi", args)
    assert len(coarse.sweeps) < len(fine.sweeps) < 60


def test_a_nan_that_only_a_guess_makes_is_not_certified() -> None:
    """0 * Inf and the like in unconverged states must not pass for a fixed point."""

    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 30, lambda i, h: h - h * h * x[i] + torch.log(h - 0.1), torch.full((1,), 1.7))

    x = torch.full((30,), 0.3)
    compiled = ffc.compile(run, (x,), schedule="jacobi", equality=FINE)
    for schedule in SCHEDULES:
        results, _, _ = unguarded(compiled, schedule, (x,))
        assert torch.equal(results[0].isnan(), run(x).isnan())
    steady = torch.full((30,), -0.1)
    results, _, _ = unguarded(compiled, "jacobi", (steady,))
    torch.testing.assert_close(results[0], run(steady), rtol=1e-3, atol=1e-3, equal_nan=True)


def test_within_a_tolerance_is_not_the_same_for_whole_numbers() -> None:
    function, args = RECURRENCES["congruential_generator"].make()
    compiled = ffc.compile(function, args, schedule="jacobi", equality=ffc.tolerance(1.0, 1e9))
    results, _, _ = unguarded(compiled, "jacobi", args)
    assert same_bits(results[0], function(*args))


# ---------------------------------------------------------------------------------------------------- hoisting


def test_what_does_not_read_the_state_is_computed_once_for_all_steps() -> None:
    function, args = RECURRENCES["gru"].make()
    compiled = ffc.compile(function, args, schedule="jacobi", equality=FINE)
    loop = system(compiled).loop
    products = {name: sum("linear" in n.op for n in getattr(loop, name).nodes) for name in ("ahead", "body")}
    assert products == {"ahead": 1, "body": 1}
    assert parse(str(compiled.plan)) == compiled.plan


def test_what_reads_neither_state_nor_step_is_computed_once_per_call() -> None:
    w = randn(4, 4)
    compiled = ffc.compile(
        over_time(lambda x, h: torch.tanh(h @ (w - w.mean(0)) * 0.3 + x.exp()), zeros(2, 4)),
        (randn(2, 20, 4),),
        schedule="jacobi",
        equality=FINE,
    )
    loop = compiled.plan.system
    assert isinstance(loop, RecurrenceLoop)
    assert {n.op for n in loop.invariant.nodes} == {"aten.mean.dim", "aten.sub.Tensor"}
    assert {n.op for n in loop.ahead.nodes} == {"aten.select.int", "aten.exp.default"}


def test_a_weight_that_all_steps_share_makes_one_product_of_all_steps() -> None:
    counted: list[tuple[str, tuple[int, ...]]] = []

    class Products(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(word in str(func) for word in ("mm", "linear", "bmm")):
                counted.append((str(func), tuple(args[-1].shape)))
            return func(*args, **(kwargs or {}))

    for name in ("tanh_rnn", "gru", "lstm", "matrices_from_the_left", "a_vector_without_batch"):
        function, args = RECURRENCES[name].make()
        compiled = ffc.compile(function, args, schedule="jacobi", equality=FINE)
        part = system(compiled)
        with torch.no_grad():
            execution = compiled.parts[0].runner.begin(tensors(args), compiled.live.weights())  # type: ignore[union-attr]
            env = part.prepare(execution.env)
            state = part.start_from(execution.init)
            counted.clear()
            with Products():
                part.update(env, state, 0, part.blocks, False)
        assert len(counted) == 1 and "bmm" not in counted[0][0], (name, counted)


# ------------------------------------------------------------------------------------------------ guard and handover


def handed_over(function: Any, args: tuple[Any, ...], equality: Any) -> tuple[Any, RunRecord]:
    """A run whose guard allows one sweep, and more only if that certified many blocks."""
    compiled = ffc.compile(function, args, schedule="jacobi", equality=equality)
    assert compiled.plan.system is not None
    one = 0.04 * compiled.plan.system.blocks
    compiled.plan = replace(compiled.plan, costs=Costs(step=1.0, sweep=one, certify=one, once=0.0))
    compiled.parts[0].runner = Runner(compiled.plan, compiled.proof, compiled.device)
    return compiled.run(*args)


@pytest.mark.parametrize(
    "name", ["driven_logistic_map", "lstm", "two_layers_in_a_dict", "fibonacci_whose_parts_change_places"]
)
def test_the_guard_hands_the_rest_to_the_function_itself(name: str) -> None:
    function, args = RECURRENCES[name].make()
    equality = "bits" if RECURRENCES[name].exact else ffc.tolerance(0.0, 0.0)
    got, record = handed_over(function, args, equality)
    assert record.ending is Ending.GUARD and 0 < record.certified < record.blocks
    for a, b in zip(tensors(got), tensors(function(*args)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert equality != "bits" or same_bits(a, b)


def test_a_chaotic_map_is_never_certified_beyond_what_is_right() -> None:
    """Under bits a block is final by depth or because a prefix repeated: a wrong one would show."""
    function, args = RECURRENCES["driven_logistic_map"].make()
    compiled = ffc.compile(function, args, schedule="jacobi")
    expected = [args[0].new_full((2,), 0.3)]
    for i in range(40):
        expected.append(3.9 * expected[-1] * (1 - expected[-1]) + 0.01 * args[0][:, i])
    runner = Runner(compiled.plan, compiled.proof, compiled.device, guarded=False)
    with torch.no_grad():
        execution = runner.begin(list(args), compiled.live.weights())  # type: ignore[union-attr]
        solve = runner.solver(execution)
        state = solve.system.start_from(execution.init)
        solve.env = solve.system.prepare(solve.env)
        while solve.certified < 40:
            before = solve.certified
            assert solve.sweep(state, True) and solve.certified > before
            for k in range(solve.certified):
                assert same_bits(state[0][k + 1], expected[k + 1])


def test_an_index_out_of_range_in_a_guess_ends_the_sweeps_and_not_the_call() -> None:
    table, moves = torch.full((20,), 2), torch.tensor([0, 10, 11, 12, 13, 14])

    def run(start: Tensor) -> Tensor:
        return ffc.fori_loop(0, 6, lambda i, s: table[s + moves[i]], start)

    start = torch.tensor([15])  # 15 + 10 is no place in the table; the loop gets to 2 + 10
    compiled = bold(ffc.compile(run, (start,), schedule="jacobi"))
    got, record = compiled.run(start)
    assert record.ending is Ending.RAISED and "out of" in record.detail
    assert same_bits(got, run(start))


def test_integer_division_by_the_state_is_not_for_speculation() -> None:
    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 6, lambda i, s: x[i] // s + 3, torch.tensor([7]))

    compiled = ffc.compile(run, (torch.arange(6, 66, 10)[:, None],))
    assert "can end the process" in (compiled.plan.refusal or "")


def test_an_operator_without_a_batching_rule_is_named_with_its_line() -> None:
    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, 6, lambda i, s: torch.full((3,), float(i)).bfloat16() * s.bfloat16() * i + x[i], x[0])

    x = randn(6, 3).bfloat16()
    compiled = ffc.compile(run, (x,), equality=FINE)
    why = compiled.plan.refusal or ""
    assert "cannot be evaluated for many steps at once" in why and "test_recurrence.py" in why


# ------------------------------------------------------------------------------------------------ files, choice, text


@pytest.mark.parametrize("name", ["tanh_rnn", "lstm", "gru_with_a_readout", "step_numbers_as_numbers_and_as_places"])
def test_a_saved_recurrence_solves_and_runs_step_by_step(name: str, tmp_path: Path) -> None:
    function, args = RECURRENCES[name].make()
    equality = "bits" if RECURRENCES[name].exact else FINE
    compiled = ffc.compile(function, args, schedule="sliding(9)", equality=equality)
    compiled.save(tmp_path / "r.ffc")
    again = ffc.load(tmp_path / "r.ffc")
    assert again.plan == compiled.plan
    expected = tensors(function(*args))
    assert all(map(same_bits, tensors(again.reference(*args)), expected))
    got, record = bold(again).run(*args)
    assert record.ending is Ending.SWEEPS
    for a, b in zip(tensors(got), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert equality != "bits" or same_bits(a, b)


def test_a_file_that_claims_bits_for_what_rounds_is_refused(tmp_path: Path) -> None:
    function, args = RECURRENCES["tanh_rnn"].make()
    compiled = ffc.compile(function, args, schedule="jacobi", equality=FINE)
    compiled.plan = replace(compiled.plan, equality=Bits())
    compiled.save(tmp_path / "r.ffc")
    with pytest.raises(ffc.ArtifactError, match="many steps at once"):
        ffc.load(tmp_path / "r.ffc")


@pytest.mark.parametrize("case", RECURRENCES.values(), ids=lambda c: c.name)
@pytest.mark.parametrize("equality", ["bits", FINE], ids=["bits", "tolerance"])
def test_whatever_auto_decides_the_answer_is_that_of_the_function(case: Recurrence, equality: Any) -> None:
    function, args = case.make()
    compiled = ffc.compile(function, args, equality=equality)
    for got, want in zip(tensors(compiled(*args)), tensors(function(*args)), strict=True):
        if equality == "bits":
            assert same_bits(got, want)
        elif case.name != "driven_logistic_map":
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_the_explanation_says_what_is_carried_and_what_is_hoisted(tmp_path: Path) -> None:
    function, args = RECURRENCES["lstm"].make()
    compiled = ffc.compile(function, args, schedule="jacobi", equality=FINE)
    text = str(compiled.explain())
    assert "50 steps carry 16 elements in 2 tensors" in text and "ahead of the loop" in text
    _, record = compiled.run(*args)
    compiled.inspect(tmp_path / "page.html", record)
    assert "sliding" not in str(compiled.plan.schedule)


def test_windows_are_of_array_loops_only() -> None:
    function, args = RECURRENCES["linear_filter"].make()
    with pytest.raises(ffc.ScheduleError, match="window"):
        ffc.compile(function, args, schedule="sliding(4)+windows")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_loops_of_few_steps(steps: int) -> None:
    function, args = RECURRENCES["tanh_rnn"].make()
    compiled = ffc.compile(function, args, schedule="jacobi", equality=FINE)
    plan, live = compiled.plan, compiled.live
    assert plan.program is not None and isinstance(plan.program.loop, RecurrenceLoop) and live is not None
    loop = replace(plan.program.loop, hi=steps, tables=tuple(row[:steps] for row in plan.program.loop.tables))
    plan = verify(replace(plan, program=replace(plan.program, loop=loop), costs=None, candidates=()))
    runner = Runner(plan, compiled.proof, compiled.device)
    with torch.no_grad():
        execution = runner.begin(list(args), live.weights())
        solution = runner.sweep(execution)
        got = runner.results(execution, runner.finish(execution))
        expected = over_time(cell(nn.RNNCell, 3, 4, 1.5), zeros(2, 4))(args[0][:, :steps])
    assert solution.certified == steps
    torch.testing.assert_close(got[0], expected, rtol=1e-4, atol=1e-4)


def test_changed_weights_are_seen() -> None:
    rnn = cell(nn.RNNCell, 3, 4, 1.5)
    function = over_time(rnn, zeros(2, 4))
    x = randn(2, 30, 3)
    compiled = bold(ffc.compile(function, (x,), schedule="jacobi", equality=FINE))
    rnn.weight_hh.data.mul_(0.5)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), function(x), rtol=1e-4, atol=1e-4)


def test_a_recurrence_too_long_to_hold_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffcompiler.passes.recurrence.MAX_BYTES", 1000)
    function, args = RECURRENCES["linear_filter"].make()
    compiled = ffc.compile(function, args)
    assert "MiB" in (compiled.plan.refusal or "")
    assert same_bits(compiled(*args), function(*args))


def test_an_array_loop_that_leaks_stays_refused() -> None:
    """A wrong mask is told to its author; it is not swept as if the whole array were a state."""
    weight = randn(6, 6)

    def run(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:, i] = (x @ weight + u)[:, i]
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    compiled = ffc.compile(run, (randn(2, 6),), equality=FINE)
    assert "condition 5" in (compiled.plan.refusal or "")


# ------------------------------------------------------------------------------------------------ handed and collected


def handed_and_collected() -> tuple[Program, dict[str, Tensor], Tensor, nn.Module]:
    """``h = cell(xs[k], h)`` with ``xs`` stacked before the loop, and every ``h`` collected; the program by hand."""
    rnn = cell(nn.RNNCell, 3, 4, 1.5)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        stack = x.transpose(0, 1).contiguous()
        h = ffc.fori_loop(0, 30, lambda i, h: rnn(x[:, i], h), x.new_zeros(2, 4))
        return h, stack

    x = randn(2, 30, 3, seed=9)
    captured = capture(run, (x,))
    program, loop = captured.program, captured.program.loop
    assert isinstance(loop, Loop)
    turned = TensorType("float32", (30, 2, 3), (3, 90, 1))
    stack = Node("p90", "aten.transpose.int", (Ref("a0"), 0, 1), (), (turned,), "")
    whole = Node("p91", "aten.clone.default", (Ref("p90"),), (("memory_format", CONTIGUOUS),), (f32(30, 2, 3),), "")
    prologue = program.prologue
    inputs = tuple({v.name: v for v in (*prologue.inputs, Value("a0", f32(2, 30, 3)))}.values())
    prologue = Graph(inputs, (*prologue.nodes, stack, whole), (*prologue.outputs, Ref("p91")))
    read = next(node for node in loop.body.nodes if any(node.steps()))
    rest = tuple(
        replace(node, args=tuple(Ref("x0") if arg == Ref(read.name) else arg for arg in node.args))
        for node in loop.body.nodes
        if node is not read
    )
    outside = (*(v for v in loop.body.inputs if v.name != "a0"), Value("x0", f32(2, 3)))
    body = Graph(outside, rest, (*loop.body.outputs, loop.body.outputs[0]))
    given = (PerStep(Value("x0", f32(2, 3)), Ref("p91")),)
    loop = replace(loop, tables=(), body=body, inputs=given, collected=(Value("y0", f32(30, 2, 4)),))
    epilogue = Graph((Value("c0", f32(2, 4)), Value("y0", f32(30, 2, 4))), (), (Ref("c0"), Ref("y0")))
    leaves = (Leaf("result[0]", "c0", f32(2, 4)), Leaf("result[1]", "y0", f32(30, 2, 4)))
    result = replace(program.result, leaves=leaves)
    program = replace(program, prologue=prologue, loop=loop, epilogue=epilogue, result=result)
    return program, captured.weights(look(run)), x, rnn


@pytest.mark.parametrize("certified", [0, 11, 30])
def test_what_steps_are_handed_and_collect_goes_through_sweeps_and_single_steps(certified: int) -> None:
    program, weights, x, rnn = handed_and_collected()
    swept = recurrence(program)
    assert not isinstance(swept, Refusal)
    wanted = parse_schedule("jacobi")
    assert wanted is not None
    plan = verify(Plan(swept, wanted, ffc.tolerance(1e-6, 1e-6), "cpu"))
    assert parse(str(plan)) == plan
    with torch.no_grad():
        states = [x.new_zeros(2, 4)]
        for i in range(30):
            states.append(rnn(x[:, i], states[-1]))
        for made in (program, swept):  # single steps alone
            runner = Runner(replace(plan, program=made, schedule=SEQUENTIAL), NO_PROOF, torch.device("cpu"))
            execution = runner.begin([x], weights)
            last, collected = runner.results(execution, runner.finish(execution))
            assert same_bits(last, states[-1]) and same_bits(collected, torch.stack(states[1:]))
        runner = Runner(plan, NO_PROOF, torch.device("cpu"), guarded=False)
        execution = runner.begin([x], weights)
        solution = runner.sweep(execution)
        assert solution.certified == 30
        execution.solution = replace(solution, certified=certified)
        last, collected = runner.results(execution, runner.finish(execution))
    torch.testing.assert_close(last, states[-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(collected, torch.stack(states[1:]), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------ operators

W, TABLE = randn(4, 4) * 0.5, randn(4, 4, seed=5)
BODIES: dict[str, Any] = {
    "transposed twice": lambda h: h.t().contiguous().t(),
    "permuted": lambda h: h.view(2, 2, 2).permute(2, 0, 1).reshape(2, 4),
    "transposed": lambda h: h.view(2, 2, 2).transpose(-1, 0).reshape(2, 4),
    "one more dimension and one fewer": lambda h: h.unsqueeze(-1).unsqueeze(0).squeeze(0).squeeze(-1),
    "expanded": lambda h: h[:, :1].expand(2, 4),
    "expanded to more dimensions": lambda h: h.expand(3, 2, 4).sum(0) / 3,
    "joined": lambda h: torch.cat([h[:, 2:], h.new_ones(2, 1), h[:, :1]], -1),
    "stacked": lambda h: torch.stack([h[:, 0], h[:, 1], h[:, 2] * 0.5, h[:, 3]], 1),
    "flipped and rolled": lambda h: h.flip(-1).roll(1, -1),
    "rolled flat": lambda h: h.roll(3),
    "padded": lambda h: torch.nn.functional.pad(h[:, 1:3], (1, 1), value=0.5),
    "summed": lambda h: h.sum(-1, keepdim=True) * 0.1 + h.sum(0) * 0.1,
    "summed whole": lambda h: h.sum() * 0.05 + h.mean() + h * 0.1,
    "extremes": lambda h: h.amax(-1, keepdim=True) - h.amin(0),
    "largest and its place": lambda h: h.max(-1)[0][:, None] * 0.1 + h.max(-1)[1][:, None],
    "cumulated": lambda h: h.cumsum(-1) * 0.1,
    "softmax": lambda h: torch.softmax(h, 0) + torch.log_softmax(h, -1) * 0.1,
    "logsumexp": lambda h: torch.logsumexp(h, -1, keepdim=True).expand(2, 4) * 0.1,
    "looked up": lambda h: torch.nn.functional.embedding(h.argmax(-1), TABLE),
    "gathered": lambda h: h.gather(1, h.argsort(1)),
    "chunks": lambda h: torch.cat(h.chunk(2, -1)[::-1], -1),
    "layer norm": lambda h: torch.nn.functional.layer_norm(h, (4,), W[0], W[1]),
    "rows by a matrix": lambda h: h @ W,
    "rows by a matrix and a bias": lambda h: torch.addmm(W[0], h, W),
    "rows by a matrix and two biases": lambda h: torch.addmm(W[:2], h, W),
    "linear": lambda h: torch.nn.functional.linear(h, W, W[0]),
    "a matrix by columns": lambda h: (W @ h.t()).t(),
    "a matrix by a vector": lambda h: (W @ h[0]).expand(2, 4),
    "products of batches": lambda h: torch.bmm(h.view(2, 1, 4), W.expand(2, 4, 4)).view(2, 4),
    "the state by itself": lambda h: h @ h.t() @ h * 0.05,
    "norms": lambda h: h / (1 + h.norm(dim=-1, keepdim=True)),
    "variance": lambda h: h.var(-1, keepdim=True) * 0.1 + h * 0.1,
    "chosen": lambda h: torch.where(h > 0, h, h * 0.1).clamp(-2, 2),
    "triangle": lambda h: h.view(2, 2, 2).tril().view(2, 4),
    "three dimensions by a matrix": lambda h: (h.view(1, 2, 4) @ W).view(2, 4),
}


@pytest.mark.parametrize("inside", [True, False], ids=["many steps", "few steps"])
@pytest.mark.parametrize("name", BODIES)
def test_operators_give_many_steps_what_they_give_each(name: str, inside: bool) -> None:
    """With the steps innermost in memory (more steps than elements) and outermost."""
    steps = 20 if inside else 5
    body = BODIES[name]
    function = over_time(lambda x, h: 0.3 * body(h).contiguous() + x, lambda x: x[:, 0] * 0.7)
    x = randn(2, steps, 4, seed=8)
    compiled = ffc.compile(function, (x,), schedule="jacobi", equality=FINE)
    part = system(compiled)
    assert part.inside is inside and part.unlifted == []
    assert compiled.live is not None and compiled.parts[0].runner is not None
    with torch.no_grad():
        execution = compiled.parts[0].runner.begin([x], compiled.live.weights())
        trajectory = tuple(randn(*leaf.shape, seed=3) for leaf in part.start_from(execution.init))
        laid_out = part.start_from(execution.init)
        laid_out[0].copy_(trajectory[0])
        values, _ = part.update(part.prepare(execution.env), laid_out, 0, steps, False)
        for k in range(steps):
            (alone,) = compiled.parts[0].runner.one_step(execution, [trajectory[0][k]], k)
            torch.testing.assert_close(values[0][k], alone, rtol=1e-5, atol=1e-5)

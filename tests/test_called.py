"""What a call takes besides its sweeps: told apart from the sweeps themselves, on calls that are begun anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import ffcompiler as ffc
from ffcompiler.choice import called
from ffcompiler.choice.called import DEARER, SWEEPS, Begun, as_called
from ffcompiler.choice.measure import Example, Trial
from ffcompiler.choice.reference import Reference
from ffcompiler.plan import Costs
from ffcompiler.runtime.runner import Execution, Runner

COSTS = Costs(
    step=0.01, sweep=0.002, certify=0.002, once=0.0, windows=((4, 0.0005), (12, 0.002)), runs=((2, 4, 0.001),)
)


def test_what_the_first_sweeps_take_longer_is_told_apart() -> None:
    begun = Begun(before=1.0, sweeps=(5.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0))
    assert begun.steady == 2.0 and begun.start == 3.0 + 1.0


def test_of_a_few_long_sweeps_nothing_is_said() -> None:
    begun = Begun(before=1.0, sweeps=(5.0, 4.0))
    assert begun.steady is None and begun.start == 0.0


def test_sweeps_that_quicken_cost_nothing_less_than_nothing() -> None:
    assert Begun(before=1.0, sweeps=(1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0)).start == 0.0


def recurrence() -> tuple[Runner, ffc.Compiled]:
    def run(x: torch.Tensor) -> torch.Tensor:
        return ffc.fori_loop(0, 40, lambda i, h: torch.tanh(0.5 * h @ x[i]), torch.ones(3, 3))

    inputs = (torch.randn(40, 3, 3, generator=torch.Generator().manual_seed(1)),)
    compiled = ffc.compile(run, inputs, schedule="jacobi", equality=ffc.tolerance())
    return Runner(compiled.plan, compiled.proof, torch.device("cpu"), guarded=False), compiled


def begin(runner: Runner, compiled: ffc.Compiled) -> Execution:
    assert compiled.live is not None
    known = compiled.live.captured.replays[0]
    return runner.begin(known.arguments, compiled.live.weights(), known.generators)


def ticking(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Each look at the clock finds so many seconds gone."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(called, "now", lambda device: next(ticks) * seconds)
    monkeypatch.setattr(called, "elsewhere", lambda device: None)


def test_sweeps_that_take_longer_within_a_call_are_priced_so_at_every_width(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, compiled = recurrence()
    ticking(monkeypatch, 0.003)
    costs = as_called(COSTS, runner, lambda: begin(runner, compiled))
    assert costs.certify == pytest.approx(0.003) and costs.sweep == pytest.approx(0.003)
    assert [seconds for _, seconds in costs.windows] == pytest.approx([0.00075, 0.003])
    assert costs.runs[0][2] == pytest.approx(0.0015) and costs.once > 0.0
    assert replace(costs, once=0.0, start=0.0, sweep=0, certify=0, windows=(), runs=()) == replace(
        COSTS, sweep=0, certify=0, windows=(), runs=()
    )


def test_what_the_machine_did_besides_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, compiled = recurrence()
    ticking(monkeypatch, 0.009)
    assert as_called(COSTS, runner, lambda: begin(runner, compiled)).certify == DEARER * COSTS.certify


def test_sweeps_that_are_cheaper_within_a_call_cost_what_they_cost_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner, compiled = recurrence()
    ticking(monkeypatch, 0.0001)
    assert as_called(COSTS, runner, lambda: begin(runner, compiled)).windows == COSTS.windows


def test_a_call_that_raises_leaves_the_costs_as_they_are() -> None:
    runner, _ = recurrence()

    def broken() -> Execution:
        raise ValueError("the user's operators")

    assert as_called(COSTS, runner, broken) is COSTS


def test_sweeps_that_raise_cost_what_they_cost_and_what_comes_before_them_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After so many that the later ones would have been believed."""
    runner, compiled = recurrence()
    ticking(monkeypatch, 0.003)

    def raising(runner: Runner, execution: Execution) -> Iterator[bool]:
        yield from [True] * SWEEPS
        raise ValueError("the user's operators")

    monkeypatch.setattr(called, "_sweeps", raising)
    costs = as_called(COSTS, runner, lambda: begin(runner, compiled))
    assert costs.once > 0.0 and replace(costs, once=0.0) == COSTS


def test_what_calls_take_once_is_timed_on_begun_calls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _, compiled = recurrence()
    assert compiled.live is not None
    example = Example(compiled.live.captured.replays[0], compiled.live.weights, lambda s: 0.01)
    trial = Trial(compiled.plan, compiled.proof, example, torch.device("cpu"))
    costs = trial.costs(0.01, (compiled.plan.schedule,))
    assert costs.once == 0.0 and trial.called(costs).once > 0.0


def test_the_look_before_a_call_is_in_what_it_takes_once() -> None:
    looked: list[int] = []

    def run(x: torch.Tensor) -> torch.Tensor:
        return ffc.fori_loop(0, 40, lambda i, h: torch.tanh(0.5 * h + x[i]), torch.ones(3))

    compiled = ffc.compile(run, (torch.randn(40, 3),), schedule="jacobi", equality=ffc.tolerance())
    assert compiled.live is not None
    before = compiled.plan.costs
    assert before is not None and before.once > 0.0
    example = Example(
        compiled.live.captured.replays[0], compiled.live.weights, lambda s: 0.01, looks=lambda: looked.append(1)
    )
    trial = Trial(compiled.plan, compiled.proof, example, torch.device("cpu"))
    trial.rest(COSTS)
    assert len(looked) >= 2


@pytest.mark.parametrize("times", [[0.01] * 8, [0.3, 0.2, 0.1, 0.2]])
def test_the_reference_is_timed_a_few_times_and_the_median_counts(times: list[float]) -> None:
    given = iter(times)
    reference = Reference.of(lambda seconds: next(given), torch.device("cpu"))
    assert reference.seconds == sorted(times[1:])[len(times[1:]) // 2]


def test_so_many_sweeps_are_looked_at_as_are_made_in_halves() -> None:
    assert SWEEPS % 2 == 0

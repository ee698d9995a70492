"""``captured``: the recorded calls, step by step, without sweeps and without the Python around them."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import pytest
import torch
from plans import MADE
from rows import ROWS
from systems import randn
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import ffcompiler as ffc
from ffcompiler.choice.choose import CAPTURED, NEAR, Outlook, best_of, next_to_run
from ffcompiler.choice.contest import PAIRS, Contest
from ffcompiler.choice.convergence import Shape
from ffcompiler.choice.reference import Reference
from ffcompiler.choice.timing import Left
from ffcompiler.plan import Candidate, Costs, Method, Schedule
from ffcompiler.proof import NO_PROOF
from ffcompiler.runtime.record import Ending

pytestmark = pytest.mark.usefixtures("one_thread")
Function = Any


def cells() -> tuple[Function, Tensor]:
    cell = nn.GRUCell(3, 4).requires_grad_(False)

    def run(x: Tensor) -> Tensor:
        h, left = torch.zeros(2, 4), []
        for t in range(x.shape[1]):
            h = cell(x[:, t], h)
            left.append(h)
        return torch.stack(left, 1)

    return run, randn(2, 20, 3)


def marked() -> tuple[Function, Tensor]:
    return lambda x: ffc.fori_loop(0, 20, lambda t, h: 0.5 * h + x[:, t], torch.zeros(2, 3)), randn(2, 20, 3)


def sampler() -> tuple[Function, Tensor]:
    weight = torch.triu(randn(12, 12), 1)

    def run(noise: Tensor) -> Tensor:
        x = torch.zeros_like(noise)
        for i in range(12):
            x[:, i] = torch.tanh(x @ weight)[:, i] + noise[:, i] * torch.rand(3)
        return x

    return run, randn(3, 12)


def repeated() -> tuple[Function, Tensor]:
    def run(u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for _ in range(12):
            x = torch.tanh(0.3 * x + u)
        return x

    return run, randn(3, 4)


def deep() -> tuple[Function, Tensor]:
    layers = nn.Sequential(*[m for k in range(4, 9) for m in (nn.Linear(k, k + 1), nn.Tanh())]).requires_grad_(False)
    return lambda x: layers(x), randn(2, 4)


MAKERS = {make.__name__: make for make in (cells, marked, sampler, repeated, deep)}


@pytest.mark.parametrize("name", MAKERS)
def test_the_recorded_calls_have_the_bits_of_the_function_and_leave_its_generator(name: str, tmp_path: Path) -> None:
    function, example = MAKERS[name]()
    compiled = ffc.compile(function, (example,), schedule="captured")
    assert compiled.plan.schedule.method is Method.CAPTURED
    for seed, x in enumerate((example, -0.5 * example, torch.full_like(example, torch.nan))):
        torch.manual_seed(seed)
        expected, state = function(x), torch.get_rng_state()
        torch.manual_seed(seed)
        result, record = compiled.run(x)
        assert torch.equal(result.view(torch.int32), expected.view(torch.int32)) or bool(expected.isnan().all())
        assert torch.equal(torch.get_rng_state(), state)
        assert record.ending is Ending.CAPTURED and not record.sweeps
    assert compiled.verify(example).equal
    compiled.save(tmp_path / "steps.ffc")
    torch.manual_seed(0)
    expected = function(example)
    torch.manual_seed(0)
    assert torch.equal(ffc.load(tmp_path / "steps.ffc")(example), expected)


@pytest.mark.parametrize("name", ["stacked_cells", "drawing", "sample_and_score", "encoder_decoder"])
def test_several_loops_are_made_one_after_the_other(name: str) -> None:
    function, args = ROWS[name][0]()
    compiled = ffc.compile(function, args, schedule="captured")
    torch.manual_seed(3)
    expected = tree_leaves(function(*args))
    torch.manual_seed(3)
    result, record = compiled.run(*args)
    assert all(map(torch.equal, tree_leaves(result), expected))
    assert [part.ending for part in record.parts] == [Ending.CAPTURED] * len(compiled.plan.parts)


def python_calls(function: Any, name: str) -> int:
    """How often Python enters functions of that name meanwhile."""
    entered: list[str] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            entered.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return entered.count(name)


def test_python_in_the_steps_is_left_out() -> None:
    x = randn(2, 20, 3)

    def one_of_the_steps(h: Tensor, t: int) -> Tensor:
        return torch.relu(0.5 * h + x[:, t])

    def run(h: Tensor) -> Tensor:
        return ffc.fori_loop(0, 20, lambda t, h: one_of_the_steps(h, t), h)

    compiled, h = ffc.compile(run, (torch.zeros(2, 3),), schedule="captured"), torch.ones(2, 3)
    assert python_calls(lambda: compiled(h), "one_of_the_steps") == 0
    assert python_calls(lambda: compiled.reference(h), "one_of_the_steps") == 20
    assert torch.equal(compiled(h), run(h))


def test_changed_weights_are_seen() -> None:
    cell = nn.GRUCell(3, 4).requires_grad_(False)

    def run(x: Tensor) -> Tensor:
        h = torch.zeros(2, 4)
        for t in range(20):
            h = cell(x[:, t], h)
        return h

    x = randn(2, 20, 3)
    compiled = ffc.compile(run, (x,), schedule="captured")
    cell.weight_hh.mul_(0.5)
    result, record = compiled.run(x)
    assert torch.equal(result, run(x)) and record.ending is Ending.CAPTURED


def test_windows_are_not_for_whole_steps() -> None:
    function, x = marked()
    with pytest.raises(ffc.ScheduleError, match="whole steps"):
        ffc.compile(function, (x,), schedule="captured+windows")


# ---------------------------------------------------------------------------------------------------- the choice

SEQUENTIAL = Candidate(Schedule(Method.SEQUENTIAL), 0.1, 0, "the reference")
JACOBI = Candidate(Schedule(Method.JACOBI), 0.05, 3, "ran")


@pytest.mark.parametrize(
    ("steps", "sweeps", "taken"),
    [
        (0.07, 0.2, Method.CAPTURED),
        (0.07, 0.05, Method.JACOBI),
        (0.0505, 0.05, Method.CAPTURED),  # as fast but for noise, and simpler
        (0.2, 0.095, Method.SEQUENTIAL),  # too little gained by sweeps
        (0.098, 0.2, Method.SEQUENTIAL),  # not faster than the function by more than noise
    ],
)
def test_recorded_calls_are_a_candidate_like_others(steps: float, sweeps: float, taken: Method) -> None:
    captured = Candidate(CAPTURED, steps, 0, "ran")
    jacobi = Candidate(JACOBI.schedule, sweeps, 3, "ran")
    assert best_of(SEQUENTIAL, [captured, jacobi]).schedule.method is taken
    assert NEAR > 1.0


def test_they_take_no_place_of_a_candidate_that_sweeps() -> None:
    captured = Candidate(CAPTURED, 0.09, 0, "ran")
    waiting = Candidate(JACOBI.schedule, 0.01, 3, "told", predicted=0.01, measured=False)
    assert next_to_run([captured], [waiting], 0.1, limit=1) == waiting
    assert next_to_run([], [Candidate(CAPTURED, 0.05, 0, "told", measured=False)], 0.1) is not None


def test_the_explanation_says_that_nothing_is_swept() -> None:
    function, x = marked()
    compiled = ffc.compile(function, (x,), schedule="captured")
    text = str(compiled.explain())
    assert "captured" in text and "0 sweeps" not in text


class SlowMoments:
    """A trial whose machine takes another time in every moment; recorded calls take 0.8 of the reference's."""

    def __init__(self) -> None:
        self.pace = itertools.cycle([1.0, 3.0, 0.5, 2.0])
        self.now, self.times = 1.0, list[float]()

    def reference(self, limit: float) -> float:
        return 0.1 * self.now

    def run(self, schedule: Schedule, costs: Costs, reference_seconds: float) -> tuple[Candidate, bool]:
        return self.again(Candidate(schedule, 0.0, 0, "ran"), reference_seconds), True

    def again(self, candidate: Candidate, reference_seconds: float) -> Candidate:
        self.now = next(self.pace)
        self.times.append(0.08 * self.now)
        return replace(candidate, seconds=median(self.times))

    def last(self, schedule: Schedule) -> float:
        return self.times[-1]

    def was_ended(self, schedule: Schedule) -> bool:
        return False


def test_recorded_calls_are_held_against_the_reference_of_the_same_moment() -> None:
    trial: Any = SlowMoments()
    reference = Reference(trial.reference, torch.device("cpu"), [0.1])
    costs = Costs(0.1 / 12, 1.0, 1.0, 0.0, captured=0.02)
    outlook = Outlook(MADE, NO_PROOF, lambda schedule: Shape(12), costs, 0.1)
    contest = Contest(trial, outlook, [CAPTURED], reference, Left(60.0), lambda *told: None, {})
    (captured,), wrong = contest.held()
    assert wrong is None and captured.seconds == pytest.approx(0.8 * reference.seconds)
    assert captured.note == "1.2x the reference's speed" and len(contest.pairs) > PAIRS
    assert contest.outlook.reference_seconds == reference.seconds
    assert contest.outlook.costs.captured == pytest.approx(0.8 * contest.outlook.costs.step)

"""What a step of a recurrence does with its number: masks by length, times of a diffusion, numbers of a schedule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from systems import bold, randn
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.runtime.record import Ending

pytestmark = pytest.mark.usefixtures("one_thread")
T = 24
X = randn(2, T, 4)
LENGTHS = torch.tensor([T, 9])
TABLE = nn.Embedding(T, 4).requires_grad_(False)
TOWARDS = nn.Linear(1, 4).requires_grad_(False)
Use = Callable[[Tensor, int], Tensor]

EXACT: dict[str, Use] = {
    "a mask by length": lambda h, t: h * (t < LENGTHS).float()[:, None],
    "the same by where": lambda h, t: torch.where((t < LENGTHS)[:, None], h, 0 * h),
    "the same by masked_fill": lambda h, t: h.masked_fill((t >= LENGTHS)[:, None], 0.0),
    "one position": lambda h, t: h + (torch.arange(4) == t % 4).float(),
    "the state compared": lambda h, t: h * (h > t / T).float(),
    "a number less the state": lambda h, t: (1 + t) - h,
    "a bound": lambda h, t: h.clamp(max=1 + t / T),
    "bounds": lambda h, t: h.clamp(-2 - t, 1 + t),
    "a literal": lambda h, t: h * torch.tensor(t / T),
    "a list of numbers": lambda h, t: h + torch.tensor([t / T, 1.0, -t / T, 2.0]),
    "a row of a table": lambda h, t: h + TABLE(torch.tensor([t, t])),
    "filled": lambda h, t: h.masked_fill(h > 0, t / T),
    "a triangle": lambda h, t: h * torch.tril(torch.ones(4, 4), t % 2 + 1)[0],
}
ROUNDED: dict[str, Use] = {
    "a power": lambda h, t: h.abs() ** (1 + t / T),
    "a rate to the power": lambda h, t: h * torch.tensor(0.9) ** t,
    "between": lambda h, t: torch.lerp(h, h.tanh(), t / T),
    "a scaled sum": lambda h, t: torch.add(h, h.tanh(), alpha=t / T),
    "a slope": lambda h, t: F.leaky_relu(h, t / T),
    "bounds of tanh": lambda h, t: F.hardtanh(h, -2 - t, 2 + t),
    "a threshold": lambda h, t: F.threshold(h, t / T, 0.25),
    "a remainder": lambda h, t: h % (1 + t),
    "an embedding of the time": lambda h, t: h + TOWARDS(torch.tensor([[t / T]])),
}


def marked(use: Use) -> Callable[[Tensor], Tensor]:
    """A filter that does so in each step."""

    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(0, T, lambda t, h: use(0.5 * h + x[:, t], t) * 0.5, torch.zeros(2, 4))

    return run


def plain(use: Use) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        h = torch.zeros(2, 4)
        for t in range(T):
            h = use(0.5 * h + x[:, t], t) * 0.5
        return h

    return run


@pytest.mark.parametrize("write", [marked, plain])
@pytest.mark.parametrize("name", EXACT)
def test_sweeps_have_the_bits_of_steps_that_use_their_number(
    name: str, write: Callable[[Use], Callable[[Tensor], Tensor]], tmp_path: Path
) -> None:
    function = write(EXACT[name])
    compiled = bold(ffc.compile(function, (X,), schedule="jacobi"))
    for x in (X, -3 * X):
        result, record = compiled.run(x)
        assert record.ending is Ending.SWEEPS and torch.equal(result, function(x))
    compiled.save(tmp_path / "numbers.ffc")
    assert torch.equal(ffc.load(tmp_path / "numbers.ffc")(X), function(X))


@pytest.mark.parametrize("name", ROUNDED)
def test_under_a_tolerance_sweeps_come_near_steps_that_use_their_number(name: str) -> None:
    function = marked(ROUNDED[name])
    compiled = bold(ffc.compile(function, (X,), schedule="jacobi", equality=ffc.tolerance(1e-6, 1e-6)))
    for x in (X, -3 * X):
        result, record = compiled.run(x)
        assert record.ending is Ending.SWEEPS
        torch.testing.assert_close(result, function(x), atol=1e-4, rtol=1e-4)


def test_what_is_made_once_may_round_as_it_likes() -> None:
    """Ahead of the sweeps and after them each step is made by itself: only the state has to be exact."""
    inward, outward = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 3).requires_grad_(False)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        h, left = torch.zeros(2, 4), []
        for t in range(T):
            h = 0.5 * h + torch.tanh(inward(x[:, t]))
            left.append(torch.softmax(outward(h), -1))
        return torch.stack(left, 1), h

    compiled = bold(ffc.compile(run, (X,), schedule="jacobi"))
    for x in (X, -3 * X):
        result, record = compiled.run(x)
        assert record.ending is Ending.SWEEPS
        assert all(map(torch.equal, result, run(x)))


def test_a_shape_that_differs_from_step_to_step_is_refused_with_its_line() -> None:
    def run(x: Tensor) -> Tensor:
        return ffc.fori_loop(
            0, T, lambda t, h: 0.5 * h + torch.ones(2, t + 1).sum(1, keepdim=True) + x[:, t], torch.zeros(2, 4)
        )

    compiled = ffc.compile(run, (X,))
    assert "test_step_numbers.py" in (compiled.plan.refusal or "") and torch.equal(compiled(X), run(X))

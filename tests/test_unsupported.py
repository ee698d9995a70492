"""What cannot be captured or parallelised: the message has what, where and what to do; the function runs all the same.

One program for each obstacle that was met in published sequential loops and is still in the way.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from systems import randn
from test_catalogue import assert_same
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.runtime.record import Ending

LOWER = torch.ones(6, 6).triu(1)
HERE = Path(__file__).name

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Obstacle:
    """A program, how its message begins, the text of the line that it must name, and the advice."""

    function: Callable[[Tensor], Any]
    what: str
    where: str  # in the source of this file; "" where there is no line to name
    advice: str


def written(x: Tensor, i: int, value: Tensor) -> Tensor:
    x = x.clone()
    x[:, i] = value
    return x


def looped(body: Callable[[int, Tensor, Tensor], Any]) -> Callable[[Tensor], Any]:
    return lambda u: ffc.fori_loop(0, 6, lambda i, x: body(i, x, u), torch.zeros_like(u))


OBSTACLES: dict[str, Obstacle] = {}


def obstacle(what: str, where: str, advice: str) -> Callable[[Callable[[Tensor], Any]], Callable[[Tensor], Any]]:
    def add(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        OBSTACLES[function.__name__] = Obstacle(function, what, where, advice)
        return function

    return add


def step_obstacle(what: str, where: str, advice: str) -> Callable[[Callable[[int, Tensor, Tensor], Any]], None]:
    def add(body: Callable[[int, Tensor, Tensor], Any]) -> None:
        OBSTACLES[body.__name__] = Obstacle(looped(body), what, where, advice)

    return add


@step_obstacle("differs from the first step: the test at", "if u[0, i] > 0:  # data", "torch.where")
def branch_on_data(i: int, x: Tensor, u: Tensor) -> Tensor:
    if u[0, i] > 0:  # data
        return written(x, i, u[:, i])
    return written(x, i, (x @ LOWER + u)[:, i])


@step_obstacle("becomes a Python number", "token = int(x[0, i].item())", "keep the decision in tensors")
def item(i: int, x: Tensor, u: Tensor) -> Tensor:
    token = int(x[0, i].item())
    return written(x, i, (x @ LOWER)[:, i] + u[:, token])


@step_obstacle("becomes a Python number", "row = x[0].tolist()", "keep the decision in tensors")
def tolist(i: int, x: Tensor, u: Tensor) -> Tensor:
    row = x[0].tolist()
    return written(x, i, (x @ LOWER)[:, i] + row[0] + u[:, i])


@step_obstacle("used the number", "* random.random()", "(a counter, numpy, random, a file)")
def python_random(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, (x @ LOWER)[:, i] + u[:, i] * random.random())


@step_obstacle("used the number", "* float(np.random.rand())", "(a counter, numpy, random, a file)")
def numpy_random(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, (x @ LOWER)[:, i] + u[:, i] * float(np.random.rand()))


@step_obstacle("becomes a Python number", "float(np.tanh(u.numpy()).max())", "keep the decision in tensors")
def numpy_in_the_loop(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, (x @ LOWER)[:, i] + u[:, i] * float(np.tanh(u.numpy()).max()))


BN = nn.BatchNorm1d(6, affine=False)


@step_obstacle("native_batch_norm", "BN(x @ LOWER)[:, i] + u[:, i]  # training", "model.eval()")
def train_mode_batch_norm(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, BN(x @ LOWER)[:, i] + u[:, i]  # training
                   )  # fmt: skip


@step_obstacle(
    "is not among those that ffcompiler admits", "torch.special.bessel_j0(x @ LOWER)", "write it with others"
)
def an_operator_that_is_not_admitted(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, torch.special.bessel_j0(x @ LOWER)[:, i] + u[:, i])


@step_obstacle("differs from the first step", "return written(x, i, (y + u)[:, i])", "out of the loop")
def a_first_step_of_its_own(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x @ LOWER if i == 0 else torch.tanh(x @ LOWER)
    return written(x, i, (y + u)[:, i])


@step_obstacle("returns a state of another form", "lambda u: ffc.fori_loop(0, 6", "allocate all of it before the loop")
def a_growing_state(i: int, x: Tensor, u: Tensor) -> Tensor:
    return torch.cat([x, u[:, i : i + 1]], 1)


@obstacle("may hold tensors only", "return ffc.fori_loop(0, 6, counted, (torch.zeros_like(u), 0))", "keep counters out")
def a_counter_in_the_state(u: Tensor) -> Any:
    def counted(i: int, state: Any) -> Any:
        x, n = state
        return written(x, i, (x @ LOWER + u)[:, i]), n + 1

    return ffc.fori_loop(0, 6, counted, (torch.zeros_like(u), 0))


LOG = torch.zeros(6)


@step_obstacle("exists outside the loop's state", "LOG[i] = u[0, i]", "return the changed tensor")
def a_log_on_the_side(i: int, x: Tensor, u: Tensor) -> Tensor:
    LOG[i] = u[0, i]
    return written(x, i, (x @ LOWER + u)[:, i])


@obstacle("becomes a Python number", "for _ in range(int(x.abs().sum())):", "keep the decision in tensors")
def a_trip_count_that_depends_on_data(u: Tensor) -> Tensor:
    x = ffc.fori_loop(0, 6, lambda i, x: written(x, i, (x @ LOWER + u)[:, i]), torch.zeros_like(u))
    for _ in range(int(x.abs().sum())):
        x = x + 1
    return x


@step_obstacle("draws random numbers", "torch._standard_gamma(u.abs() + 1)", "draw before")
def draws_by_rejection(i: int, x: Tensor, u: Tensor) -> Tensor:
    return written(x, i, (x @ LOWER)[:, i] + torch._standard_gamma(u.abs() + 1)[:, i])


@step_obstacle("reads a tensor that an earlier step", "x + F.relu(kept[-1])", "hand it on in the state")
def state_in_an_attribute(i: int, x: Tensor, u: Tensor) -> Tensor:
    y = x + F.relu(kept[-1]) if len(kept) > 1 and i else x
    kept.append(y * 0.5)
    return written(x, i, (y @ LOWER + u)[:, i])


kept: list[Tensor] = [torch.zeros(3, 6)]


def line_of(text: str) -> int:
    """The number of the line with ``text`` in this file, outside of the decorators."""
    lines = Path(__file__).read_text(encoding="utf-8").split("\n")
    found = [n for n, line in enumerate(lines, 1) if text in line and f'"{text}"' not in line]
    assert len(found) == 1, (text, found)
    return found[0]


def fresh() -> None:
    """Everything on the side as at the start."""
    del kept[1:]
    LOG.zero_()
    BN.reset_running_stats()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)


@pytest.mark.parametrize("name", OBSTACLES)
def test_the_message_says_what_where_and_what_to_do(name: str) -> None:
    case = OBSTACLES[name]
    fresh()
    with pytest.raises(ffc.CaptureError) as caught:
        ffc.compile(case.function, (randn(3, 6),), on_unsupported="raise")
    message = str(caught.value)
    assert case.what in message and case.advice in message, message
    assert f"{HERE}:{line_of(case.where)} in" in message, message
    assert len(message.split("\n")) >= 2, "what and where, then what to do"


@pytest.mark.parametrize("name", OBSTACLES)
def test_with_sequential_the_function_runs_as_it_is_whatever_schedule_is_asked_for(name: str) -> None:
    case = OBSTACLES[name]
    fresh()
    compiled = ffc.compile(case.function, (randn(3, 6),), schedule="jacobi", on_unsupported="sequential")
    assert case.what in str(compiled.explain())
    for seed in (0, 3):
        u = randn(3, 6, seed=seed)
        fresh()
        got, record = compiled.run(u)
        fresh()
        with torch.no_grad():
            assert_same(got, case.function(u))
        assert record.ending is Ending.SEQUENTIAL and case.what in record.detail


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda f, x: ffc.compile(f, x), "example_args is a Tensor; it is the tuple"),
        (lambda f, x: ffc.compile(f, (x,), schedule=None), "schedule is None; it is the name of one"),
        (lambda f, x: ffc.compile(f, (x,), equality=1e-3), "not 0.001"),
        (lambda f, x: ffc.tolerance(float("nan")), "rtol is nan"),
        (lambda f, x: ffc.tolerance(1e-6, -1), "atol is -1"),
        (lambda f, x: ffc.tolerance("1e-6"), "rtol is '1e-6'"),
    ],
)
def test_arguments_that_make_no_sense_are_told(call: Any, says: str) -> None:
    with pytest.raises(ffc.FFCompilerError, match=re.escape(says)):
        call(looped(lambda i, x, u: x), torch.zeros(3, 6))


def descended(x: Tensor) -> Tensor:
    """Steps of a gradient descent, differentiated on the way."""
    h = torch.zeros(3, requires_grad=True)
    for t in range(6):
        (slope,) = torch.autograd.grad(((x[:, t] * 0.1 + h) ** 2).sum(), h)
        h = (h - 0.1 * slope).detach().requires_grad_()
    return h * 1.0


@pytest.mark.parametrize("options", [{"schedule": "jacobi"}, {"on_unsupported": "raise"}])
def test_a_function_that_differentiates_is_refused_by_its_line(options: Any) -> None:
    with pytest.raises(ffc.CaptureError, match=r"needs gradients.*test_unsupported.py:\d+ in descended") as caught:
        ffc.compile(descended, (randn(3, 6),), **options)
    assert "torch.enable_grad()" in str(caught.value)


def test_a_function_that_differentiates_runs_with_the_callers_gradients() -> None:
    compiled = ffc.compile(descended, (randn(3, 6),), schedule="jacobi", on_unsupported="sequential")
    for shape in ((3, 6), (3, 8)):  # the second one is compiled on first use
        x = randn(*shape, seed=1)
        got, record = compiled.run(x)
        assert_same(got, descended(x))
        assert got.requires_grad and "needs gradients" in record.detail


def test_the_advice_to_differentiate_inside_enable_grad_is_one_that_helps() -> None:
    def mended(x: Tensor) -> Tensor:
        h = torch.zeros(3)
        for t in range(6):
            with torch.enable_grad():
                h = h.detach().requires_grad_()
                (slope,) = torch.autograd.grad(((x[:, t] * 0.1 + h) ** 2).sum(), h)
            h = (h - 0.1 * slope).detach()
        return h

    x = randn(3, 6)
    compiled = ffc.compile(mended, (x,), schedule="jacobi", equality=ffc.tolerance(1e-6, 1e-6))
    assert str(compiled.plan.schedule) == "jacobi"
    assert_same(compiled(x), mended(x))


@pytest.mark.parametrize("options", [{}, {"schedule": "jacobi"}, {"on_unsupported": "sequential"}])
def test_what_the_function_itself_raises_on_its_example_is_raised_as_it_is(options: Any) -> None:
    def wrong(x: Tensor) -> Tensor:
        return x @ x

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ffc.compile(wrong, (randn(3, 6),), **options)


class TwoCaches(nn.Module):
    """Two lists grow, and what is added to them is not made from all of what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for _ in range(8):
            key, value = self.layer(x).chunk(2, -1)
            keys.append(key)
            values.append(value)
            weight = torch.softmax((torch.stack(keys, 1) * x[:, None]).sum(-1), -1)
            x = torch.tanh(x + (weight[..., None] * torch.stack(values, 1)).sum(1))
        return x


@pytest.mark.parametrize("equality", ["bits", ffc.tolerance(1e-4, 1e-4)])
def test_a_tolerance_is_not_advised_where_it_would_be_refused_too(equality: Any) -> None:
    with pytest.raises(ffc.CaptureError, match="works on a larger array") as caught:
        ffc.compile(TwoCaches(), (randn(3, 6),), equality=equality, on_unsupported="raise")
    assert "it is not one over a padded array" in str(caught.value)
    assert "ffc.tolerance(" not in str(caught.value)


def test_a_buffer_that_steps_write_is_not_blamed_on_steps_that_differ() -> None:
    class Ring(nn.Module):
        def __init__(self, own: bool) -> None:
            super().__init__()
            self.register_buffer("held", torch.zeros(3, 6))
            self.own = own

        def forward(self, x: Tensor) -> Tensor:
            if self.own:
                held = self.held.clone()
                held.zero_()
            else:
                held = self.held.zero_()
            for t in range(12):
                held[:, t % 6] = torch.tanh(x[:, t % 6] + held.sum(1) * 0.1)
            return held * 1.0

    with pytest.raises(ffc.CaptureError, match=re.escape("buffer = self.buffer.clone()")) as caught:
        ffc.compile(Ring(False), (randn(3, 6),), on_unsupported="raise")
    assert "which step differs" not in str(caught.value)
    ffc.compile(Ring(True), (randn(3, 6),), schedule="jacobi", equality=ffc.tolerance())  # the advice helps


def test_a_number_that_is_only_printed_is_advised_to_be_returned() -> None:
    def logs(x: Tensor) -> Tensor:
        for _ in range(8):
            x = torch.tanh(x * 0.5)
            f"{x.sum().item()}"
        return x

    with pytest.raises(ffc.CaptureError, match="only printed or logged: return the tensor"):
        ffc.compile(logs, (randn(3, 6),), on_unsupported="raise")

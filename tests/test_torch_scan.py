"""`torch._higher_order_ops.scan`, compiled as the loop over its steps that it is."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Any

import pytest
import torch
from systems import randn
from test_catalogue import unguarded
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

import ffcompiler as ffc
from ffcompiler import respelled
from ffcompiler.capture import capture, scans
from ffcompiler.program import Loop, Recurrence
from ffcompiler.runtime.equality import same_bits
from ffcompiler.trees import flatten

NEAR = ffc.tolerance(1e-6, 1e-6)
Function = Callable[[Tensor], Any]


@pytest.fixture(autouse=True)
def _forget_what_was_compiled() -> Iterator[None]:
    """Torch compiles all scans of a process as one function, and only so many of them."""
    yield
    torch.compiler.reset()


def tensors(result: Any) -> list[Tensor]:
    return [leaf for _, leaf in flatten(result)[0]]


def equal(a: Any, b: Any) -> bool:
    assert flatten(a)[1] == flatten(b)[1]
    assert [t.stride() for t in tensors(a)] == [t.stride() for t in tensors(b)]
    return all(map(same_bits, tensors(a), tensors(b)))


def close(a: Any, b: Any) -> bool:
    return all(torch.allclose(p, q, 1e-4, 1e-4) for p, q in zip(tensors(a), tensors(b), strict=True))


# ---------------------------------------------------------------------------------------------------- bodies


def tanh(x: Tensor) -> Any:
    """Of ``[T, 2, 3]``, as all of these."""

    def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(x + h @ U)
        return h, h.clone()

    return scan(step, x.new_zeros(2, 3), x)


U = randn(3, 3) * 0.4
CELL = nn.GRUCell(3, 3)
for number, parameter in enumerate(CELL.parameters()):
    parameter.data = randn(*parameter.shape, seed=number) * 0.5


def cell(x: Tensor) -> Any:
    def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = CELL(x, h)
        return h, h * 2

    h, ys = scan(step, x.new_zeros(2, 3), x)
    return {"last": h, "all": torch.tanh(ys)}


def written_out(x: Tensor) -> Any:
    w = [U, U.flip(0), U.flip(1), -U]

    def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        r, z = torch.sigmoid(x @ w[0] + h @ w[1]), torch.sigmoid(x @ w[2] + h @ w[3])
        h = (1 - z) * torch.tanh(x + r * (h @ w[0])) + z * h
        return h, h.sum(1)

    return scan(step, x.new_ones(2, 3), x)


def pytrees(x: Tensor) -> Any:
    def step(carry: Any, x: Any) -> Any:
        a = torch.tanh(x["now"] + carry["a"] @ U)
        return {"a": a, "b": [carry["a"] * 0.5]}, [a * 2, {"old": carry["b"][0] + x["then"][0]}]

    return scan(step, {"a": x.new_zeros(2, 3), "b": [x.new_ones(2, 3)]}, {"now": x, "then": (x + 1,)})


def backwards(x: Tensor) -> Any:
    return scan(lambda h, x: (torch.tanh(x + h @ U), h * 1.5), x.new_zeros(2, 3), x, reverse=True)


def along_another(x: Tensor) -> Any:
    x = x.transpose(0, 2).contiguous()  # [3, 2, T]
    return scan(lambda h, x: (torch.tanh(x + (h.T @ U).T), h[:, 0] * 1.5), x.new_zeros(3, 2), x, dim=-1)


def along_another_backwards(x: Tensor) -> Any:
    x = x.transpose(0, 1).contiguous()
    return scan(lambda h, x: (torch.tanh(x + h @ U), (h.sin(), h * 2)), x.new_zeros(2, 3), x, dim=1, reverse=True)


def nothing_left(x: Tensor) -> Any:
    return scan(lambda h, x: (torch.tanh(x + h @ U), ()), x.new_zeros(2, 3), x)[0]


def by_partial(x: Tensor) -> Any:
    def step(u: Tensor, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(x + h @ u), h + 1

    return torch._higher_order_ops.scan(functools.partial(step, U), x.new_zeros(2, 3), x)


BODIES: tuple[Function, ...] = (
    tanh,
    cell,
    written_out,
    pytrees,
    backwards,
    along_another,
    along_another_backwards,
    nothing_left,
    by_partial,
)


@pytest.mark.parametrize("run", BODIES)
def test_a_scan_of_torch_is_captured_as_its_loop(run, tmp_path):
    compiled = ffc.compile(run, (randn(20, 2, 3),))
    loop = compiled.plan.program.loop
    assert isinstance(loop, Loop) and loop.hi - loop.lo == 20
    assert bool(loop.collected) == (run is not nothing_left)
    compiled.save(tmp_path / "scan.ffc")
    other = randn(20, 2, 3, seed=4)
    with torch.no_grad():
        expected = run(other)
        assert equal(compiled(other), expected)
        assert equal(ffc.load(tmp_path / "scan.ffc").reference(other), expected)


@pytest.mark.parametrize("run", [tanh, cell, pytrees, along_another_backwards])
def test_sweeps_solve_a_scan_of_torch_within_a_tolerance(run):
    compiled = ffc.compile(run, (randn(90, 2, 3),), equality=NEAR, schedule="jacobi")
    assert compiled.plan.refusal is None and isinstance(compiled.plan.system, Recurrence)
    other = randn(90, 2, 3, seed=4)
    with torch.no_grad():
        expected = run(other)
        assert close(compiled(other), expected)
        results, record = unguarded(compiled, "jacobi", [other])
    assert close(results, tensors(expected)) and len(record.sweeps) < 90


def test_sweeps_give_the_bits_of_a_scan_of_torch_whose_operators_are_rounded_correctly():
    def run(x: Tensor) -> Any:
        return scan(lambda s, x: (0.7 * s + x, s - x), x.new_zeros(2, 3), x)

    compiled = ffc.compile(run, (randn(40, 2, 3),), schedule="jacobi")
    other = randn(40, 2, 3, seed=4)
    results, _ = unguarded(compiled, "jacobi", [other])
    assert compiled.plan.refusal is None and equal(results, tensors(run(other)))


@pytest.mark.parametrize("run", [tanh, nothing_left])
def test_the_scan_of_torch_is_not_asked_to_go_on_from_its_middle(run):
    assert not capture(run, (randn(20, 2, 3),)).marked


def test_draws_inside_a_scan_of_torch_are_the_same_for_the_same_seed():
    def run(x: Tensor) -> Any:
        return scan(lambda h, x: (torch.tanh(x + h) + torch.rand(2, 3), h * 2), x.new_zeros(2, 3), x)

    x = randn(20, 2, 3)
    compiled = ffc.compile(run, (x,), equality=NEAR, schedule="jacobi")
    assert compiled.plan.refusal is None
    torch.manual_seed(3)
    got, after = compiled(x), torch.get_rng_state()
    torch.manual_seed(3)
    assert close(got, run(x)) and torch.equal(after, torch.get_rng_state())


def test_a_scan_of_torch_inside_a_marked_loop_is_part_of_its_step():
    def run(x: Tensor) -> Tensor:
        def step(i: int, h: Tensor) -> Tensor:
            return torch.tanh(scan(lambda c, y: (c * 0.5 + y, ()), h, x[i : i + 3])[0])

        return ffc.fori_loop(0, 10, step, x.new_zeros(2, 3))

    x = randn(12, 2, 3)
    captured = capture(run, (x,))
    assert captured.program.loop.hi == 10 and not captured.marked
    assert equal(ffc.compile(run, (x,)).reference(x), run(x))


def test_two_scans_of_torch_in_a_row_are_two_loops():
    def run(x: Tensor) -> Any:
        _, ys = scan(lambda h, x: (torch.tanh(x + h @ U), h * 2), x.new_zeros(2, 3), x)
        return scan(lambda h, y: (torch.tanh(y - h @ U), h + 1), x.new_zeros(2, 3), ys, reverse=True)

    compiled = ffc.compile(run, (randn(20, 2, 3),), equality=NEAR, schedule="jacobi")
    assert compiled.plan.refusal is None and len(compiled.plan.parts) == 2
    other = randn(20, 2, 3, seed=4)
    with torch.no_grad():
        assert close(compiled(other), run(other))


def test_another_length_is_another_signature():
    compiled = ffc.compile(tanh, (randn(20, 2, 3),), equality=NEAR, schedule="jacobi")
    longer = randn(30, 2, 3, seed=2)
    assert close(compiled(longer), tanh(longer)) and len(compiled.variants) == 2


# ---------------------------------------------------------------------------------------------------- containment


def test_what_torch_calls_is_put_back_after_a_capture_and_after_one_that_fails():
    own = scans._MODULE[scans._PLACE]
    capture(tanh, (randn(20, 2, 3),))
    assert scans._MODULE[scans._PLACE] is own

    def fails(x: Tensor) -> Any:
        tanh(x)
        raise LookupError

    with pytest.raises(LookupError):
        capture(fails, (randn(20, 2, 3),))
    assert scans._MODULE[scans._PLACE] is own


def test_other_threads_run_the_scan_of_torch_while_one_is_recorded():
    x, recording, done = randn(20, 2, 3), Event(), Event()
    seen: list[str] = []

    def record() -> None:
        with scans.scans_as_loops(seen.append):
            recording.set()
            done.wait(60)

    thread = Thread(target=record)
    thread.start()
    recording.wait(60)
    try:
        assert scans._MODULE[scans._PLACE] is scans._compile_or_loop
        ran: list[Any] = []
        with scans.scans_as_loops(ran.append):
            here = tanh(x)
        assert ran and equal(tanh(x), here) and len(ran) == 1
    finally:
        done.set()
        thread.join()
    assert not seen and scans._MODULE[scans._PLACE] is not scans._compile_or_loop


# ---------------------------------------------------------------------------------------------------- torch.compile


def test_a_capture_does_not_load_what_torch_compile_needs():
    """Which takes longer than recording a thousand steps."""
    program = (
        "import sys, torch\n"
        "from ffcompiler.capture import capture\n"
        "layer = torch.nn.GRU(3, 4)\n"
        "capture(lambda x: layer(x), (torch.randn(9, 2, 3),))\n"
        "capture(lambda x: sum(torch.tanh(x[i]) for i in range(9)), (torch.randn(9, 2, 3),))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "import torch._dynamo\n"
        "assert capture(lambda x: layer(x), (torch.randn(9, 2, 3),)).program.loop.hi == 9\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# ---------------------------------------------------------------------------------------------------- refusals


def lengths(x: Tensor) -> Any:
    return scan(lambda h, xs: (torch.tanh(xs[0] + xs[1] + h), h * 2), x.new_zeros(2, 3), (x[:-2], x))


def read(x: Tensor) -> Any:
    return scan(lambda h, x: (torch.tanh(x + h * x.sum().item()), h * 2), x.new_zeros(2, 3), x)


@pytest.mark.parametrize(("run", "words"), [(lengths, "lengths [18, 20]"), (read, "becomes a Python number")])
def test_what_is_not_supported_is_refused_by_name_and_runs_as_it_is(run, words):
    x = randn(20, 2, 3)
    compiled = ffc.compile(run, (x,))
    assert words in compiled.plan.refusal and "test_torch_scan.py" in compiled.plan.refusal
    with torch.no_grad():
        assert equal(compiled(x), run(x))
    with pytest.raises(ffc.CaptureError):
        ffc.compile(run, (x,), schedule="jacobi")


def aliased(x: Tensor) -> Any:
    return scan(lambda h, x: (torch.tanh(x + h), h), x.new_zeros(2, 3), x)


def branching(x: Tensor) -> Any:
    return scan(lambda h, x: (h + x if len(x) > 1 else h, "text"), x.new_zeros(2, 3), x)


@pytest.mark.parametrize("run", [aliased, branching])
def test_what_torch_itself_refuses_raises_as_without_the_compiler(run):
    x = randn(20, 2, 3)
    with pytest.raises(Exception) as own:  # noqa: PT011 - whatever it is
        run(x)
    with pytest.raises((type(own.value), ffc.FFCompilerError)):
        ffc.compile(run, (x,))(x)


@pytest.mark.parametrize("equality", ["bits", NEAR])
def test_a_scan_of_torch_that_does_not_give_what_its_steps_give_is_refused(equality, monkeypatch):
    own = respelled.Live.reference

    def other(self: Any, args: Any, kwargs: Any) -> Any:
        carry, ys = own(self, args, kwargs)
        return carry, ys + 1e-3 * (torch.arange(20) == 11).reshape(-1, 1, 1)

    monkeypatch.setattr(respelled.Live, "reference", other)
    refusal = ffc.compile(tanh, (randn(20, 2, 3),), equality=equality).plan.refusal
    assert refusal is not None and "the scan of torch" in refusal and "differ by more than" in refusal


def test_a_scan_of_torch_that_works_otherwise_than_is_known_is_refused(monkeypatch):
    x = randn(20, 2, 3)
    whole = scans._as_loop
    monkeypatch.setattr(scans, "_as_loop", lambda *args: whole(*args, ()))
    assert "ffc.scan" in ffc.compile(tanh, (x,)).plan.refusal
    monkeypatch.undo()
    monkeypatch.setattr(scans, "_PLACE", "of another name")
    assert "higher-order operators" in ffc.compile(tanh, (x,)).plan.refusal


def test_other_operators_of_higher_order_are_refused_by_name():
    def run(x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    x = randn(5, 2)
    compiled = ffc.compile(run, (x,))
    assert "higher-order operators" in compiled.plan.refusal
    assert equal([compiled(x)], [run(x)])

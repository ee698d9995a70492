"""What a function leaves in attributes and entries: left by compiled calls as by its own, or named and left alone."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from systems import bold, randn
from test_catalogue import assert_same
from torch import Tensor, nn

import ffcompiler as ffc
from ffcompiler.live import Live
from ffcompiler.runtime.record import Ending
from ffcompiler.written.text import parse

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 6
LOWER = randn(SIZE, SIZE, seed=1).tril(-1) * 0.5
LAYERS = [randn((k + 1) * SIZE, SIZE, seed=k) * 0.3 for k in range(4)]
LAST: Tensor | None = None


class Holder:
    """An object of the user's own."""


class Leaving(nn.Module):
    """A sampler that leaves things behind as ``act`` does."""

    buffer: Tensor

    def __init__(self, act: Callable[[Leaving, Tensor], Any]) -> None:
        super().__init__()
        self.act = act
        self.entries: dict[Any, Any] = {}
        self.listed = [torch.zeros(1), torch.zeros(1)]
        self.holder = Holder()
        self.register_buffer("buffer", torch.zeros(2))

    def forward(self, u: Tensor) -> Any:
        return self.act(self, u)

    def left(self) -> Any:
        """All that is held, as one tree."""
        own = {k: v for k, v in vars(self).items() if k not in ("act", "holder") and not k.startswith("_")}
        return [sorted(own.items()), self.buffer, sorted(vars(self.holder).items()), LAST]


def step(x: Tensor, u: Tensor, i: int) -> Tensor:
    return torch.tanh(x @ LOWER.T)[:, i] + u[:, i]


def array(u: Tensor) -> Tensor:
    x = torch.zeros_like(u)
    for i in range(SIZE):
        x[:, i] = step(x, u, i)
    return x


def an_attribute(m: Any, u: Tensor) -> Tensor:
    m.x = array(u)
    return torch.sigmoid(m.x)


def its_result(m: Any, u: Tensor) -> Tensor:
    m.x = array(u)
    return m.x


def a_view_of_its_result(m: Any, u: Tensor) -> Tensor:
    x = array(u)
    m.part = x[:, 1:3]
    return x


def its_argument(m: Any, u: Tensor) -> Tensor:
    m.u = u
    return array(u)


def a_tree_with_constants(m: Any, u: Tensor) -> Tensor:
    x = array(u)
    m.state = (x, {"sum": x.sum(1)}, 3, "three", None)
    return x * 2


def an_entry(m: Any, u: Tensor) -> Tensor:
    m.entries["x"] = array(u)
    return m.entries["x"] * 2


def a_place_in_a_list(m: Any, u: Tensor) -> Tensor:
    m.listed[1] = array(u)
    return m.listed[1] * 2


def a_buffer(m: Any, u: Tensor) -> Tensor:
    m.buffer = array(u).sum(1)
    return m.buffer * 2


def an_attribute_of_an_object(m: Any, u: Tensor) -> Tensor:
    m.holder.x = array(u)
    return m.holder.x * 2


def a_global(m: Any, u: Tensor) -> Tensor:
    global LAST  # noqa: PLW0603 - what is tested
    LAST = array(u)
    return LAST * 2


def what_is_made_before_the_loop(m: Any, u: Tensor) -> Tensor:
    m.twice = u * 2
    return array(m.twice)


def the_state_in_each_step(m: Any, u: Tensor) -> Tensor:
    m.x = torch.zeros_like(u)
    for i in range(SIZE):
        new = m.x.clone()
        new[:, i] = step(m.x, u, i)
        m.x = new
    return m.x * 2


def the_state_in_a_marked_loop(m: Any, u: Tensor) -> Tensor:
    def body(i: int, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, i] = step(x, u, i)
        m.x = x
        return x

    m.before = u + 1
    x = ffc.fori_loop(0, SIZE, body, torch.zeros_like(u))
    m.after = x.sum(1)
    return x * 2


def a_marked_loop_in_place(m: Any, u: Tensor) -> Tensor:
    def body(i: int, x: Tensor) -> Tensor:
        x[:, i] = step(x, u, i)
        m.x = x
        return x

    return ffc.fori_loop(0, SIZE, body, torch.zeros_like(u)) * 2  # type: ignore[no-any-return]


def things_in_two_loops(m: Any, u: Tensor) -> Tensor:
    m.first = array(u)
    second = array(torch.sin(m.first))
    m.both = [m.first, second]
    return second * 2


def a_repeated_map(m: Any, u: Tensor) -> Tensor:
    x = torch.zeros_like(u)
    for _ in range(SIZE + 2):
        x = torch.tanh(x @ LOWER.T) + u
    m.x = x
    return x * 2


def features_of_a_chain(m: Any, u: Tensor) -> Tensor:
    h = u
    for k, weight in enumerate(LAYERS):
        h = torch.cat([h, torch.tanh(h @ weight) * k], 1)
        m.features = h
    return h.sum(1)


def draws(m: Any, u: Tensor) -> Tensor:
    m.drawn = torch.rand(len(u))
    x = torch.zeros_like(u)
    for i in range(SIZE):
        x[:, i] = step(x, u, i) + m.drawn + torch.randn(len(u))
    m.x = x
    return x * 2


def a_masked_buffer(m: Any, u: Tensor) -> Tensor:
    x = torch.zeros_like(u)
    for i in range(SIZE):
        m.buffer.data = m.buffer * 1.0
        x[:, i] = step(x, u, i) + m.buffer.sum()
    m.x = x
    return x * 2


ACTS = [
    an_attribute, its_result, a_view_of_its_result, its_argument, a_tree_with_constants, an_entry, a_place_in_a_list,
    a_buffer, an_attribute_of_an_object, a_global, what_is_made_before_the_loop, the_state_in_each_step,
    the_state_in_a_marked_loop, a_marked_loop_in_place, things_in_two_loops, a_repeated_map, features_of_a_chain, draws,
    a_masked_buffer,
]  # fmt: skip
acts = pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)


def assert_leaves_the_same(compiled: ffc.Compiled, mine: Leaving, theirs: Leaving, u: Tensor) -> Ending:
    """The same result and the same things left behind, in bits."""
    torch.manual_seed(0)
    result, record = compiled.run(u)
    left = mine.left()
    torch.manual_seed(0)
    with torch.no_grad():
        expected = theirs(u)
    assert_same(result, expected)
    assert_same(left, theirs.left())
    return record.ending


@acts
def test_calls_leave_what_the_function_leaves(act: Any, tmp_path: Path) -> None:
    mine, theirs = Leaving(act), Leaving(act)
    compiled = bold(ffc.compile(mine, (randn(2, SIZE),), schedule="jacobi"))
    endings = [assert_leaves_the_same(compiled, mine, theirs, randn(2, SIZE, seed=k)) for k in range(3)]
    assert endings[1:] == [Ending.SWEEPS] * 2  # the first one may find what no later one does
    told = [line for line in compiled.explain().why if "leave" in line]
    assert len(told) == 1 and told[0].startswith("calls also leave what the function leaves in ")
    assert compiled.verify(randn(2, SIZE, seed=9)).equal
    assert parse(str(compiled.plan)) == compiled.plan
    compiled.save(tmp_path / "p.ffc")
    loaded = ffc.load(tmp_path / "p.ffc")
    torch.manual_seed(1)
    result = loaded(randn(2, SIZE, seed=5))
    torch.manual_seed(1)
    with torch.no_grad():
        assert_same(result, theirs(randn(2, SIZE, seed=5)))
    assert any(
        "the function also leaves tensors in " in line and "an artifact" in line for line in loaded.explain().why
    )


@acts
def test_sequential_calls_and_other_signatures_leave_it_too(act: Any) -> None:
    mine, theirs = Leaving(act), Leaving(act)
    compiled = ffc.compile(mine, (randn(2, SIZE),))
    for batch in (2, 3, 3):
        assert_leaves_the_same(compiled, mine, theirs, randn(batch, SIZE, seed=batch))


def test_a_run_that_hands_over_leaves_it_too() -> None:
    mine, theirs = Leaving(a_tree_with_constants), Leaving(a_tree_with_constants)
    compiled = bold(ffc.compile(mine, (randn(2, SIZE),), schedule="jacobi"))
    assert_leaves_the_same(compiled, mine, theirs, randn(2, SIZE))
    u = randn(2, SIZE)
    u[0, 2] = float("inf")
    assert assert_leaves_the_same(compiled, mine, theirs, u) is Ending.PREMISE


class Layers(nn.Module):
    """Two recurrent layers, each leaving its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(3, 4), nn.GRUCell(4, 4)])
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(randn(*p.shape, seed=k) * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        outputs, h = [], torch.zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = self.cells[0](x[:, t], h)
            outputs.append(h)
        self.first, self.early = h, outputs[0] + 1
        y, outputs, h = torch.stack(outputs, 1), [], torch.zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = self.cells[1](y[:, t], h)
            outputs.append(h)
        self.second, self.between = h, y
        return torch.stack(outputs, 1)


@pytest.mark.parametrize(("schedule", "parts"), [("wavefront", 1), ("jacobi", 2)])
def test_loops_in_a_row_leave_what_each_has_made_whether_or_not_they_are_solved_as_one(
    schedule: str, parts: int
) -> None:
    mine, theirs = Layers(), Layers()
    compiled = bold(ffc.compile(mine, (randn(2, 12, 3),), schedule=schedule, equality=ffc.tolerance(1e-6, 1e-6)))
    assert len(compiled.plan.parts) == parts
    for seed in range(2):
        x = randn(2, 12, 3, seed=seed)
        result, _ = compiled.run(x)
        with torch.no_grad():
            torch.testing.assert_close(result, theirs(x), atol=1e-5, rtol=1e-5)
        for name in ("first", "early", "second", "between"):
            torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), atol=1e-5, rtol=1e-5)


def test_what_is_left_shares_memory_exactly_where_the_function_lets_it() -> None:
    mine = Leaving(its_result)
    compiled = bold(ffc.compile(mine, (randn(2, SIZE),), schedule="jacobi"))
    assert compiled(randn(2, SIZE)) is mine.x
    mine = Leaving(its_argument)
    compiled = bold(ffc.compile(mine, (randn(2, SIZE),), schedule="jacobi"))
    u = randn(2, SIZE)
    compiled(u)
    assert mine.u is u

    def apart(m: Any, u: Tensor) -> Tensor:
        x = array(u)
        m.first = x[:, :2].clone()
        return x

    mine = Leaving(apart)
    compiled = bold(ffc.compile(mine, (randn(2, SIZE),), schedule="jacobi"))
    kept = compiled(u)
    expected = kept[:, :2].clone()
    kept.zero_()
    assert_same(mine.first, expected)


def test_it_is_left_in_the_module_that_stands_there_now() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Leaving(an_attribute)

        def forward(self, u: Tensor) -> Any:
            return self.inner(u)

    model = Outer()
    compiled = bold(ffc.compile(model, (randn(2, SIZE),), schedule="jacobi"))
    compiled(randn(2, SIZE))
    old, model.inner = model.inner, Leaving(an_attribute)
    before = old.x
    _, record = compiled.run(randn(2, SIZE, seed=1))
    assert record.ending is Ending.SWEEPS and old.x is before
    assert_same(model.inner.x, array(randn(2, SIZE, seed=1)))


# ---------------------------------------------------------------------------------------------------- not left


def within_steps(m: Any, u: Tensor) -> Tensor:
    x = torch.zeros_like(u)
    for i in range(SIZE):
        m.hidden = torch.tanh(x @ LOWER.T)
        x[:, i] = m.hidden[:, i] + u[:, i]
    m.pair = (x, m.hidden)
    return x * 2


def written_afterwards(m: Any, u: Tensor) -> Tensor:
    m.hidden = m.pair = x = array(u)
    y = array(torch.sin(x))
    x.mul_(2)
    return y


def in_an_object_made_anew(m: Any, u: Tensor) -> Tensor:
    x = array(u)
    m.hidden = m.pair = torch.distributions.Normal(x, 1.0, validate_args=False)
    return x * 2


@pytest.mark.parametrize("act", [within_steps, written_afterwards, in_an_object_made_anew], ids=lambda f: f.__name__)
def test_what_is_no_value_of_the_program_is_named_and_left_as_it_was(act: Any) -> None:
    mine, theirs = Leaving(act), Leaving(act)
    mine.hidden = mine.pair = kept = torch.ones(1)
    compiled = bold(ffc.compile(mine, (randn(2, SIZE),), schedule="jacobi"))
    result = compiled(randn(2, SIZE, seed=1))
    mine.hidden = mine.pair = kept
    with torch.no_grad():
        assert_same(result, theirs(randn(2, SIZE, seed=1)))
    for _ in range(2):
        assert_same(compiled(randn(2, SIZE, seed=2)), theirs(randn(2, SIZE, seed=2)))
    told = [line for line in compiled.explain().why if "leave" in line]
    assert len(told) == 1 and "the function also leaves tensors in" in told[0]
    assert "hidden" in told[0] and "pair" in told[0] and "leave those as they were" in told[0]


def test_a_place_that_is_another_in_every_call_is_named() -> None:
    def act(m: Any, u: Tensor) -> Tensor:
        m.entries[f"call at {time.perf_counter_ns()}"] = x = array(u)
        m.x = x
        return x * 2

    mine = Leaving(act)
    compiled = bold(ffc.compile(mine, (randn(2, SIZE),), schedule="jacobi"))
    assert_same(compiled(randn(2, SIZE, seed=1)), array(randn(2, SIZE, seed=1)) * 2)
    assert "the function also leaves tensors in" in str(compiled.explain())


def a_state_in_a_tuple(m: Any, u: Tensor) -> Tensor:
    m.state = (array(u + m.state[0]),)
    return m.state[0] * 2


def a_counter_in_a_list(m: Any, u: Tensor) -> Tensor:
    m.state = [m.state[0], *m.state[1:-1], m.state[-1] + 1]
    return array(u) * m.state[-1]


@pytest.mark.parametrize(
    ("act", "first"),
    [(a_state_in_a_tuple, (torch.zeros(()),)), (a_counter_in_a_list, [0, 1])],
    ids=["a tensor in a tuple", "a number in a list"],
)
def test_a_state_that_calls_begin_with_is_refused_in_containers_too(act: Any, first: Any) -> None:
    mine, theirs = Leaving(act), Leaving(act)
    mine.state, theirs.state = copy.deepcopy(first), copy.deepcopy(first)
    with pytest.raises(ffc.CaptureError, match="each call of the function leaves something else in 'state'"):
        ffc.compile(mine, (randn(2, SIZE),), schedule="jacobi")
    compiled = ffc.compile(mine, (randn(2, SIZE),))
    for k in range(3):
        assert_leaves_the_same(compiled, mine, theirs, randn(2, SIZE, seed=k))


def test_verifying_sees_what_is_not_left_right(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Leaving(an_attribute)
    compiled = bold(ffc.compile(mine, (randn(2, SIZE),), schedule="jacobi"))
    compiled(randn(2, SIZE))
    assert compiled.verify(randn(2, SIZE, seed=1)).equal
    put = Live.leave
    monkeypatch.setattr(Live, "leave", lambda self, values: put(self, {k: v + 1 for k, v in values.items()}))
    found = compiled.verify(randn(2, SIZE, seed=2))
    assert not found.differences and not found.equal
    assert "left in x: output 0 differs" in str(found)

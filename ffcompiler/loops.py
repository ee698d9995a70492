"""The loops a user marks for capture: ordinary Python loops when run eagerly.

``fori_loop`` asks the call-local *driver* how its steps are to be run. Without one it is the plain loop, so the
user's function stays its own reference. Capture, replay and the handover from a parallel schedule to sequential
execution are all drivers: there is one mechanism, and it belongs to the call (a ``ContextVar``), not to the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .errors import UsageError
from .trees import flatten, unflatten

Body = Callable[[int, Any], Any]


class LoopDriver(Protocol):
    """Runs the steps ``lo .. hi - 1`` of one loop in place of the plain loop."""

    def run(self, lo: int, hi: int, body: Body, init: Any) -> Any: ...


_driver: ContextVar[LoopDriver | None] = ContextVar("ffcompiler_loop_driver", default=None)


def fori_loop(lo: int, hi: int, body: Body, init: Any) -> Any:
    """The state after ``for i in range(lo, hi): state = body(i, state)``, starting from ``init``.

    ``i`` is a Python int, so the body may index and slice with it. Run eagerly this is exactly that loop; compiled,
    it marks the loop whose steps become the equations of the triangular system.

    >>> fori_loop(0, 4, lambda i, total: total + i, 0)
    6
    """
    driver = _driver.get()
    if driver is None:
        return run_steps(range(lo, hi), body, init)
    with drive_loops(None):  # a loop inside the body is the body's own business
        return driver.run(lo, hi, body, init)


def scan(f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any = None, length: int | None = None) -> Any:
    """``(carry, ys)`` after ``carry, y = f(carry, x)`` for every entry ``x`` of ``xs``, starting from ``init``.

    ``xs`` is a tensor whose first dimension counts the steps, or a pytree of such; ``x`` holds one entry of each, and
    ``ys`` is what the steps gave as ``y``, stacked along a new first dimension. ``y`` may be a tensor, a pytree, or
    None. Without ``xs`` there are ``length`` steps, and ``x`` is None. Run eagerly this is a plain Python loop;
    compiled, it marks the loop as `fori_loop` does. ``f`` must not write into what it is given.

    >>> total, sums = scan(lambda total, x: (total + x, total + x), torch.tensor(0), torch.tensor([1, 2, 3]))
    >>> total, sums
    (tensor(6), tensor([1, 3, 6]))

    Raises: `UsageError` for tensors of different lengths, for no steps, which leave no ``ys`` to tell their shape, and
    for a ``y`` with leaves that are neither tensors nor None.
    """
    stacks, tree = ([], None) if xs is None else pytree.tree_flatten(xs)
    steps = _length(stacks, length)
    driver = _driver.get()
    if driver is None:
        return _scan_plainly(f, init, stacks, None if isinstance(xs, Tensor) else tree, steps)
    body = Scan(f, stacks, tree)
    with drive_loops(None):
        carry = driver.run(0, steps, body, init)
        return carry, body.ys(steps)


def _length(stacks: Sequence[Tensor], length: int | None) -> int:
    lengths = {len(stack) for stack in stacks} | ({length} if length is not None else set())
    if len(lengths) != 1 or 0 in lengths:
        raise UsageError(
            f"scan over tensors of lengths {sorted(lengths)}: all must have one and the same number of entries, at "
            "least 1\n  without tensors to go through, give length="
        )
    return int(lengths.pop())


def _scan_plainly(f: Any, init: Any, stacks: Sequence[Tensor], tree: Any, steps: int) -> tuple[Any, Any]:
    """As one would write it: entries by ``unbind``, results in a list that is stacked. ``tree`` None: of one tensor."""
    carry, ys = init, []
    if not stacks:
        entries: Any = (None for _ in range(steps))
    elif tree is None:
        entries = stacks[0].unbind()
    else:
        entries = (pytree.tree_unflatten(x, tree) for x in zip(*(stack.unbind() for stack in stacks), strict=True))
    for x in entries:
        carry, y = f(carry, x)
        ys.append(y)
    return carry, _stacked(ys)


def _stacked(ys: Sequence[Any]) -> Any:
    if isinstance(ys[0], Tensor):
        return torch.stack(ys)  # type: ignore[arg-type]
    columns = zip(*(pytree.tree_leaves(y) for y in ys), strict=True)
    return pytree.tree_unflatten(list(map(_stack, columns)), pytree.tree_structure(ys[0]))


def _stack(column: tuple[Any, ...]) -> Tensor | None:
    if column[0] is None:
        return None
    if not isinstance(column[0], Tensor):
        raise UsageError(
            f"a step of a scan gives a {type(column[0]).__name__} ({column[0]!r}) to be stacked; give tensors, or None"
        )
    return torch.stack(column)


@dataclass(slots=True)
class Scan:
    """The body of a scan for a driver of loops; keeps what its steps leave besides the carry.

    A driver that keeps those itself says what they are (``kept``: for each tensor of ``y`` its stack).
    """

    f: Callable[[Any, Any], tuple[Any, Any]]
    stacks: Sequence[Tensor]
    tree: Any
    left: list[Any] = field(default_factory=list)
    kept: Sequence[Tensor] | None = None

    def __call__(self, i: int, carry: Any) -> Any:
        x = pytree.tree_unflatten([stack[i] for stack in self.stacks], self.tree) if self.stacks else None
        carry, y = self.f(carry, x)
        self.left.append(y)
        return carry

    def ys(self, steps: int) -> Any:
        """What all steps left, stacked; in place of those that were not run what the last one left."""
        if self.kept is not None:
            stacks, (leaves, tree) = iter(self.kept), pytree.tree_flatten(self.left[0])
            return pytree.tree_unflatten([None if leaf is None else next(stacks) for leaf in leaves], tree)
        if not self.left:  # no step had to be run: then nothing is kept of any
            return None
        return _stacked([*self.left, *self.left[-1:] * (steps - len(self.left))])


def run_steps(steps: range, body: Body, state: Any) -> Any:
    """The plain loop."""
    for i in steps:
        state = body(i, state)
    return state


@contextmanager
def drive_loops(driver: LoopDriver | None) -> Iterator[None]:
    """Let ``driver`` run the marked loops of this call (of this thread, or asyncio task) only."""
    token = _driver.set(driver)
    try:
        yield
    finally:
        _driver.reset(token)


def is_driven() -> bool:
    """Whether marked loops of this thread, or asyncio task, are run by a driver."""
    return _driver.get() is not None


@dataclass(frozen=True)
class Resume:
    """Start the marked loop at step ``start`` from ``state``: the first ``start - lo`` steps are already the answer.

    A body that writes into the first state (``in_place``) may have it read under its old name after the loop: then the
    first state itself takes on ``state``.
    """

    start: int
    state: tuple[Tensor, ...]
    in_place: bool

    def run(self, lo: int, hi: int, body: Body, init: Any) -> Any:
        leaves, tree = flatten(init)
        state = [leaves[0][1].copy_(self.state[0])] if self.in_place else list(self.state)
        return run_steps(range(max(lo, self.start), hi), body, unflatten(tree, state))


class StepEnded(Exception):
    """A single step has been run; ``state``: the leaves of what it left."""

    def __init__(self, state: list[Any]) -> None:
        super().__init__()
        self.state = state


@dataclass(frozen=True)
class StepAlone(Resume):
    """Run step ``start`` from ``state``, and nothing after it. Raises: `StepEnded`."""

    def run(self, lo: int, hi: int, body: Body, init: Any) -> Any:
        after = super().run(lo, min(self.start + 1, hi), body, init)
        raise StepEnded([leaf for _, leaf in flatten(after)[0]])


@dataclass
class TimedSteps:
    """Run steps of the marked loop for a limited time, to tell how long all of them would take."""

    seconds: float
    whole: float = 0.0  # seconds for all steps of all loops, extrapolated
    taken: float = 0.0  # seconds for those that were run
    cut: bool = False  # some were left out

    def run(self, lo: int, hi: int, body: Body, init: Any) -> Any:
        started, state, done = time.perf_counter(), init, 0
        for i in range(lo, hi):
            state = body(i, state)
            done += 1
            if time.perf_counter() - started > self.seconds:
                self.cut = self.cut or done < hi - lo
                break
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        taken = time.perf_counter() - started
        self.whole += taken * (hi - lo) / max(done, 1)
        self.taken += taken
        return state

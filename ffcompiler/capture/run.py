"""One recorded run of the user's function: prologue, every step of the marked loop, epilogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import CaptureError
from ..graph import TensorType
from ..loops import Body, Scan, drive_loops
from ..randomness import States
from ..trees import flatten, unflatten
from .behind import Left, left_by
from .draws import unvalidated
from .facts import tensor_type, user_line
from .noise import drawn_anew
from .record import Made, OtherwiseError, Outside, Recorder, Segment, Token
from .scans import scans_as_loops
from .spelling import Spelled
from .unify import Steps

REAL_SECONDS = 20.0
"""After this long the remaining steps are confirmed on tensors without values."""


@dataclass(slots=True)
class Run:
    """What a recorded run gives; also the driver of the marked loop while it is recorded."""

    recorder: Recorder
    first: Run | None = None  # the run to agree with, if this is the second one
    keep: frozenset[int] = frozenset({0})  # positions of the steps whose states are kept
    only_kept: bool = False  # run no other steps: the state is then not the reference's, but a state all the same
    progress: Callable[[int, int], None] | None = None
    alone: bool = False  # the loop is a recurrent layer
    real_seconds: float = field(default_factory=lambda: REAL_SECONDS)

    lo: int = 0
    hi: int = 0
    tree: str = ""
    prologue: Segment = field(default_factory=Segment)
    made: dict[int, Made] = field(default_factory=dict)  # outside handle -> the prologue's call that made it
    init: tuple[Token, ...] = ()
    steps: Steps = field(default_factory=Steps)
    states: dict[int, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = field(default_factory=dict)
    final: tuple[Tensor, ...] = ()
    epilogue: Segment = field(default_factory=Segment)
    result: Any = None
    in_place: bool = False  # the body writes into the first state
    complete: bool = True  # every step ran with values
    loops: int = 0
    seconds: float = 0.0
    generators: States = field(default_factory=dict)  # before the run
    marked: bool = True  # by the user; else the loop was found
    types: dict[int, TensorType] = field(default_factory=dict)  # of outside handles that the recorder does not know
    stacks: tuple[Outside, ...] = ()  # of what steps are handed besides the state
    collected: int = 0  # how many of a step's results are kept besides the state
    given: dict[Outside, Tensor] | None = None  # of a later part of a function: what earlier ones hand on
    left: tuple[Tensor, ...] = ()  # what was collected: of a run that left steps out, not what the steps left
    behind: tuple[Left, ...] = ()  # what the function has left in attributes and entries
    left_behind: tuple[Tensor, ...] = ()  # the tensors in it

    def record(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Run:
        self.prologue = self.recorder.segment
        self.generators = self.recorder.stream.states
        spelled = Spelled(self.recorder, (self.first or self).alone)
        self.recorder.expected = () if self.first is None else self.first.prologue.tests
        scans = scans_as_loops(self.recorder.note_compiled)
        with torch.no_grad(), drive_loops(self), spelled, scans, unvalidated(), self.recorder:
            self.result = function(*args, **kwargs)
        self.recorder.stream.check_all()
        self.marked = self.marked and not self.recorder.compiled  # torch's own scan begins with its first step
        if self.loops == 0:
            raise CaptureError(
                "the function runs no marked loop, so there is nothing to solve in parallel\n"
                "  write its sequential loop as ffc.fori_loop(lo, hi, body, init)"
            )
        leaves = [leaf for _, leaf in flatten(self.result)[0]]
        self.recorder.check_places(range(len(self.recorder.outside)))
        self.recorder.check_overwritten()
        self.epilogue.results = tuple(self.recorder.token(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        self.behind, self.left_behind = left_by(function, self.recorder, self.result)
        self.epilogue.behind = tuple(token for one in self.behind for token in one.tokens)
        return self

    def run(self, lo: int, hi: int, body: Body, init: Any) -> Any:
        """The loop driver: the marked loop, recorded."""
        self.loops += 1
        if self.loops > 1:  # a first run has counted the loops: those of several are found in the recording
            raise CaptureError(
                f"the function runs a second marked loop at {user_line()} where it ran one before\n"
                "  how many loops it runs depends on something besides its arguments"
            )
        if hi <= lo:
            raise CaptureError(
                f"the marked loop at {user_line()} has no steps (lo={lo}, hi={hi})\n"
                "  compile with an example on which it has some"
            )
        leaves, self.tree = _state_leaves(init)
        self.lo, self.hi = lo, hi
        self.made = self.recorder.close_prologue(leaves)
        self.init = tuple(self.recorder.token(t) for t in leaves)
        init_leaves = list(leaves)
        leaves = [self.recorder.apart(t) for t in leaves]
        started = time.perf_counter()
        state = unflatten(self.tree, leaves)
        for position, i in enumerate(range(lo, hi)):
            slow = time.perf_counter() - started > self.real_seconds and not self.recorder.overwritten
            if self.first is None and position > 1 and slow:
                self._confirm_without_values(range(i, hi), body, leaves)
                break
            if not self.only_kept or position in self.keep:
                state, leaves = self._step(position, i, body, state, leaves)
            else:
                self._draw_only()
            self._report(position + 1)
        self.seconds = time.perf_counter() - started
        self.recorder.check_places(range(len(self.recorder.outside)))
        self.recorder.in_loop = False
        self.in_place = self.recorder.has_written(init_leaves)
        self.final = _copies(leaves)
        if isinstance(body, Scan):
            self._keep(body)
        self.epilogue = self.recorder.begin(leaves, self.left)
        self.recorder.expected = () if self.first is None else self.first.epilogue.tests
        self.recorder.with_sources = True
        return state

    def _keep(self, scan: Scan) -> None:
        """Stack what the steps of a scan left; the function itself cannot go on from the middle of a scan."""
        rows = [_left_by(y) for y in scan.left]
        self.collected, self.marked = len(rows[0]), not rows[0]
        rows = [row for row in rows if not any(isinstance(t, FakeTensor) for t in row)]
        rows += rows[-1:] * (self.hi - self.lo - len(rows))
        with _disable_current_modes():
            self.left = tuple(map(torch.stack, zip(*rows, strict=True)))
        scan.kept = self.left

    def _report(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, self.hi - self.lo)

    def _confirm_without_values(self, steps: range, body: Body, leaves: list[Tensor]) -> None:
        """The remaining steps on tensors without values: what they call and with which numbers, not what they compute.

        A reference can take minutes, and its values are not needed here; that every step is like the first one is.
        """
        self.complete = False
        with _disable_current_modes(), FakeTensorMode(allow_non_fake_inputs=True) as fake, self.recorder:
            fakes: list[Tensor] = [fake.from_tensor(t) for t in leaves]
            state = unflatten(self.tree, fakes)
            for i in steps:
                state, fakes = self._step(i - self.lo, i, body, state, fakes)
                self._draw_only()
                self._report(i - self.lo + 1)

    def _draw_only(self) -> None:
        """Draw what a step that is not run with values would draw."""
        template = (self.first or self).steps.template
        assert template is not None
        with _disable_current_modes():
            for drawn in drawn_anew(template):
                self.recorder.stream.note(drawn.device)

    def _step(
        self, position: int, i: int, body: Body, state: Any, leaves: Sequence[Tensor]
    ) -> tuple[Any, list[Tensor]]:
        with torch._C.DisableTorchFunction():  # nothing that is looked at here is a call of the user's
            before = _copies(leaves) if position in self.keep else ()
            self.recorder.with_sources = position == 0
            segment = self.recorder.begin(leaves)
        template = (self.first or self).steps.template
        self.recorder.expected = () if template is None else template.tests
        state = self._called(body, i, state)
        with torch._C.DisableTorchFunction():
            return state, self._take_in(position, i, body, state, leaves, segment, before)

    def _take_in(
        self,
        position: int,
        i: int,
        body: Body,
        state: Any,
        leaves: Sequence[Tensor],
        segment: Segment,
        before: tuple[Tensor, ...],
    ) -> list[Tensor]:
        """Note what a step has made of ``leaves``."""
        self.recorder.check_places(range(len(self.recorder.outside)) if position < 2 else self.recorder.overwritten)
        after, tree = _state_leaves(state)
        if tree != self.tree or [tensor_type(t) for t in after] != [tensor_type(t) for t in leaves]:
            raise CaptureError(
                f"step {i} of the loop at {user_line()} returns a state of another form: "
                f"{_form(after, leaves)} in place of {_form(leaves, after)}\n"
                "  every step must return a state like the one that it is given, laid out alike in memory "
                "(.contiguous()): allocate all of it before the loop, and write into it"
            )
        segment.results = tuple(self.recorder.token(t) for t in after)
        if isinstance(body, Scan):
            segment.results += self._left_tokens(body)
        if self.first is None:
            self.steps.add(i, segment)
        else:
            self.first.steps.confirm_numbers(position, i, segment)
        if position in self.keep:
            self.states[position] = (before, _copies(after))
        return after

    def _called(self, body: Body, i: int, state: Any) -> Any:
        try:
            return body(i, state)
        except OtherwiseError as other:
            if self.first is not None:
                raise
            raise CaptureError(
                f"step {i} differs from the first step: {other}\n  the compiled loop has one body, which goes one way "
                "in all steps: keep the decision in tensors (torch.where)"
            ) from None

    def _left_tokens(self, scan: Scan) -> tuple[Token, ...]:
        """What the last step of a scan left: copies of what it did not make itself."""
        leaves, tree = pytree.tree_flatten(scan.left[-1])
        leaves = [t if t is None or isinstance(self.recorder.token(t), Made) else t.clone() for t in leaves]
        scan.left[-1] = pytree.tree_unflatten(leaves, tree)
        return tuple(self.recorder.token(t) for t in leaves if t is not None)


def _left_by(y: Any) -> list[Tensor]:
    """The tensors among what a step of a scan left."""
    return [leaf for leaf in pytree.tree_leaves(y) if leaf is not None]


def _state_leaves(state: Any) -> tuple[list[Tensor], str]:
    found, tree = flatten(state)
    leaves = [leaf for _, leaf in found]
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise CaptureError(
                f"the state of the marked loop at {user_line()} holds a {type(leaf).__name__} ({leaf!r}); it may hold "
                "tensors only\n  keep counters out of it (the body is given the step's number), or make it a tensor"
            )
    return leaves, tree


def _copies(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies of the same layout, unseen by the recorder."""
    with _disable_current_modes():
        return tuple(empty_like_layout(t).copy_(t) for t in tensors)


def empty_like_layout(t: Tensor) -> Tensor:
    """A tensor with the strides of ``t``, also where those leave gaps; overlapping elements are given places."""
    if any(stride == 0 and size > 1 for size, stride in zip(t.shape, t.stride(), strict=True)):
        return torch.empty_like(t)
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device)


def _form(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[str]:
    """What they are, and how they lie in memory if they differ from ``others`` in nothing else."""
    short = [f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in tensors]
    if [(t.dtype, t.shape) for t in tensors] != [(t.dtype, t.shape) for t in others]:
        return short
    return [f"{text} with strides {list(t.stride())}" for text, t in zip(short, tensors, strict=True)]

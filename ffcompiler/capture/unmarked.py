"""Functions whose loops are plain Python: recorded whole, and rolled up where they repeat themselves.

The function is recorded three times: on the example to find its loop, on the example again to see the state between
some steps, and on other inputs. All three must make the same calls with the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import CaptureError
from ..loops import Body, drive_loops, run_steps
from ..randomness import States
from ..trees import flatten
from .behind import Left, left_by, where_known
from .draws import unvalidated
from .facts import exact_number, tensor_type
from .flat import FlatRecorder, copied
from .gradients import check_without
from .layers import Watched
from .parts import Handed, Joined, Section, attempts, given_values, sections, whole
from .record import Outside, Segment, Token
from .repeats import Repeat
from .restore import Kept, Watch
from .roll import grows, roll
from .rolled import Flat, NotRolledError, Rolled
from .run import Run
from .scans import scans_as_loops
from .spelling import Spelled


class GrowingLoopError(CaptureError):
    """The steps of the loop compute larger and larger arrays. ``repeats``: where in ``run``, likely ones first."""

    def __init__(self, message: str, run: FlatRun, repeats: Sequence[Repeat]) -> None:
        super().__init__(message)
        self.run, self.repeats = run, tuple(repeats)


@dataclass(slots=True)
class Marked:
    """Runs the first step of a marked loop, and notes that there is one."""

    loops: int = 0
    whole: bool = False  # run all steps
    cut: bool = False  # some were left out

    def run(self, lo: int, hi: int, body: Body, init: Any) -> Any:
        self.loops += 1
        end = hi if self.whole else min(lo + 1, hi)
        self.cut = self.cut or end < hi
        return run_steps(range(lo, end), body, init)


@dataclass(slots=True)
class FlatRun:
    """One recorded run."""

    recorder: FlatRecorder
    result: Any = None
    seconds: float = 0.0
    generators: States = field(default_factory=dict)
    behind: tuple[Left, ...] = ()
    left_behind: tuple[Tensor, ...] = ()

    @property
    def segment(self) -> Segment:
        return self.recorder.segment


def warm_up(function: Callable[..., Any], call: Any, kept: Kept, whole: bool = False) -> tuple[int, int]:
    """Run the function once, so that it loads what it loads once; of a marked loop a step, or the ``whole``.

    Gives the number of marked loops, and of the loops that recurrent layers are.
    """
    args, kwargs = call
    driver = Marked(whole=whole)
    try:
        with torch.no_grad(), drive_loops(driver), scans_as_loops(), Watch(kept), Watched() as layers:
            function(*args, **kwargs)
    except Exception as error:
        if driver.cut:  # what comes after the loop was given a state that is not the last
            return warm_up(function, call, kept, whole=True)
        if not _of_dynamo(error):
            check_without(error, function, call, kept)
            raise
        torch.compiler.reset()  # what it has compiled while it was watched does not run otherwise
        raise CaptureError(
            "the function calls torch.compile, or one of torch's higher-order operators (cond, while_loop, "
            "associative_scan): what they are given is compiled before it can be recorded\n  write plain Python\n"
            f"  torch: {str(error).splitlines()[0]}"
        ) from error
    return driver.loops, layers.loops


def _of_dynamo(error: Exception) -> bool:
    return type(error).__module__.startswith("torch._dynamo") or (
        isinstance(error, NotImplementedError) and "HigherOrderOperator" in str(error)
    )


def record_flat(function: Callable[..., Any], call: Any, recorder: FlatRecorder) -> FlatRun:
    """Run the function under the recorder."""
    args, kwargs = call
    run = FlatRun(recorder, generators=recorder.stream.states)
    started = time.perf_counter()
    scans = scans_as_loops(recorder.note_compiled)
    with torch.no_grad(), drive_loops(None), Spelled(recorder), scans, unvalidated(), recorder:
        run.result = function(*args, **kwargs)
    run.seconds = time.perf_counter() - started
    recorder.stream.check_all()
    recorder.look()
    recorder.check_whole()
    leaves = [leaf for _, leaf in flatten(run.result)[0]]
    run.segment.results = tuple(recorder.token(leaf) for leaf in leaves if isinstance(leaf, Tensor))
    run.behind, run.left_behind = left_by(function, recorder, run.result)
    run.segment.behind = tuple(token for one in run.behind for token in one.tokens)
    return run


def flat_of(run: FlatRun, arguments: int) -> Flat:
    """What is known of a recorded run, whose first ``arguments`` handles are arguments."""
    recorder = run.recorder
    starts, memory = recorder.number_starts, recorder.memory
    return Flat(run.segment, starts, memory, lambda h: tensor_type(recorder.outside[h]), arguments=arguments)


def rolled_up(run: FlatRun, arguments: int) -> tuple[Section, ...]:
    """The loops of a recorded run, whose first ``arguments`` handles are arguments. Raises: `CaptureError` if none."""
    recorder, flat = run.recorder, flat_of(run, arguments)
    check_growing(run, flat)
    return sections(flat, recorder.footprints, recorder.overwritten) or (whole(flat, _largest(run, flat)),)


def check_growing(run: FlatRun, flat: Flat) -> None:
    """Raises: `GrowingLoopError` if most of the calls are steps of a loop that are alike but for their sizes."""
    growing: dict[Repeat, str] = {}
    repeats = run.recorder.footprints.repeats()
    for repeat in attempts(repeats):
        try:
            why = grows(flat, repeat)
        except NotRolledError:
            continue
        if why is None:
            break
        growing[repeat] = f"the loop from {run.segment.sources[repeat.start]} on, of {repeat.count} steps: {why}"
    if 2 * _covered(growing) <= len(run.segment.calls):
        return
    raise GrowingLoopError(
        f"each step of a loop works on a larger array than the step before\n  {next(iter(growing.values()))}\n"
        "  operators round by their shape, so only the step itself, run alone, has its bits: certifying them costs "
        "what the loop costs\n"
        "  equality=ffc.tolerance(1e-4, 1e-4) lets the loop be compiled as one over a padded array; or allocate the "
        "array before the loop, give the model all of it in every step, and write one position (x[:, i] = ...): "
        "with a causal model that is the same sampler",
        run,
        list(dict.fromkeys(one for repeat in growing for one in (*_around(repeat, repeats), repeat))),
    )


def _around(repeat: Repeat, repeats: Iterable[Repeat]) -> Iterator[Repeat]:
    """The same loop with the steps that are left out of it, which read an argument where others read a state."""
    for other in repeats:
        if other.period == repeat.period and other.start <= repeat.start and repeat.end <= other.end:
            yield other


def _covered(repeats: Iterable[Repeat]) -> int:
    """How many calls are in one of these stretches."""
    end = covered = 0
    for begin, after in sorted((repeat.start, repeat.end) for repeat in repeats):
        covered += max(0, after - max(begin, end))
        end = max(end, after)
    return covered


def _largest(run: FlatRun, flat: Flat) -> Rolled:
    """The loop of the most calls."""
    recorder = run.recorder
    reasons: list[str] = []
    advice = UNLIKE
    for repeat in attempts(recorder.footprints.repeats()):
        try:
            return roll(flat, repeat, recorder.overwritten)
        except NotRolledError as why:
            line = run.segment.sources[repeat.start]
            reasons.append(f"the {repeat.count} repetitions of {repeat.period} operators from {line} on: {why}")
            advice = why.advice or UNLIKE if len(reasons) == 1 else advice
    found = f"\n  {reasons[0]}" if reasons else ""
    raise CaptureError(
        f"the function runs no loop whose steps are alike, so there is nothing to solve in parallel{found}\n  {advice}"
    )


UNLIKE = (
    "every step must make the same operator calls; write the loop as ffc.fori_loop(lo, hi, body, init) to learn which "
    "step differs"
)
STRAIGHT = 20_000
"""Operator calls that a function without a loop may make: its graph is kept as it was recorded."""
SHARE = 0.25
"""A loop that makes fewer of the function's calls than this is not what there is to solve, if there is a chain."""


def straight(run: FlatRun, why: str) -> Run:
    """A recorded run of a function without a loop, all of it one segment. Raises: `CaptureError` with ``why``."""
    calls = len(run.segment.calls)
    if calls > STRAIGHT:
        raise CaptureError(f"{why}\n  as a graph without a loop it has {calls} operators; at most {STRAIGHT} are kept")
    if run.recorder.overwritten:
        line = next(iter(run.recorder.overwritten.values()))
        raise CaptureError(f"{why}\n  as a graph without a loop it cannot be kept either: {line} writes into a weight")
    made = Run(run.recorder, tree=flatten([])[1], epilogue=run.segment, result=run.result)
    made.behind, made.left_behind = run.behind, run.left_behind
    made.generators, made.seconds, made.marked = run.generators, run.seconds, False
    return made


def looks(cut: Sequence[Section]) -> frozenset[int]:
    """The calls before which what lives is looked at: around some steps, after the last, between sections."""
    around = {s.call(k + after) for s in cut for k in kept_steps(s.rolled.repeat.count) for after in (0, 1)}
    return frozenset(around | {section.begin for section in cut[1:]})


def kept_steps(count: int) -> tuple[int, ...]:
    return tuple(sorted({0, 1, count // 2, count - 1}))


def as_runs(run: FlatRun, cut: Sequence[Section]) -> list[Run]:
    """What recorded runs of the sections would have given, had their loops been marked."""
    runs = [_as_run(run, section) for section in cut]
    behind = where_known(run.behind, [made.epilogue for made in runs])
    for made in runs:
        made.behind, made.left_behind = behind, run.left_behind
    for made, after in zip(runs, cut[1:], strict=False):
        made.result = given_values(run.recorder, after)
    for made, section in zip(runs[1:], cut[1:], strict=True):
        made.generators = run.recorder.generators[section.begin]
    return runs


def _as_run(run: FlatRun, section: Section) -> Run:
    rolled = section.rolled
    count = rolled.repeat.count
    made = Run(run.recorder, hi=count, tree=flatten([0] * len(rolled.leaves))[1])
    made.prologue, made.steps, made.epilogue = rolled.prologue, rolled.steps, rolled.epilogue
    made.made, made.init, made.result = rolled.made, rolled.init, run.result
    made.types, made.stacks, made.collected = rolled.types | section.types, rolled.stacks, rolled.collected
    made.generators, made.seconds, made.marked = run.generators, run.seconds, False
    if section.begin:
        made.given = dict(zip(section.given.values(), given_values(run.recorder, section), strict=True))
    states = {k: (_state(run, section, k), _state(run, section, k + 1)) for k in kept_steps(count)}
    for k, (before, after) in states.items():
        if (whole := _whole(before)) is not None and (left := _whole(after)) is not None:
            made.states[k] = whole, left
    last = states[count - 1][1]
    made.final = tuple(t if t is not None else _stand_in(run, section, i) for i, t in enumerate(last))
    return made


def _state(run: FlatRun, section: Section, step: int) -> list[Tensor | None]:
    """The leaves of the state before a step; None for one that nobody holds any more."""
    seen = run.recorder.seen[section.call(step)]
    return [_value(run, section.original(token), seen) for token in section.rolled.state_tokens(step)]


def _whole(state: list[Tensor | None]) -> tuple[Tensor, ...] | None:
    found = tuple(t for t in state if t is not None)
    return found if len(found) == len(state) else None


def _value(run: FlatRun, key: Handed, seen: Mapping[Token, Tensor]) -> Tensor | None:
    assert not isinstance(key, Joined)
    return run.recorder.outside[key.handle] if isinstance(key, Outside) else seen.get(key)


def _stand_in(run: FlatRun, section: Section, leaf: int) -> Tensor:
    """In place of a last state that nothing reads: the first one."""
    first = _state(run, section, 0)[leaf]
    assert first is not None
    with _disable_current_modes():
        return copied(first)


def require_same(was: FlatRun, now: FlatRun, when: str) -> None:
    """Raises: `CaptureError` with the first call that differs between two runs."""
    a, b = was.segment, now.segment
    for index, (x, y) in enumerate(zip(a.calls, b.calls, strict=False)):
        if x != y:
            raise CaptureError(
                f"{y.op} at {b.sources[index]} is called {when} where {x.op} was called before, or on other values\n"
                "  what the function does depends on the values of its inputs, or on something besides them"
            )
    if len(a.calls) != len(b.calls) or a.results != b.results:
        raise CaptureError(
            f"the function makes {len(b.calls)} operator calls {when} and made {len(a.calls)} before\n"
            "  how many steps it makes depends on the values of its inputs, or on something besides them"
        )
    starts = was.recorder.number_starts
    for index, (m, n) in enumerate(zip(a.numbers, b.numbers, strict=True)):
        if exact_number(m) != exact_number(n):
            call = max(i for i, start in enumerate(starts) if start <= index)
            raise CaptureError(
                f"the number {m!r} is {n!r} {when}: {a.calls[call].op} at {a.sources[call]}\n"
                "  the function depends on something besides its arguments (a counter, numpy, random, a file)"
            )

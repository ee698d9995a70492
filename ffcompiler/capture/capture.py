"""The driver of capture: recorded runs, then graphs with program-wide names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..errors import CaptureError
from ..plan import Tolerance
from ..program import Leaf, Signature
from ..randomness import set_states
from ..trees import flatten, unflatten
from .anew import Anew
from .arguments import describe_arguments, modes_in
from .behind import LeftOtherwiseError, require_alike
from .builder import Builder
from .captured import Captured, Checkpoint, Replay
from .facts import exact_number
from .flat import FlatRecorder
from .growing.check import check_padded, check_results
from .growing.found import find_padded
from .parts import Section
from .record import OtherwiseError, Outside, Recorder
from .restore import Kept
from .resumed import begins_anywhere
from .run import Run, empty_like_layout
from .surroundings import look, unflagged
from .unmarked import (
    SHARE,
    STRAIGHT,
    FlatRun,
    GrowingLoopError,
    as_runs,
    looks,
    record_flat,
    require_same,
    rolled_up,
    straight,
    warm_up,
)

R = TypeVar("R", Run, FlatRun)
PADDED_SECONDS = 120.0
"""After this long the steps over a padded array are recorded without values: all of them are the same calls."""
REPEAT_ALL_BELOW = 10.0
"""Seconds: a reference faster than this is run whole a second time; of a slower one, or a layer, a few steps are."""


def capture(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    share: float = SHARE,
    tolerance: Tolerance | None = None,
) -> Captured:
    """The program of ``function`` as it runs on ``args`` and ``kwargs``, and what it takes to trust and to run it.

    Without a marked loop, and without one that makes at least ``share`` of the function's calls, the program is one
    graph (`Captured.no_loop` says why). Under a ``tolerance`` a loop whose array grows becomes one over a padded array.

    Raises `CaptureError`: steps that differ, values that leave the tensor world, hidden state.
    """
    if torch.is_inference_mode_enabled():
        raise CaptureError(
            "compiling inside torch.inference_mode() records other operators than the function makes elsewhere\n"
            "  compile outside of it; compiled functions may be called inside"
        )
    kwargs = dict(kwargs or {})
    signature, tensors = describe_arguments(function, args, kwargs)
    kept, anew = Kept((*look(function).tensors.values(), *tensors)), Anew(function)
    try:
        captured = _capture(anew, (args, kwargs), signature, tensors, kept, progress, share, tolerance)
    except BaseException as error:
        anew.undo()
        if isinstance(error, CaptureError):
            kept.restore()
        raise
    anew.end()
    return captured


def _capture(
    function: Anew,
    call: tuple[tuple[Any, ...], dict[str, Any]],
    signature: Signature,
    tensors: list[Tensor],
    kept: Kept,
    progress: Callable[[int, int], None] | None,
    share: float,
    tolerance: Tolerance | None,
) -> Captured:
    found_loops = warm_up(function.run, _by_other_names(call), kept)
    padded = False
    view = look(function.function)
    function.begin(view)
    signature = replace(signature, modes=modes_in(view))
    try:
        runs, replays, no_loop, small = _recorded(function, call, tensors, kept, share, found_loops, progress)
    except GrowingLoopError as why:
        if tolerance is None:
            find_padded(why, len(tensors))  # where a tolerance would be of no use, it is not what to do
            raise
        function.silent = True
        run, both = _padded(function, call, tensors, kept, why, tolerance, progress)
        runs, replays, no_loop, small, padded = [run], [both], "", False, True
    recorder = runs[0].recorder
    recorder.check_unread(kept.moved())
    told = function.check(recorder.is_outside)
    given = dict(zip(map(Outside, range(len(tensors))), tensors, strict=True))
    found: Captured | None = None
    for run, both in reversed(list(zip(runs, replays, strict=True))):
        builder = Builder(
            run,
            signature if run is runs[0] else _handed(run),
            given if run.given is None else run.given,
            "result" if run is runs[-1] else "handed",
            view,
        )
        found = _captured(builder, both, no_loop, found)
    assert found is not None
    otherwise, compiled = recorder.otherwise, recorder.compiled
    left = tuple(one for one in runs[-1].behind if None not in one.tokens)
    told += tuple(one.spot.name for one in runs[-1].behind if None in one.tokens)
    others = unflagged(view.others, function.overwritten())
    known = replace(found, others=others, small_loop=small, otherwise=otherwise, compiled=compiled)
    return replace(_telling(known, told), padded=padded, left=left)


def _telling(captured: Captured, told: Sequence[str]) -> Captured:
    """``captured`` with the names of what no part leaves, in the results of its last part."""
    if captured.rest is not None:
        return replace(captured, rest=_telling(captured.rest, told))
    result = captured.program.result
    left = (*result.left, *(Leaf(name, None, None) for name in told))
    return replace(captured, program=replace(captured.program, result=replace(result, left=left)))


Recorded: TypeAlias = tuple[list[Run], list[tuple[Replay, Replay]], str, bool]
"""The parts of a recorded run, what two runs do in each, why there is no loop, or is."""


def _recorded(
    function: Anew,
    call: Any,
    tensors: list[Tensor],
    kept: Kept,
    share: float,
    loops: tuple[int, int],
    progress: Callable[[int, int], None] | None,
) -> Recorded:
    """Recorded runs; where they leave different things behind, anew, and then nothing of it is looked at."""
    marked = loops[0]
    try:
        if sum(loops) != 1:
            return _unmarked(function, call, tensors, kept, share)
        run = Run(Recorder(tensors, kept), progress=progress, alone=not marked).record(function, *call)
        keep = frozenset({0, 1, (run.hi - run.lo) // 2, run.hi - run.lo - 1})
        first = _replay(tensors, run)
        return [run], [(first, _second_run(function, call, run, keep, kept))], "", False
    except LeftOtherwiseError:
        assert not function.silent
        function.silent = True
        return _recorded(function, call, tensors, kept, share, loops, progress)


def _captured(builder: Builder, replays: tuple[Replay, Replay], no_loop: str, rest: Captured | None) -> Captured:
    program, run = builder.straight() if no_loop else builder.program(), builder.run
    rebound, folded = builder.rebound(), builder.folded()
    return Captured(program, builder.places, {}, replays, run.in_place, rebound, folded, run.marked, no_loop, rest=rest)


def _handed(run: Run) -> Signature:
    """The signature of a later part of a function."""
    assert run.given is not None
    types = (run.types[outside.handle] for outside in run.given)
    leaves = tuple(Leaf(f"handed[{i}]", f"a{i}", kind) for i, kind in enumerate(types))
    return Signature(leaves, flatten(tuple(run.given.values()))[1])


def _unmarked(function: Callable[..., Any], call: Any, tensors: list[Tensor], kept: Kept, share: float) -> Recorded:
    once = record_flat(function, call, FlatRecorder(tensors, kept))
    cut, why, small = _loops_in(once, share, len(tensors))
    again = _recorded_again(function, call, once, lambda: FlatRecorder(tensors, kept, looks(cut)))
    require_same(once, again, "in another run")
    require_alike(once.behind, again.behind)

    def once_more(others: list[Tensor], other_call: Any) -> FlatRun:
        recorder = FlatRecorder(others, kept, looks(cut))
        recorder.expected = once.segment.tests
        return record_flat(function, other_call, recorder)

    second, others = _with_other_inputs(call, once_more)
    require_same(once, second, "with other inputs")
    require_alike(once.behind, second.behind)
    if not cut:
        run = straight(again, why)
        return [run], [(_replay(tensors, run), _replay(others, straight(second, why)))], why, small
    runs = as_runs(again, cut)
    both = zip(runs, as_runs(second, cut), strict=True)
    return runs, [(_replay(tensors, a), _replay(others, b)) for a, b in both], "", False


def _padded(
    function: Callable[..., Any],
    call: Any,
    tensors: list[Tensor],
    kept: Kept,
    why: GrowingLoopError,
    tolerance: Tolerance,
    progress: Callable[[int, int], None] | None,
) -> tuple[Run, tuple[Replay, Replay]]:
    """A run of the padded loop in place of the function's own, whose array grows, and what two runs do."""
    once, arguments = why.run, len(tensors)
    padded = find_padded(why, arguments)

    def once_more(others: list[Tensor], other_call: Any) -> FlatRun:
        recorder = FlatRecorder(others, kept)
        recorder.expected = once.segment.tests
        return record_flat(function, other_call, recorder)

    require_same(once, _with_other_inputs(call, once_more)[0], "with other inputs")
    set_states(once.generators)
    run = Run(Recorder(tensors, kept), progress=progress, real_seconds=PADDED_SECONDS)
    try:
        check_padded(padded, tensors, tolerance)
        run.record(padded, *call)
        keep = frozenset({0, 1, (run.hi - run.lo) // 2, run.hi - run.lo - 1})
        both = _replay(tensors, run), _second_run(padded, call, run, keep, kept)
    except (RuntimeError, IndexError, TypeError) as error:  # an operator's, on a layout or length it was not made for
        raise CaptureError(f"the loop whose array grows cannot be run on a padded array: {error}") from error
    check_results(run.result, once.result, run.complete, tolerance)
    run.marked = False
    return run, both


def _loops_in(run: FlatRun, share: float, arguments: int) -> tuple[tuple[Section, ...], str, bool]:
    """The loops of a recorded run if they make enough of its calls; else why not, and whether there are smaller ones.

    Raises: `CaptureError` where all of the run cannot be kept as a graph either.
    """
    try:
        cut = rolled_up(run, arguments)
    except GrowingLoopError:  # a chain of unlike steps in form only
        raise
    except CaptureError as error:
        straight(run, str(error))
        return (), str(error), False
    repeats, calls = [section.rolled.repeat for section in cut], len(run.segment.calls)
    made = sum(repeat.end - repeat.start for repeat in repeats)
    if made >= share * calls or run.recorder.overwritten or calls > STRAIGHT:
        return cut, "", False
    line = run.segment.sources[cut[0].call(0)]
    few = f"the loop of {repeats[0].count} steps from {line} on makes few of the function's {calls} operator calls"
    return (), few, True


def _recorded_again(
    function: Callable[..., Any], call: Any, once: FlatRun, make: Callable[[], FlatRecorder]
) -> FlatRun:
    """Another run on the example; where a test on random numbers comes out otherwise, with the same ones again."""
    for states in ({}, once.generators):
        set_states(states)
        recorder = make()
        recorder.expected = once.segment.tests
        try:
            return record_flat(function, call, recorder)
        except OtherwiseError as error:
            why = error
    raise why


NEARNESS = (1.0, 0.3, 0.03, 1e-3)
"""Other inputs that are tried, if with the ones before a test on values comes out otherwise: how far away they are."""


def _with_other_inputs(call: Any, record: Callable[[list[Tensor], Any], R]) -> tuple[R, list[Tensor]]:
    """What ``record`` gives for other inputs, with which all tests on values come out as before, and these inputs.

    Raises: `CaptureError` with a test that comes out otherwise for all that are tried.
    """
    for far in NEARNESS:
        tensors, other = _others(call, far)
        try:
            made = record(tensors, other)
        except OtherwiseError as error:
            why: Exception = error
            continue
        except (AssertionError, CaptureError):  # our own logic, and what is wrong with any inputs
            raise
        except Exception as error:  # the function's own, of inputs that it was not made for
            why = error
            continue
        return made, tensors
    if not isinstance(why, OtherwiseError):
        raise CaptureError(
            f"on other inputs the function raises {type(why).__name__}: {why}\n  the second run, which shows what "
            "depends on the inputs, draws other values from those of the example: the function must take such"
        ) from why
    raise CaptureError(
        f"{why}\n  the second run, on other inputs, is to go the same way: whether it does, and how many steps there "
        "are, must not depend on each change of the inputs"
    )


def _others(call: Any, far: float) -> tuple[list[Tensor], Any]:
    """Other inputs: the tensors, and the call."""
    leaves, tree = flatten(call)
    other = [other_inputs(leaf, far) if isinstance(leaf, Tensor) else leaf for _, leaf in leaves]
    return [leaf for leaf in other if isinstance(leaf, Tensor)], unflatten(tree, other)


def _by_other_names(call: Any) -> Any:
    """The same call with other tensors of the same memory: what is left of them is told from the call's own."""
    leaves, tree = flatten(call)
    named = [t.detach().requires_grad_(t.requires_grad) if isinstance(t, Tensor) else t for _, t in leaves]
    return unflatten(tree, named)


def _second_run(function: Callable[..., Any], call: Any, run: Run, keep: frozenset[int], kept: Kept) -> Replay:
    """Run the function again on other inputs and require the same calls and numbers."""
    few = not run.complete or run.seconds > REPEAT_ALL_BELOW or run.alone  # steps of layers are ours

    def once_more(others: list[Tensor], other: Any) -> Run:
        return Run(Recorder(others, kept), first=run, keep=keep, only_kept=few).record(function, *other)

    again, tensors = _with_other_inputs(call, once_more)
    run.marked = run.marked and begins_anywhere(function, unflatten(flatten(call)[1], _with(call, tensors)), again)
    for what, was, now in (("before", run.prologue, again.prologue), ("after", run.epilogue, again.epilogue)):
        if (was.calls, was.results) != (now.calls, now.results) or not _same_numbers(was.numbers, now.numbers):
            raise CaptureError(
                f"what the function does {what} the loop differs with other inputs: it depends on their values, "
                "or on something besides its arguments\n  move the decision out of the function, or into tensors"
            )
    require_alike(run.behind, again.behind)
    return _replay(tensors, again)


def _with(call: Any, tensors: Sequence[Tensor]) -> list[Any]:
    """The leaves of a call, with other tensors."""
    given = iter(tensors)
    return [next(given) if isinstance(leaf, Tensor) else leaf for _, leaf in flatten(call)[0]]


def _same_numbers(was: Sequence[float], now: Sequence[float]) -> bool:
    return list(map(exact_number, was)) == list(map(exact_number, now))


def other_inputs(t: Tensor, far: float = 1.0) -> Tensor:
    """Other values from the same domain, in the same layout: drawn with replacement from the middle of the elements.

    Sums, counts, extremes and orders all change, so that a value which was baked into a capture shows. ``far`` less
    than 1: so much of the way to these, of which whole numbers go none.
    """
    if far < 1.0:
        return _between(t, other_inputs(t), far)
    other = empty_like_layout(t)
    if t.numel() == 0 or (not t.dtype.is_floating_point and t.numel() == 1):
        return other.copy_(t)
    ordered = t.reshape(-1).sort().values if not t.dtype.is_complex else t.reshape(-1)
    low, high = t.numel() // 10, max(t.numel() - t.numel() // 10, 1)
    if t.dtype.is_floating_point and bool(ordered[low] == ordered[high - 1]):
        return other.copy_(torch.where(t == 0, 0.25, t * 0.75))
    drawn = torch.randint(low, high, (t.numel(),), generator=torch.Generator().manual_seed(1))
    return other.copy_(ordered[drawn.to(t.device)].reshape(t.shape))


def _between(t: Tensor, other: Tensor, far: float) -> Tensor:
    """``t`` with each finite element moved so much of the way to the one in ``other``."""
    moved = empty_like_layout(t).copy_(t)
    if t.dtype.is_floating_point or t.dtype.is_complex:
        step = (other - t) * far
        moved.copy_(torch.where(step.isfinite(), t + step, t))
    return moved


def _replay(arguments: list[Tensor], run: Run) -> Replay:
    checkpoints = tuple(Checkpoint(p, before, after) for p, (before, after) in sorted(run.states.items()))
    results = tuple(leaf for _, leaf in flatten(run.result)[0] if isinstance(leaf, Tensor))
    results += tuple(t for t, token in zip(run.left_behind, run.epilogue.behind, strict=True) if token is not None)
    complete = run.complete and not run.only_kept
    init = run.states[0][0] if run.states else ()
    given = arguments if run.given is None else list(run.given.values())
    left = () if complete else run.left
    return Replay(tuple(given), init, checkpoints, run.final, results, complete, run.generators, left)

"""The driver of capture: recorded runs, then graphs with program-wide names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError
from ..program import Signature
from ..trees import flatten, unflatten
from .arguments import describe_arguments, modes_in
from .builder import Builder
from .captured import Captured, Checkpoint, Replay
from .facts import exact_number
from .flat import FlatRecorder
from .record import Recorder
from .restore import Kept
from .rolled import Rolled
from .run import Run, empty_like_layout
from .surroundings import look
from .unmarked import (
    SHARE,
    STRAIGHT,
    FlatRun,
    GrowingLoopError,
    as_run,
    looks,
    record_flat,
    require_same,
    rolled_up,
    straight,
    warm_up,
)

REPEAT_ALL_BELOW = 10.0
"""Seconds: a reference faster than this is run whole a second time; of a slower one only a few steps are."""


def capture(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    share: float = SHARE,
) -> Captured:
    """The program of ``function`` as it runs on ``args`` and ``kwargs``, and what it takes to trust and to run it.

    Without a marked loop, and without one that makes at least ``share`` of the function's calls, the program is one
    graph (`Captured.no_loop` says why).

    Raises `CaptureError`: steps that differ, values that leave the tensor world, hidden state.
    """
    if torch.is_inference_mode_enabled():
        raise CaptureError(
            "compiling inside torch.inference_mode() records other operators than the function makes elsewhere\n"
            "  compile outside of it; compiled functions may be called inside"
        )
    kwargs = dict(kwargs or {})
    signature, tensors = describe_arguments(function, args, kwargs)
    kept = Kept((*look(function).tensors.values(), *tensors))
    try:
        return _capture(function, (args, kwargs), signature, tensors, kept, progress, share)
    except CaptureError:
        kept.restore()
        raise


def _capture(
    function: Callable[..., Any],
    call: tuple[tuple[Any, ...], dict[str, Any]],
    signature: Signature,
    tensors: list[Tensor],
    kept: Kept,
    progress: Callable[[int, int], None] | None,
    share: float,
) -> Captured:
    marked, layer = warm_up(function, call, kept)
    view = look(function)
    if marked or layer:
        run = Run(Recorder(tensors, kept.before_write), progress=progress, alone=layer).record(function, *call)
        keep = frozenset({0, 1, (run.hi - run.lo) // 2, run.hi - run.lo - 1})
        first = _replay(tensors, run)
        second = _second_run(function, call, run, keep)
        no_loop, small = "", False
    else:
        run, first, second, no_loop, small = _unmarked(function, call, tensors, kept, share)
    run.recorder.check_unread(kept.moved())
    builder = Builder(run, replace(signature, modes=modes_in(view)), tensors, view)
    program = builder.straight() if no_loop else builder.program()
    rebound, folded, otherwise = builder.rebound(), builder.folded(), run.recorder.otherwise
    found = Captured(
        program, builder.places, view.others, (first, second), run.in_place, rebound, folded, run.marked, no_loop
    )
    return replace(found, small_loop=small, otherwise=otherwise)


def _unmarked(
    function: Callable[..., Any], call: Any, tensors: list[Tensor], kept: Kept, share: float
) -> tuple[Run, Replay, Replay, str, bool]:
    """The loop that was found in a recorded run, or all of it, what two more runs do, why there is no loop, or is."""
    once = record_flat(function, call, FlatRecorder(tensors, kept.before_write))
    rolled, why, small = _loop_in(once, share)
    again = record_flat(function, call, FlatRecorder(tensors, kept.before_write, looks(rolled)))
    require_same(once, again, "in another run")
    others, other_call = _others(call)
    second = record_flat(function, other_call, FlatRecorder(others, kept.before_write, looks(rolled)))
    require_same(once, second, "with other inputs")
    if rolled is None:
        run = straight(again, why)
        return run, _replay(tensors, run), _replay(others, straight(second, why)), why, small
    run = as_run(again, rolled)
    return run, _replay(tensors, run), _replay(others, as_run(second, rolled)), "", False


def _loop_in(run: FlatRun, share: float) -> tuple[Rolled | None, str, bool]:
    """The loop of a recorded run if it makes enough of its calls; else why not, and whether there is a smaller one.

    Raises: `CaptureError` where all of the run cannot be kept as a graph either.
    """
    try:
        rolled = rolled_up(run)
    except GrowingLoopError:  # a chain of unlike steps in form only
        raise
    except CaptureError as error:
        straight(run, str(error))
        return None, str(error), False
    repeat, calls = rolled.repeat, len(run.segment.calls)
    if repeat.end - repeat.start >= share * calls or run.recorder.overwritten or calls > STRAIGHT:
        return rolled, "", False
    line = run.segment.sources[repeat.start]
    few = f"the loop of {repeat.count} steps from {line} on makes few of the function's {calls} operator calls"
    return None, few, True


def _others(call: Any) -> tuple[list[Tensor], Any]:
    """Other inputs: the tensors, and the call."""
    leaves, tree = flatten(call)
    other = [other_inputs(leaf) if isinstance(leaf, Tensor) else leaf for _, leaf in leaves]
    return [leaf for leaf in other if isinstance(leaf, Tensor)], unflatten(tree, other)


def _second_run(function: Callable[..., Any], call: Any, run: Run, keep: frozenset[int]) -> Replay:
    """Run the function again on other inputs and require the same calls and numbers."""
    tensors, (args, kwargs) = _others(call)
    again = Run(Recorder(tensors), first=run, keep=keep, only_kept=not run.complete or run.seconds > REPEAT_ALL_BELOW)
    again.record(function, args, kwargs)
    for what, was, now in (("before", run.prologue, again.prologue), ("after", run.epilogue, again.epilogue)):
        if (was.calls, was.results) != (now.calls, now.results) or not _same_numbers(was.numbers, now.numbers):
            raise CaptureError(
                f"what the function does {what} the loop differs with other inputs: it depends on their values, "
                "or on something besides its arguments\n  move the decision out of the function, or into tensors"
            )
    return _replay(tensors, again)


def _same_numbers(was: Sequence[float], now: Sequence[float]) -> bool:
    return list(map(exact_number, was)) == list(map(exact_number, now))


def other_inputs(t: Tensor) -> Tensor:
    """Other values from the same domain, in the same layout: drawn with replacement from the middle of the elements.

    Sums, counts, extremes and orders all change, so that a value which was baked into a capture shows.
    """
    other = empty_like_layout(t)
    if t.numel() == 0 or (not t.dtype.is_floating_point and t.numel() == 1):
        return other.copy_(t)
    ordered = t.reshape(-1).sort().values if not t.dtype.is_complex else t.reshape(-1)
    low, high = t.numel() // 10, max(t.numel() - t.numel() // 10, 1)
    if t.dtype.is_floating_point and bool(ordered[low] == ordered[high - 1]):
        return other.copy_(torch.where(t == 0, 0.25, t * 0.75))
    drawn = torch.randint(low, high, (t.numel(),), generator=torch.Generator().manual_seed(1))
    return other.copy_(ordered[drawn.to(t.device)].reshape(t.shape))


def _replay(arguments: list[Tensor], run: Run) -> Replay:
    checkpoints = tuple(Checkpoint(p, before, after) for p, (before, after) in sorted(run.states.items()))
    results = tuple(leaf for _, leaf in flatten(run.result)[0] if isinstance(leaf, Tensor))
    complete = run.complete and not run.only_kept
    init = run.states[0][0] if run.states else ()
    return Replay(tuple(arguments), init, checkpoints, run.final, results, complete, run.generators)

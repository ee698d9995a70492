"""The driver of capture: two recorded runs, then graphs with program-wide names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError
from ..graph import Graph, Ref, Value
from ..loops import FirstStep, drive_loops
from ..program import Leaf, Loop, Program, Result, Signature, Weight, WeightKind
from ..trees import flatten, unflatten
from .facts import exact_number, tensor_type
from .freeze import Freezer
from .functional import Functional, Key, LiteralKey, Tables
from .overwrites import freeze_overwrites, joined, take_overwrites
from .record import Carried, Outside, Recorder, Segment, Token
from .restore import Kept, Watch
from .run import Run, empty_like_layout
from .surroundings import View, look

REPEAT_ALL_BELOW = 10.0
"""Seconds: a reference faster than this is run whole a second time; of a slower one only a few steps are."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state before and after the step at ``position``, as the user's own body computed it."""

    position: int
    before: tuple[Tensor, ...]
    after: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """What the function did in a recorded run, for the program to be compared with.

    ``complete``: every step was run with values, so that ``results`` are the function's own on ``arguments``.
    """

    arguments: tuple[Tensor, ...]
    init: tuple[Tensor, ...]
    checkpoints: tuple[Checkpoint, ...]
    final: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a weight is found: under each of these paths, or, a literal in the code, nowhere but here."""

    paths: tuple[str, ...]
    literal: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Captured:
    program: Program
    places: Mapping[str, Place]  # by weight name
    others: Mapping[str, Hashable]  # what else the function can reach, as it was
    replays: tuple[Replay, ...]
    in_place: bool  # the loop's body writes into the first state
    rebound: frozenset[str]  # names of the weights whose ``.data`` the steps replace

    def weights(self, view: View) -> dict[str, Tensor]:
        """The weights as they are in ``view``. Raises `KeyError` with the path of one that is gone."""
        return {
            name: (view.tensors[place.paths[0]] if place.literal is None else place.literal).detach()
            for name, place in self.places.items()
        }


def capture(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Captured:
    """The program of ``function`` as it runs on ``args`` and ``kwargs``, and what it takes to trust and to run it.

    Raises `CaptureError`: no marked loop, steps that differ, values that leave the tensor world, hidden state.
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
        return _capture(function, (args, kwargs), signature, tensors, kept, progress)
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
) -> Captured:
    args, kwargs = call
    with torch.no_grad(), drive_loops(FirstStep()), Watch(kept):
        function(*args, **kwargs)
    view = look(function)
    run = Run(Recorder(tensors, kept.before_write), progress=progress).record(function, args, kwargs)
    keep = frozenset({0, 1, (run.hi - run.lo) // 2, run.hi - run.lo - 1})
    first = _replay(tensors, run)
    second = _second_run(function, call, run, keep)
    run.recorder.check_unread(kept.moved())
    builder = Builder(run, signature, tensors, view)
    program = builder.program()
    return Captured(program, builder.places, view.others, (first, second), run.in_place, builder.rebound())


def describe_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Signature, list[Tensor]]:
    """The signature of a call, and its tensors in order.

    Raises `CaptureError` for a leaf that is neither a tensor nor a plain constant.
    """
    positional, positional_tree = flatten(list(args))
    by_name, keyword_tree = flatten(dict(sorted(kwargs.items())))
    names = _parameter_names(function)
    described: list[Leaf] = []
    tensors: list[Tensor] = []
    for label, leaf in [(_label(p, names), v) for p, v in positional] + [
        (p[2:].replace("']", "", 1), v) for p, v in by_name
    ]:
        if isinstance(leaf, Tensor):
            described.append(Leaf(label, f"a{len(tensors)}", tensor_type(leaf)))
            tensors.append(leaf)
        elif isinstance(leaf, bool | int | float | str) or leaf is None:
            described.append(Leaf(label, None, None, repr(leaf)))
        else:
            raise CaptureError(f"argument {label} is a {type(leaf).__name__}; tensors and plain constants are accepted")
    return Signature(tuple(described), f"[{positional_tree},{keyword_tree}]"), tensors


def _parameter_names(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _label(path: str, names: list[str]) -> str:
    """``noise`` or ``batch['mask']`` for the path of a positional argument."""
    index, _, rest = path.removeprefix("[").partition("]")
    return (names[int(index)] if int(index) < len(names) else f"argument {index}") + rest


def _second_run(function: Callable[..., Any], call: Any, run: Run, keep: frozenset[int]) -> Replay:
    """Run the function again on other inputs and require the same calls and numbers."""
    leaves, tree = flatten(call)
    other = [other_inputs(leaf) if isinstance(leaf, Tensor) else leaf for _, leaf in leaves]
    args, kwargs = unflatten(tree, other)
    tensors = [leaf for leaf in other if isinstance(leaf, Tensor)]
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
    return Replay(tuple(arguments), run.states[0][0], checkpoints, run.final, results, complete)


@dataclass(slots=True)
class Builder:
    """Graphs with program-wide names from a recorded run."""

    run: Run
    signature: Signature
    arguments: list[Tensor]
    view: View
    tables: Tables = field(default_factory=Tables)
    weights: dict[Any, Weight] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    values: dict[Any, Tensor] = field(default_factory=dict)
    known: dict[Key, tuple[str, Tensor]] = field(default_factory=dict)

    def program(self) -> Program:
        self.known = {Outside(i): (f"a{i}", t) for i, t in enumerate(self.arguments)}
        run, template = self.run, self.run.steps.template
        assert template is not None
        written = {Outside(handle): line for handle, line in sorted(run.recorder.overwritten.items())}
        body = self._functional(template, run.steps.columns(), tuple(written))
        overwriting = take_overwrites(body, written, frozenset(map(Outside, (*range(len(self.arguments)), *run.made))))
        epilogue = self._functional(run.epilogue, [(n,) for n in run.epilogue.numbers])
        used = [t for t in (*body.inputs, *epilogue.inputs, *run.init, *run.epilogue.results) if isinstance(t, Outside)]
        prologue_graph = self._prologue([t for t in dict.fromkeys(used) if t.handle in run.made])
        overwrites = freeze_overwrites(overwriting, self._name, self._device())
        prologue_graph = joined(prologue_graph, overwrites.graph)
        self.known |= overwrites.known
        init = tuple(Ref(self._name(t)[0]) for t in run.init)
        carry = tuple(Value(f"c{i}", tensor_type(t)) for i, t in enumerate(run.states[0][0]))
        body_graph, _ = self._freeze("b", body, run.states[0][0])
        self.known |= overwrites.after
        epilogue_graph, _ = self._freeze("e", epilogue, run.final)
        loop = Loop(
            run.lo,
            run.hi,
            tuple(self.tables.rows),
            carry,
            init,
            run.tree,
            body_graph,
        )
        result = self._result(epilogue_graph)
        weights = tuple(sorted(self.weights.values(), key=lambda w: int(w.name[1:])))
        return Program(self.signature, weights, prologue_graph, loop, epilogue_graph, result, overwrites.writes)

    def rebound(self) -> frozenset[str]:
        return frozenset(self.weights[Outside(h)].name for h in self.run.recorder.rebound)

    def _device(self) -> torch.device:
        return self.arguments[0].device if self.arguments else torch.device("cpu")

    def _functional(
        self, segment: Segment, columns: list[tuple[int | float, ...]], final: tuple[Outside, ...] = ()
    ) -> Functional:
        return Functional(segment, columns, self.tables, self._shape, final)

    def _prologue(self, needed: list[Outside]) -> Graph:
        """The prologue with what later graphs read as outputs; names those values for them."""
        made = [self.run.made[t.handle] for t in needed]
        self.run.prologue.results = tuple(dict.fromkeys(made))
        functional = self._functional(self.run.prologue, [(n,) for n in self.run.prologue.numbers])
        functional.separate()
        graph, values = self._freeze("p", functional, ())
        by_token = dict(zip(self.run.prologue.results, zip(graph.outputs, values, strict=True), strict=True))
        for outside, token in zip(needed, made, strict=True):
            ref, value = by_token[token]
            self.known[outside] = (ref.name, value)
        return graph

    def _freeze(
        self, prefix: str, functional: Functional, state: tuple[Tensor, ...]
    ) -> tuple[Graph, tuple[Tensor, ...]]:
        names, tensors = {}, {}
        for key, node in functional.inputs.items():
            names[node.name], tensors[node.name] = self._state(key, state) or self._name(key)
        numbers = [row[0] for row in self.tables.rows]
        return Freezer(prefix, self._device(), names, tensors, numbers).freeze(functional.graph)

    def _state(self, key: Key, state: tuple[Tensor, ...]) -> tuple[str, Tensor] | None:
        return (f"c{key.leaf}", state[key.leaf]) if isinstance(key, Carried) else None

    def _name(self, key: Key) -> tuple[str, Tensor]:
        """Name and value of an argument, a prologue value or a weight."""
        if key in self.known:
            return self.known[key]
        if key not in self.weights:
            self._add_weight(key)
        return self.weights[key].name, self.values[key]

    def _add_weight(self, key: Key) -> None:
        if isinstance(key, LiteralKey):
            tensor = torch.tensor(key.numbers, dtype=key.dtype).reshape(key.shape)
            place = Place((), tensor)
        else:
            assert isinstance(key, Outside)
            tensor = self.run.recorder.outside[key.handle]
            place = Place((), tensor) if key.handle in self.run.recorder.literals else self._place(tensor)
        name = f"w{len(self.weights)}"
        kind = WeightKind.CONSTANT if place.literal is not None else WeightKind.PARAMETER
        path = place.paths[0] if place.paths else "a literal"
        self.weights[key] = Weight(name, kind, path, tensor_type(tensor))
        self.places[name], self.values[key] = place, tensor

    def _place(self, tensor: Tensor) -> Place:
        paths = self.view.paths(tensor)
        if not paths:
            raise CaptureError(
                f"the function uses a tensor ({tensor_type(tensor)}) that is neither an argument nor found through its "
                "closure, globals or modules\n"
                "  a later change of it would not be seen; pass it as an argument, or keep it in a module"
            )
        return Place(paths)

    def _shape(self, token: Token) -> tuple[int, ...]:
        if isinstance(token, Carried):
            return tuple(self.run.final[token.leaf].shape)
        assert isinstance(token, Outside)
        return tuple(self.run.recorder.outside[token.handle].shape)

    def _result(self, epilogue: Graph) -> Result:
        leaves, tree = flatten(self.run.result)
        outputs = iter(epilogue.outputs)
        described = []
        for path, leaf in leaves:
            label = f"result{path}"
            if isinstance(leaf, Tensor):
                ref = next(outputs)
                described.append(Leaf(label, ref.name, tensor_type(leaf)))
            elif isinstance(leaf, bool | int | float | str) or leaf is None:
                described.append(Leaf(label, None, None, repr(leaf)))
            else:
                raise CaptureError(f"{label} is a {type(leaf).__name__}; tensors and plain constants can be returned")
        return Result(tuple(described), tree)

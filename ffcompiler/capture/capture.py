"""The driver of capture: two recorded runs, then graphs with program-wide names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..calls import PLAIN
from ..errors import CaptureError
from ..graph import EMPTY_GRAPH, Graph, Ref, TensorType, Value
from ..modes import ambient, described
from ..program import Chain, DrawPlace, Leaf, Loop, PerStep, Program, Result, Signature, Weight, WeightKind
from ..randomness import States
from ..trees import flatten, unflatten
from .facts import exact_number, tensor_type
from .flat import FlatRecorder
from .freeze import Freezer
from .functional import Drawn, Functional, Key, LiteralKey, Tables
from .noise import Noise
from .overwrites import freeze_overwrites, joined, take_overwrites
from .record import Carried, Collected, Each, Made, Outside, Recorder, Segment, Token
from .restore import Kept
from .rolled import Rolled
from .run import Run, empty_like_layout
from .surroundings import View, look
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
    generators: States  # of random numbers, before the run
    left: tuple[Tensor, ...] = ()  # of an incomplete run: what its steps collected


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
    folded: Mapping[str, Tensor]  # weights that were read as Python numbers, as they were
    marked: bool  # the loop is one of `ffcompiler.loops`, so the function itself can go on from any step
    no_loop: str = ""  # of a program without a loop: why none was found
    small_loop: bool = False  # there is one, of fewer calls than were asked for
    otherwise: str = ""  # what in the function was recorded by operators that round otherwise than its own

    def weights(self, view: View) -> dict[str, Tensor]:
        """The weights as they are in ``view``. Raises `KeyError` with the path of one that is gone."""
        return {
            name: (view.tensors[place.paths[0]] if place.literal is None else place.literal).detach()
            for name, place in self.places.items()
        }


def keeping(captured: Captured, program: Program, leaves: Sequence[int]) -> Captured:
    """The same function as another program, whose loop carries only these of its values."""
    if len(leaves) == len(captured.replays[0].init):
        return captured

    def some(state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(state[leaf] for leaf in leaves)

    replays = tuple(
        replace(
            replay,
            init=some(replay.init),
            final=some(replay.final),
            checkpoints=tuple(Checkpoint(c.position, some(c.before), some(c.after)) for c in replay.checkpoints),
        )
        for replay in captured.replays
    )
    return replace(captured, program=program, replays=replays, marked=False)


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


def describe_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Signature:
    """The signature of a call, its modes too. Raises: `CaptureError` as `describe_arguments`."""
    return replace(describe_arguments(function, args, kwargs)[0], modes=modes_in(look(function)))


def modes_in(view: View) -> tuple[tuple[str, str], ...]:
    """The modes as they are now, for a function that reaches what is in ``view``."""
    ending = "training"
    flags = {path: value for path, value in view.others.items() if path == ending or path.endswith(f".{ending}")}
    training = {
        path.removesuffix(ending).removesuffix(".") or "the module": value[1]
        for path, value in flags.items()
        if isinstance(value, tuple) and value[0] == "bool"
    }
    return described(ambient(), training)


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
            raise CaptureError(
                f"argument {label} is a {type(leaf).__name__}; tensors and plain constants are accepted\n"
                "  let the function close over it, or pass what is in it: tensors and numbers, in tuples and dicts"
            )
    return Signature(tuple(described), f"[{positional_tree},{keyword_tree}]"), tensors


def _parameter_names(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(getattr(function, "forward", function)).parameters)
    except (TypeError, ValueError):
        return []


def _label(path: str, names: list[str]) -> str:
    """``noise`` or ``batch['mask']`` for the path of a positional argument."""
    index, _, rest = path.removeprefix("[").partition("]")
    return (names[int(index)] if int(index) < len(names) else f"argument {index}") + rest


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
    noise: Noise = field(init=False)

    def program(self) -> Program:
        self.known = {Outside(i): (f"a{i}", t) for i, t in enumerate(self.arguments)}
        run, template = self.run, self.run.steps.template
        assert template is not None
        self.noise = Noise(self._device().type)
        self.noise.add(run.prologue, [(n,) for n in run.prologue.numbers], DrawPlace.BEFORE)
        self.noise.add(template, run.steps.columns(), DrawPlace.EACH)
        self.noise.add(run.epilogue, [(n,) for n in run.epilogue.numbers], DrawPlace.AFTER)
        written = {Outside(handle): line for handle, line in sorted(run.recorder.overwritten.items())}
        body = self._functional(template, run.steps.columns(), tuple(written))
        overwriting = take_overwrites(body, written, frozenset(map(Outside, (*range(len(self.arguments)), *run.made))))
        epilogue = self._functional(run.epilogue, [(n,) for n in run.epilogue.numbers])
        read = (*body.inputs, *epilogue.inputs, *run.init, *run.stacks, *run.epilogue.results)
        used = [t for t in read if isinstance(t, Outside)]
        prologue_graph = self._prologue([t for t in dict.fromkeys(used) if t.handle in run.made])
        overwrites = freeze_overwrites(overwriting, self._name, self._device())
        prologue_graph = joined(prologue_graph, overwrites.graph)
        self.known |= overwrites.known
        init = tuple(Ref(self._name(t)[0]) for t in run.init)
        carry = tuple(Value(f"c{i}", tensor_type(t)) for i, t in enumerate(run.states[0][0]))
        self.known |= {Each(i): self._entry(f"x{i}", stack) for i, stack in enumerate(run.stacks)}
        body_graph, left = self._freeze("b", body, run.states[0][0])
        self.known |= overwrites.after
        stacks = [one.expand(run.hi - run.lo, *one.shape).contiguous() for one in left[len(carry) :]]
        self.known |= {Collected(i): (f"y{i}", stack) for i, stack in enumerate(stacks)}
        epilogue_graph, _ = self._freeze("e", epilogue, run.final)
        loop = Loop(
            run.lo,
            run.hi,
            tuple(self.tables.rows),
            carry,
            init,
            run.tree,
            body_graph,
            (*self.noise.read_by(body_graph, run.hi - run.lo), *self._handed(body_graph)),
            tuple(Value(f"y{i}", tensor_type(stack)) for i, stack in enumerate(stacks)),
        )
        result = self._result(epilogue_graph)
        weights = tuple(sorted(self.weights.values(), key=lambda w: int(w.name[1:])))
        draws = tuple(self.noise.draws)
        return Program(self.signature, weights, prologue_graph, loop, epilogue_graph, result, overwrites.writes, draws)

    def straight(self) -> Program:
        """The program of a run without a loop: all of it is the epilogue of a chain without blocks."""
        self.known = {Outside(i): (f"a{i}", t) for i, t in enumerate(self.arguments)}
        columns: list[tuple[int | float, ...]] = [(n,) for n in self.run.epilogue.numbers]
        self.noise = Noise(self._device().type)
        self.noise.add(self.run.epilogue, columns, DrawPlace.BEFORE)
        graph, _ = self._freeze("n", self._functional(self.run.epilogue, columns), ())
        result = self._result(graph)
        weights = tuple(sorted(self.weights.values(), key=lambda w: int(w.name[1:])))
        draws = tuple(self.noise.draws)
        return Program(self.signature, weights, EMPTY_GRAPH, Chain(), graph, result, (), draws)

    def _entry(self, name: str, stack: Outside) -> tuple[str, Tensor]:
        """What the first step is handed of a stack, under its name there."""
        return name, self.known[stack][1][0]

    def _handed(self, body: Graph) -> tuple[PerStep, ...]:
        stacks = {f"x{i}": stack for i, stack in enumerate(self.run.stacks)}
        read = [value for value in body.inputs if value.name in stacks]
        return tuple(PerStep(value, Ref(self.known[stacks[value.name]][0])) for value in read)

    def rebound(self) -> frozenset[str]:
        return frozenset(self.weights[Outside(h)].name for h in self.run.recorder.rebound)

    def folded(self) -> dict[str, Tensor]:
        """The weights whose values became Python numbers, by path. Raises: `CaptureError` if one may change unseen."""
        found: dict[str, Tensor] = {}
        recorder = self.run.recorder
        for handle in sorted(recorder.folded):
            if handle in recorder.overwritten:
                raise CaptureError(
                    f"a Python number is read from the tensor that {recorder.overwritten[handle]} writes into\n"
                    "  keep a counter as a Python number"
                )
            tensor = recorder.outside[handle]
            found |= {path: tensor.detach().clone() for path in self._place(tensor).paths}
        return found

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
            if isinstance(key, Drawn):
                names[node.name], tensors[node.name] = self.noise.given[id(functional.segment)][key.call]
            else:
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
        if isinstance(token, Each):
            return self.run.types[self.run.stacks[token.index].handle].shape[1:]
        if isinstance(token, Collected):
            return (self.run.hi - self.run.lo, *self._left(token).shape)
        assert isinstance(token, Outside)
        if token.handle in self.run.types:
            return self.run.types[token.handle].shape
        return tuple(self.run.recorder.outside[token.handle].shape)

    def _left(self, collected: Collected) -> TensorType:
        """The type of what each step leaves."""
        template = self.run.steps.template
        assert template is not None
        made = template.results[len(self.run.init) + collected.index]
        assert isinstance(made, Made)
        kind = template.calls[made.call].types[made.output]
        assert kind is not None
        return kind

    def _result(self, epilogue: Graph) -> Result:
        leaves, tree = flatten(self.run.result)
        outputs = iter(epilogue.outputs)
        described = []
        for path, leaf in leaves:
            label = f"result{path}"
            if isinstance(leaf, Tensor):
                ref = next(outputs)
                described.append(Leaf(label, ref.key, tensor_type(leaf)))
            elif type(leaf) in PLAIN:
                described.append(Leaf(label, None, None, repr(leaf)))
            else:
                raise CaptureError(
                    f"{label} is a {type(leaf).__name__}; tensors and plain constants can be returned\n"
                    "  return what is in it: tensors and numbers, in tuples, lists, dicts or registered pytrees"
                )
        return Result(tuple(described), tree)

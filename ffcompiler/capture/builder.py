"""Graphs with program-wide names from a recorded run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..constants import PLAIN
from ..errors import CaptureError
from ..graph import EMPTY_GRAPH, Graph, Ref, TensorType, Value
from ..program import Chain, Check, DrawPlace, Leaf, Loop, PerStep, Program, Result, Signature, Weight, WeightKind
from ..trees import flatten
from .captured import Place
from .facts import tensor_type
from .freeze import Freezer
from .functional import Drawn, Functional, Key, LiteralKey, Tables, Test
from .hoisted import hoisted
from .noise import Noise
from .overwrites import freeze_overwrites, joined, take_overwrites, trimmed
from .record import Carried, Collected, Each, Made, Outside, Segment, Token
from .run import Run
from .surroundings import View


@dataclass(slots=True)
class Builder:
    """Graphs with program-wide names from a recorded run."""

    run: Run
    signature: Signature
    given: dict[Outside, Tensor]  # the arguments, in order
    label: str  # of results
    view: View
    tables: Tables = field(default_factory=Tables)
    weights: dict[Any, Weight] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    values: dict[Any, Tensor] = field(default_factory=dict)
    known: dict[Key, tuple[str, Tensor]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    noise: Noise = field(init=False)

    def program(self) -> Program:
        self.known = {outside: (f"a{i}", t) for i, (outside, t) in enumerate(self.given.items())}
        run, template = self.run, self.run.steps.template
        assert template is not None
        self.noise = Noise(self._device().type)
        self.noise.add(run.prologue, [(n,) for n in run.prologue.numbers], DrawPlace.BEFORE)
        self.noise.add(template, run.steps.columns(), DrawPlace.EACH)
        self.noise.add(run.epilogue, [(n,) for n in run.epilogue.numbers], DrawPlace.AFTER)
        written = {Outside(handle): line for handle, line in sorted(run.recorder.overwritten.items())}
        body = self._functional(template, run.steps.columns(), tuple(written))
        overwriting = take_overwrites(body, written, frozenset((*self.given, *map(Outside, run.made))))
        epilogue = self._functional(run.epilogue, [(n,) for n in run.epilogue.numbers])
        read = (*body.inputs, *epilogue.inputs, *run.init, *run.stacks, *run.epilogue.results, *run.epilogue.behind)
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
        self._check(body.tests, [Ref(f"y{i}") for i in range(len(stacks))])
        epilogue_graph, _ = self._freeze("e", epilogue, run.final)
        self._check(epilogue.tests, epilogue_graph.outputs)
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
        draws, checks = tuple(self.noise.draws), tuple(self.checks)
        writes = overwrites.writes
        made = Program(self.signature, weights, prologue_graph, loop, epilogue_graph, result, writes, draws, checks)
        return hoisted(made)

    def straight(self) -> Program:
        """The program of a run without a loop: all of it is the epilogue of a chain without blocks."""
        self.known = {outside: (f"a{i}", t) for i, (outside, t) in enumerate(self.given.items())}
        columns: list[tuple[int | float, ...]] = [(n,) for n in self.run.epilogue.numbers]
        self.noise = Noise(self._device().type)
        self.noise.add(self.run.epilogue, columns, DrawPlace.BEFORE)
        functional = self._functional(self.run.epilogue, columns)
        graph, _ = self._freeze("n", functional, ())
        self._check(functional.tests, graph.outputs)
        result = self._result(graph)
        weights = tuple(sorted(self.weights.values(), key=lambda w: int(w.name[1:])))
        draws = tuple(self.noise.draws)
        return Program(self.signature, weights, EMPTY_GRAPH, Chain(), graph, result, (), draws, tuple(self.checks))

    def _check(self, tests: Sequence[Test], outputs: Sequence[Ref]) -> None:
        """Note tests on values; what they looked at are the last of the outputs of their graph."""
        found = outputs[len(outputs) - len(tests) :]
        self.checks += [Check(ref, test.holds, test.source) for test, ref in zip(tests, found, strict=True)]

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
        return next(iter(self.given.values())).device if self.given else torch.device("cpu")

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
        self._check(functional.tests, graph.outputs)
        by_token = dict(zip(self.run.prologue.results, zip(graph.outputs, values, strict=True), strict=False))
        for outside, token in zip(needed, made, strict=True):
            ref, value = by_token[token]
            self.known[outside] = (ref.name, value)
        return trimmed(graph) if functional.tests else graph

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
            label = f"{self.label}{path}"
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
        return Result(tuple(described), tree, tuple(self._left_behind(outputs)))

    def _left_behind(self, outputs: Iterator[Ref]) -> Iterator[Leaf]:
        """What the epilogue gives besides the results, which ``outputs`` has come to."""
        paths = [path for one in self.run.behind for path in one.paths]
        for path, t, token in zip(paths, self.run.left_behind, self.run.epilogue.behind, strict=True):
            if token is not None:
                yield Leaf(path, next(outputs).key, tensor_type(t))

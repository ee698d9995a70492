"""A loop whose arrays grow, as one over a padded array, where each step computes the beginning of what later ones do.

before:  for _ in range(n): logits = model(idx)[:, -1]; idx = cat((idx, draw(logits)), 1)       idx: [B, t], t grows
after:   x = cat((idx, zeros(B, n)), 1)
         for i in range(n): logits = model(x[:, :t + n - 1])[:, t + i - 1]; x[:, t + i] = draw(logits)

The recorded steps are read call by call (`steps.py`); for each value is found along which axes the step's own is
the beginning of the padded one (`rules.py`), and how the padded step makes it (`Action`). What is not such a
beginning is refused with the call that is in the way. That the values are equal is up to rounding, so it takes a
tolerance; `padded_check` looks at them besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ...ops import OPS, Numerics
from ..draws import Drawing
from ..facts import mutated_names
from ..record import Carried, Made, Outside, Rebind
from ..repeats import LEAST, Repeat
from ..rolled import Flat
from .case import Action, Append, Case, Last, Own, Whole
from .facts import EXACT, Exact, Fact, Grown, dims_of
from .moves import ShiftedError
from .rules import RULES
from .steps import (
    BodyToken,
    Literals,
    NotPaddedError,
    Numbers,
    Prior,
    State,
    Steps,
    Unified,
    aten,
    before,
    tokens_in,
)

Concrete = Callable[[BodyToken, Steps], Tensor | None]
"""A value that depends on weights and constants only, in the last step; None if it is no such."""


@dataclass(slots=True)
class Padding:
    """How a loop is padded: for each call of the body its action, for each state that grows what is appended to it."""

    steps: Steps
    actions: list[Action] = field(default_factory=list)
    facts: dict[BodyToken, Fact] = field(default_factory=dict)
    appended: dict[int, Append] = field(default_factory=dict)

    @property
    def shared(self) -> bool:
        """Whether steps compute anything at the padded length."""
        both = zip(self.steps.calls, self.actions, strict=True)
        return any(isinstance(action, Last) and not _moves_only(call) for call, action in both)


def padding(flat: Flat, repeat: Repeat, concrete: Concrete) -> Padding:
    """The same for the first steps at least. Raises: `NotPaddedError` with the call that is in the way."""
    try:
        found = _Judge(Steps(flat, repeat).unify(), concrete).padding()
    except ShiftedError as shifted:
        if not LEAST <= shifted.first < repeat.count:
            raise
        found = _Judge(Steps(flat, Repeat(repeat.start, repeat.period, shifted.first)).unify(), concrete).padding()
    if not found.shared:
        raise NotPaddedError("steps compute nothing at the length of the array that grows: they have nothing in common")
    return found


@dataclass(slots=True)
class _Judge:
    """The analysis of one loop."""

    steps: Steps
    concrete: Concrete
    found: Padding = field(init=False)

    def __post_init__(self) -> None:
        self.found = Padding(self.steps)

    def padding(self) -> Padding:
        for leaf, state in enumerate(self.steps.states):
            self.found.facts[Carried(leaf)] = self._begun(leaf, state)
        for index, call in enumerate(self.steps.calls):
            action, facts = self._judged(index, call)
            self.found.actions.append(action)
            for output, fact in enumerate(facts):
                self.found.facts.setdefault(Made(index, output), fact)
        self._check_states()
        return self.found

    def known(self, token: BodyToken) -> Fact:
        return EXACT if isinstance(token, Outside | Prior) else self.found.facts.get(token)

    # ------------------------------------------------------------------------------------------ states

    def _begun(self, leaf: int, state: State) -> Fact:
        """What is known of a state at the start of each step."""
        if state.items:
            return None  # the list is joined before it is read
        shapes = self.steps.shapes_of(Carried(leaf))
        return EXACT if all(shape == shapes[0] for shape in shapes) else Grown(dims_of(shapes))

    def _check_states(self) -> None:
        for leaf, state in enumerate(self.steps.states):
            if state.items:
                self.found.appended[leaf] = self._collected(leaf, state)
            if leaf in self.found.appended or state.made is None:
                continue
            if not isinstance(self.known(Carried(leaf)), Exact) or not isinstance(self.known(state.made), Exact):
                made = self.steps.calls[state.made.call]
                raise NotPaddedError(
                    f"{made.op} at {made.source} gives the next state of the loop, which grows, and is no torch.cat of "
                    "the last one and something of one size"
                )

    def _collected(self, leaf: int, state: State) -> Append:
        """What steps append to a list."""
        made = state.made
        assert made is not None
        call = self.steps.calls[made.call]
        shapes = self.steps.shapes_of(made)
        if not isinstance(self.known(made), Exact) or any(shape != shapes[0] for shape in shapes):
            raise NotPaddedError(f"{call.op} at {call.source} is put into a list, and is of another size in each step")
        length = 1 if state.join is aten.stack.default else shapes[0][state.dim]
        joined = next(c for c in self.steps.calls if c.whole == leaf)
        assert joined.shapes[0] is not None
        starts = tuple(shape[state.dim] for shape in joined.shapes[0])
        return Append(leaf, made, state.dim, starts, length)

    def _appended(self, index: int, call: Unified) -> Append | None:
        """``cat((state, new), dim)``, if that is the next state."""
        if call.op is not aten.cat.default:
            return None
        given = call.given()
        tensors, dim = given["tensors"], given["dim"]
        if len(tensors) != 2 or not isinstance(tensors[0], Carried):
            return None
        leaf = tensors[0].leaf
        state, new = self.steps.states[leaf], tensors[1]
        if state.made != Made(index, 0) or not isinstance(self.known(tensors[0]), Grown):
            return None
        shapes = self.steps.shapes_of(tensors[0])
        at = (int(dim.values[0]) if isinstance(dim, Numbers) else dim) % len(shapes[0])
        sizes = self.steps.shapes_of(new)
        one = isinstance(self.known(new), Exact) and all(shape == sizes[0] for shape in sizes)
        if not one or any(d != at and any(s[d] != shapes[0][d] for s in shapes) for d in range(len(shapes[0]))):
            return None
        return Append(leaf, new, at, tuple(shape[at] for shape in shapes), sizes[0][at])

    # ------------------------------------------------------------------------------------------ calls

    def _judged(self, index: int, call: Unified) -> tuple[Action, tuple[Fact, ...]]:
        """How the padded step makes a call, and what is known of its results."""
        if call.whole is not None:
            assert call.shapes[0] is not None
            return Whole(call.whole), (Grown(dims_of(call.shapes[0])),)
        if (append := self._appended(index, call)) is not None:
            assert call.shapes[0] is not None
            self.found.appended[append.leaf] = append
            return append, (Grown(dims_of(call.shapes[0])),)
        case = Case(
            call, self.known, self.steps.shapes_of, lambda token: self.concrete(token, self.steps), self._literal
        )
        if isinstance(call.op, Rebind):
            raise case.refused("replaces the memory of a tensor")
        for token in call.tokens:
            if self.known(token) is None:
                case.fact(token)
        written = self._written(call)
        if any(self._of_state(token) for token in written):
            raise case.refused("writes in place into the array that grows")
        if all(isinstance(self.known(token), Exact) for token in call.tokens) and not call.grows:
            self._forget(written)
            return Own(), (EXACT,) * len(call.shapes)
        if isinstance(call.op, Drawing):
            raise case.refused("draws more in some steps than in others")
        rule = RULES.get(_without_underscore(str(call.op)) if written else str(call.op))
        if rule is None:
            raise case.refused("has no rule that says what it gives on a longer array")
        try:
            facts = rule(case)
        except (LookupError, TypeError, ValueError):
            raise case.refused("is called in a way that is not known") from None
        if written:
            self._rewritten(case, written, facts)
        return case.action, tuple(map(_settled, facts if isinstance(facts, tuple) else (facts,)))

    def _literal(self, token: BodyToken) -> Literals | None:
        """A tensor that is written out in the code."""
        call = self.steps.calls[token.call] if isinstance(token, Made) else None
        found = call.args[0] if call is not None and call.op is aten.lift_fresh.default else None
        return found if isinstance(found, Literals) else None

    def _written(self, call: Unified) -> list[BodyToken]:
        """What a call writes in place."""
        if isinstance(call.op, Drawing) or not hasattr(call.op, "_schema"):
            return []
        given = call.given()
        return [token for name in mutated_names(call.op) for token in tokens_in([given[name]])]

    def _rewritten(self, case: Case, written: list[BodyToken], facts: Fact | tuple[Fact, ...]) -> None:
        """Only whole values that grow are written, and element by element."""
        simple = isinstance(facts, Grown) and len(written) == 1 and isinstance(written[0], Made)
        if not simple or case.call.args[0] != written[0]:
            raise case.refused("writes in place into an array that grows")
        whole = self._numel(written[0])
        if any(self._numel(mate) != whole for mate in self._mates(written[0])):
            raise case.refused("writes in place into a part of an array that grows")
        before_it = self.known(written[0])
        self._forget(written)
        if not isinstance(before_it, Grown) or not isinstance(facts, Grown) or facts.dims != before_it.dims:
            for mate in self._mates(written[0]):
                self.found.facts[mate] = None  # what is short of it shows in other views, too
        self.found.facts[written[0]] = facts if isinstance(facts, Grown) else None

    def _forget(self, written: list[BodyToken]) -> None:
        """What was known of numbers that are written over."""
        for token in written:
            for mate in self._mates(token):
                fact = self.found.facts.get(mate)
                if isinstance(fact, Grown) and fact.hidden is not None:
                    self.found.facts[mate] = Grown(fact.dims)

    def _mates(self, token: BodyToken) -> list[Made]:
        """The values of the step so far that lie in the same memory, in the last step."""
        memory, last = self.steps.flat.memory, self.steps.repeat.begin(self.steps.count - 1)

        def storage(of: BodyToken) -> int:
            if isinstance(of, Made):
                return memory.of.get(Made(last + of.call, of.output), -1)
            return -2 if isinstance(of, Carried) else memory.of.get(before(of), -1)

        own = storage(token)
        return [known for known in self.found.facts if isinstance(known, Made) and storage(known) == own]

    def _of_state(self, token: BodyToken) -> bool:
        """Whether a value lies in the memory of a state that grows, which padded steps have elsewhere."""
        if isinstance(token, Carried):
            return not isinstance(self.known(token), Exact)
        appended = (Append, Whole)
        mates = [mate for mate in self._mates(token) if mate.call < len(self.found.actions)]
        if any(isinstance(self.found.actions[mate.call], appended) for mate in mates):
            return True
        memory, begin = self.steps.flat.memory, self.steps.repeat.begin(self.steps.count - 1)
        assert isinstance(token, Made | Outside | Prior)
        own = Made(begin + token.call, token.output) if isinstance(token, Made) else before(token)
        grown = [s.made for leaf, s in enumerate(self.steps.states) if not isinstance(self.known(Carried(leaf)), Exact)]
        last = self.steps.repeat.begin(self.steps.count - 2)
        names = [Made(last + made.call, made.output) for made in grown if made is not None]
        return any(memory.of.get(name) == memory.of.get(own, -1) for name in names)

    def _numel(self, token: BodyToken) -> int:
        size = 1
        for length in self.steps.shapes_of(token)[-1]:
            size *= length
        return size


def _moves_only(call: Unified) -> bool:
    op = OPS.get(str(call.op))
    return op is not None and op.numerics in (Numerics.MOVE, Numerics.CREATE)


def _settled(fact: Fact) -> Fact:
    """What grows along no axis is one value."""
    grown = isinstance(fact, Grown) and not any(fact.grows(dim) for dim in range(len(fact.dims)))
    return EXACT if grown else fact


def _without_underscore(name: str) -> str:
    namespace, packet, overload = name.split(".")
    return f"{namespace}.{packet.removesuffix('_')}.{overload}"

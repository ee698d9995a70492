"""What capture gives: a program, where its weights live, and recorded runs to compare it with."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..program import Program
from ..randomness import States
from .behind import Left
from .surroundings import View


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
    marked: bool  # the loop is one of `ffcompiler.loops`, and the function itself can go on from any step
    no_loop: str = ""  # of a program without a loop: why none was found
    small_loop: bool = False  # there is one, of fewer calls than were asked for
    rest: Captured | None = None  # the loops after this one; the results of this one are its arguments
    otherwise: str = ""  # what in the function was recorded by operators that round otherwise than its own
    compiled: str = ""  # what in it torch compiles before it runs it, and was recorded as if it did not
    padded: bool = False  # its array grows from step to step; the program's has all of its length from the beginning
    left: tuple[Left, ...] = ()  # what the function leaves in attributes and entries, and compiled calls leave too

    @property
    def parts(self) -> tuple[Captured, ...]:
        """This one and those after it, one for each loop."""
        return (self, *(self.rest.parts if self.rest is not None else ()))

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


def without_last(captured: Captured, program: Program) -> Captured:
    """The same function as another program, whose loop makes all steps but the last; as it is if these are unknown."""
    last = captured.program.loop.hi - captured.program.loop.lo - 1
    replays = []
    for replay in captured.replays:
        before = next((c.before for c in replay.checkpoints if c.position == last), None)
        if before is None or not replay.complete:
            return captured
        checkpoints = tuple(c for c in replay.checkpoints if c.position < last)
        replays.append(replace(replay, final=before, checkpoints=checkpoints))
    return replace(captured, program=program, replays=tuple(replays), marked=False)

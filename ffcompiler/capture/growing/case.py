"""One call of the body while it is judged: what is known of what it is given, and how the padded step makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from .facts import Dim, Exact, Fact, Grown, Hidden, Sizes, dims_of, fits
from .steps import BODY_TOKENS, BodyToken, Literals, NotPaddedError, Numbers, Unified, tokens_in


@dataclass(frozen=True, slots=True)
class Own:
    """As the step itself makes it: all that it is given is of one size."""


@dataclass(frozen=True, slots=True)
class Last:
    """As the last step makes it, with its numbers: at the padded length."""


@dataclass(frozen=True, slots=True)
class Read:
    """The entries from ``starts[k]`` on of an axis of ``token``, ``length`` of them (None: one, without the axis)."""

    token: BodyToken
    dim: int
    starts: Sizes
    length: int | None
    copied: bool  # not a view


@dataclass(frozen=True, slots=True)
class Append:
    """``token``, written behind what there is so far of state ``leaf``: from ``starts[k]`` on."""

    leaf: int
    token: BodyToken
    dim: int
    starts: Sizes
    length: int


@dataclass(frozen=True, slots=True)
class Whole:
    """State ``leaf``, a list, joined."""

    leaf: int


Action: TypeAlias = Own | Last | Read | Append | Whole


@dataclass(slots=True)
class Case:
    """``known`` gives what is known of a value, ``shapes`` its shape in each step.

    ``concrete``: the value itself, where it depends on weights and constants only; ``written_out``: where it is a
    literal in the code.
    """

    call: Unified
    known: Callable[[BodyToken], Fact]
    shapes: Callable[[BodyToken], tuple[tuple[int, ...], ...]]
    concrete: Callable[[BodyToken], Tensor | None]
    written_out: Callable[[BodyToken], Literals | None]
    action: Action = field(default_factory=Last)
    given: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.given = self.call.given()

    def refused(self, why: str) -> NotPaddedError:
        return NotPaddedError(f"{self.call.op} at {self.call.source} {why}")

    def fact(self, token: BodyToken) -> Grown:
        """What is known of a value, one that is of one size too."""
        found = self.known(token)
        if found is None:
            raise self.refused("reads what is not known to be the same in a longer array")
        return Grown(dims_of(self.shapes(token))) if isinstance(found, Exact) else found

    def of(self, name: str) -> Grown:
        """The same of an argument. Raises: `NotPaddedError` if it is no tensor."""
        return self.fact(self.token(name))

    def token(self, name: str) -> BodyToken:
        value = self.given.get(name)
        if not isinstance(value, BODY_TOKENS):
            raise self.refused("is called in a way that is not known")
        return value

    def tokens(self, *names: str) -> list[BodyToken]:
        """The tensors in some arguments, or in all."""
        return tokens_in([self.given[name] for name in names] if names else list(self.given.values()))

    def constant(self, name: str) -> Any:
        """An argument of numbers. Raises: `NotPaddedError` if they differ from step to step."""
        return self._plain(self.given.get(name))

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Numbers):
            if not value.same:
                raise self.refused(f"reads a number that differs from step to step ({value.values[0]!r}, then others)")
            return value.values[0]
        if isinstance(value, tuple | list):
            return tuple(map(self._plain, value))
        return value

    def column(self, name: str, otherwise: int) -> Sizes:
        """A whole number, for each step; ``otherwise`` where there is none."""
        value = self.given.get(name)
        if isinstance(value, Numbers):
            return tuple(int(v) for v in value.values)
        return (otherwise if value is None else int(value),) * self.steps

    def require_constants(self) -> None:
        """Raises: `NotPaddedError` where a number differs from step to step."""
        for value in self.given.values():
            if isinstance(value, Literals):
                raise self.refused("reads a tensor that is written out")
            self._plain(value)

    @property
    def steps(self) -> int:
        return len(self.out_shapes(0))

    def out_shapes(self, output: int = 0) -> tuple[tuple[int, ...], ...]:
        shapes = self.call.shapes[output]
        assert shapes is not None
        return shapes

    def rank(self, output: int = 0) -> int:
        return len(self.out_shapes(output)[0])

    def result(self, dims: Sequence[Dim], hidden: Hidden | None = None, output: int = 0) -> Grown:
        """A result with these axes. Raises: `NotPaddedError` if it has other sizes in some step."""
        if not fits(dims, self.out_shapes(output)):
            raise self.refused("gives an array that does not grow as what it reads does")
        return Grown(tuple(dims), hidden)

    def fixed(self, fact: Grown, dim: int, what: str) -> None:
        """Raises: `NotPaddedError` if an axis grows."""
        if fact.grows(dim):
            raise self.refused(
                f"{what} the axis that grows: what a step sees there is not the beginning of what later ones see"
            )


Rule: TypeAlias = Callable[[Case], "Fact | tuple[Fact, ...]"]
"""What is known of the results of a call. Raises: `NotPaddedError` where it does not give the beginning."""

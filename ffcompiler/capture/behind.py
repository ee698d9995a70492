"""What a function leaves in attributes and entries, besides its result: the same values, left by compiled calls too.

before:  self.h = h in the function's last step;  return out
after:   results: out;  left: h, which is put where ``self.h`` is when the call ends

A value is left if it can be had for nothing: an argument, something made before or after the loop, or the last state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..trees import flatten, unflatten
from .anew import Anew
from .facts import storage_of
from .flat import copied
from .holders import Spot, put
from .record import Recorder, Segment, Token
from .surroundings import View


class LeftOtherwiseError(Exception):
    """Two runs leave things in different places, or other ones: then none of them is left by compiled calls."""


@dataclass(frozen=True, slots=True)
class LeftTensor:
    """``path`` is its name in the program's `Result.left`; ``shared``: its memory is that of something else too."""

    path: str
    shared: bool


Part: TypeAlias = LeftTensor | bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Left:
    """What a run leaves in one spot: tensors and constants in a tree. ``tokens``: a recording's names of the former."""

    spot: Spot
    tree: str
    parts: tuple[Part, ...]
    tokens: tuple[Token | None, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(part.path for part in self.parts if isinstance(part, LeftTensor))

    def put(self, view: View, values: Mapping[str, Tensor]) -> None:
        """Leave ``values``, by path, where the function would; in memory of their own, as far as its own have that."""
        made = [_own(part, values[part.path]) if isinstance(part, LeftTensor) else part for part in self.parts]
        put(view, self.spot, unflatten(self.tree, made))


def _own(part: LeftTensor, value: Tensor) -> Tensor:
    return value if part.shared else copied(value)


def left_by(function: Any, recorder: Recorder, result: Any) -> tuple[tuple[Left, ...], tuple[Tensor, ...]]:
    """What a recorded run has left behind, of that which can be left by others, and the tensors in it, in order."""
    found: list[Left] = []
    entries = function.left() if isinstance(function, Anew) else ()
    flat = [(spot, *flatten(value)) for spot, value in entries]
    tensors = [leaf for _, leaves, _ in flat for _, leaf in leaves if isinstance(leaf, Tensor)]
    results = [leaf for _, leaf in flatten(result)[0] if isinstance(leaf, Tensor)]
    held = Counter(storage_of(t) for t in (*tensors, *results, *recorder.outside) if not isinstance(t, FakeTensor))
    for spot, leaves, tree in flat:
        own = [leaf for _, leaf in leaves if isinstance(leaf, Tensor)]
        parts = [_part(spot, path, leaf, held) for path, leaf in leaves]
        found.append(Left(spot, tree, tuple(parts), together([recorder.left_behind(t) for t in own])))
    paths = Counter(path for one in found for path in one.paths)
    alone = [all(paths[path] == 1 for path in one.paths) for one in found]  # an old list, and the one in its place
    told = (one if ok else replace(one, tokens=(None,) * len(one.tokens)) for one, ok in zip(found, alone, strict=True))
    return tuple(told), tuple(tensors)


def _part(spot: Spot, path: str, leaf: Any, held: Mapping[int, int]) -> Part:
    if isinstance(leaf, Tensor):
        fake = isinstance(leaf, FakeTensor)
        return LeftTensor(f"{spot.name}{path}", fake or held[storage_of(leaf)] > 1)
    assert leaf is None or isinstance(leaf, bool | int | float | str)
    return leaf


def together(tokens: Sequence[Token | None]) -> tuple[Token | None, ...]:
    """All of what is left in one spot, or nothing of it."""
    return tuple(tokens) if None not in tokens else (None,) * len(tokens)


def where_known(left: Sequence[Left], segments: Sequence[Segment]) -> tuple[Left, ...]:
    """``left`` as far as the last segments of the parts of a function know it; they are told to leave no more of it."""
    found: list[Left] = []
    begin = 0
    for one in left:
        places = range(begin, begin := begin + len(one.tokens))
        whole = all(sum(segment.behind[k] is not None for segment in segments) == 1 for k in places)
        for segment in () if whole else segments:
            behind = list(segment.behind)
            behind[places.start : places.stop] = [None] * len(places)
            segment.behind = tuple(behind)
        found.append(one if whole else replace(one, tokens=(None,) * len(places)))
    return tuple(found)


def require_alike(was: Sequence[Left], now: Sequence[Left]) -> None:
    """Raises: `LeftOtherwiseError`."""
    if _forms(was) != _forms(now):
        raise LeftOtherwiseError


def _forms(left: Sequence[Left]) -> list[Hashable]:
    return [(one.spot, one.tree, repr(one.parts), one.tokens) for one in left]

"""Constants in arguments: what counts as one, when two are the same, and each as text and back, evaluating nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch

PLAIN = frozenset({bool, int, float, str, type(None)})
"""Constants that results may hold too."""
_NAMED = (torch.dtype, torch.layout, torch.memory_format)
"""Types of torch whose values are known by their names."""
_WRITTEN = frozenset({bytes, complex, range, type(Ellipsis)})
"""Types whose values are what ``repr`` says."""
_NUMBERS = "biufcSU"
"""Kinds of numpy's scalars that are what their bytes say."""


@dataclass(frozen=True, slots=True)
class Same:
    """Equal for one and the same object only, which is kept alive, so that no other is taken for it."""

    thing: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


@dataclass(frozen=True, slots=True)
class Written:
    """In place of a constant of which nothing but the text is known, such as a member of an enum of another process."""

    text: str


def key_of_constant(value: Any) -> Hashable:
    """What two constants have in common if and only if they are the same; None for what is no constant."""
    kind = type(value)
    if kind in PLAIN:
        return kind, value.hex() if kind is float else value
    if kind in _WRITTEN or isinstance(value, (*_NAMED, torch.device)):
        return kind, repr(value)
    if isinstance(value, Enum):
        return kind, Same(value)
    if isinstance(value, np.generic):
        return (kind, value.tobytes()) if value.dtype.kind in _NUMBERS else None
    if isinstance(value, int | float | str) and not getattr(value, "__dict__", None):
        return kind, _base(value)
    return (Written, value.text) if kind is Written else None


def text_of_constant(value: Any) -> str | None:
    """A constant as it stands in a signature: ``3``, ``torch.float32``, ``modes.Mode.FAST``; None for what is none."""
    kind = type(value)
    if kind in PLAIN or kind in _WRITTEN:
        return repr(value)
    if isinstance(value, _NAMED):
        return str(value)
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})"
    if kind is Written:
        return str(value.text)
    if key_of_constant(value) is None:
        return None
    if isinstance(value, Enum):
        return f"{title(kind)}.{value.name}"
    return f"{title(kind)}({value.item()!r})" if isinstance(value, np.generic) else f"{title(kind)}({_base(value)})"


def constant_in(text: str) -> Any:
    """The constant that a text of `text_of_constant` stands for; `Written` where this process cannot know it.

    >>> constant_in("torch.float32"), constant_in("torch.device('cpu')"), constant_in("(1, 'a')"), constant_in("-inf")
    (torch.float32, device(type='cpu'), (1, 'a'), -inf)
    """
    if text in ("inf", "-inf", "nan"):
        return float(text)
    if (name := text.removeprefix("torch.")) != text and isinstance(found := vars(torch).get(name), _NAMED):
        return found
    try:
        device = re.fullmatch(r"torch\.device\('([a-z]+(?::\d{1,4})?)'\)", text)
        found = torch.device(device[1]) if device else ast.literal_eval(text)
    except (ValueError, SyntaxError, RuntimeError):  # no such device, or no literal
        return Written(text)
    return Written(text) if isinstance(found, complex) and repr(found) != text else found  # one of its zeros is lost


def title(kind: Any) -> str:
    """The full name of a type or a function."""
    return f"{getattr(kind, '__module__', None) or 'builtins'}.{getattr(kind, '__qualname__', type(kind).__qualname__)}"


def _base(value: Any) -> str:
    """A value of a type derived from a plain one, as its plain type writes it."""
    base = next(base for base in (int, float, str) if isinstance(value, base))
    return float(value).hex() if base is float else base.__repr__(value)

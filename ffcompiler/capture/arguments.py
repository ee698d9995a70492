"""The signature of a call: its leaves in order, and the modes in which it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..calls import labelled, names_of
from ..constants import text_of_constant
from ..errors import CaptureError
from ..given import is_object, refusal, text_of_object
from ..modes import ambient, described
from ..program import Leaf, Signature
from ..trees import flatten
from .facts import tensor_type
from .surroundings import View, look


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

    Raises `CaptureError` for a leaf that is no tensor, no constant and no object that can be bound.
    """
    tree = f"[{flatten(list(args))[1]},{flatten(dict(sorted(kwargs.items())))[1]}]"
    described: list[Leaf] = []
    tensors: list[Tensor] = []
    for label, leaf in labelled(names_of(function), args, kwargs):
        if isinstance(leaf, Tensor):
            described.append(Leaf(label, f"a{len(tensors)}", tensor_type(leaf)))
            tensors.append(leaf)
        elif (text := text_of_constant(leaf)) is not None:
            described.append(Leaf(label, None, None, text))
        elif is_object(leaf):
            described.append(Leaf(label, None, None, text_of_object(leaf)))
        else:
            raise CaptureError(f"argument {label} is {refusal(leaf)}")
    return Signature(tuple(described), tree), tensors

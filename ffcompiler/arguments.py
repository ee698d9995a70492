"""From the arguments of a call to the tensors that a plan takes, and from its tensors to the result; faults by name."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .calls import Parameters, mismatches
from .capture import describe_arguments
from .errors import CaptureError, SignatureError
from .program import Leaf, Result, Signature
from .trees import unflatten


def checked_tensors(
    wanted: Signature,
    function: Callable[..., Any] | None,
    parameters: Parameters,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    device: torch.device,
) -> list[Tensor]:
    """The tensors of a call of ``function``, if that is known. Raises: `SignatureError` with every mismatch."""
    try:
        given, tensors = describe_arguments(function or _nameless, *parameters.canonical(args, kwargs))
    except CaptureError as error:
        raise SignatureError(str(error)) from None
    faults = [*mismatches(wanted, given), *_elsewhere(given, tensors, device), *_with_gradients(given, tensors)]
    if faults:
        raise SignatureError("the arguments are not those the function was compiled for\n  " + "\n  ".join(faults))
    return tensors


def admit(function: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises: `SignatureError` for tensors that require gradients, where those are on."""
    if faults := list(_with_gradients(*describe_arguments(function or _nameless, args, kwargs))):
        raise SignatureError("\n  ".join(["these arguments cannot be taken", *faults]))


def _elsewhere(given: Signature, tensors: Sequence[Tensor], device: torch.device) -> Iterator[str]:
    for path, tensor in _by_path(given, tensors):
        if tensor.device.type != device.type:
            yield f"{path} is on {tensor.device}; the plan is for {device}"


def _with_gradients(given: Signature, tensors: Sequence[Tensor]) -> Iterator[str]:
    for path, tensor in _by_path(given, tensors):
        if tensor.requires_grad and torch.is_grad_enabled():
            yield f"{path} requires gradients, compiled functions give none: detach it, or call under torch.no_grad()"


def _by_path(given: Signature, tensors: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    return zip([leaf.path for leaf in given.leaves if leaf.type], tensors, strict=True)


def _nameless() -> None:
    """A function without parameter names."""


def in_its_structure(result: Result, tensors: Sequence[Tensor]) -> Any:
    """What the function returns, its tensors being these."""
    remaining = iter(tensors)
    return unflatten(result.tree, [constant(leaf) if leaf.name is None else next(remaining) for leaf in result.leaves])


def constant(leaf: Leaf) -> Any:
    """The constant of a leaf, from its text."""
    assert leaf.constant is not None
    if leaf.constant in ("inf", "-inf", "nan"):
        return float(leaf.constant)
    return ast.literal_eval(leaf.constant)

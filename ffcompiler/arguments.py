"""From the arguments of a call to the tensors that a plan takes, and from its tensors to the result; faults by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .calls import Parameters, as_stored, left_out, mismatches, others_given
from .capture import describe_arguments
from .constants import constant_in
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
    call = parameters.canonical(args, kwargs)
    expected = as_stored(wanted) if function is None else wanted
    try:
        given, tensors = describe_arguments(function or _nameless, *call)
    except CaptureError as error:
        raise SignatureError(str(error)) from None
    faults = [*mismatches(expected, given), *_elsewhere(given, tensors, device), *_with_gradients(given, tensors)]
    faults += others_given(function, *call)
    if function is None and len(given.leaves) != len(expected.leaves) and (held := left_out(wanted)):
        faults.append(f"it holds {', '.join(held)} and is called without")
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
    return constant_in(leaf.constant)

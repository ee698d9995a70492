"""The weights of a plan as one safetensors file, and back: those of all its parts, each under a name of its own.

The first part's weights have their names in the plan, ``w3``; those of the second are ``part2.w3``, and so on. A tensor
that several parts use (of one kind, path and type in the plan, and with the same bits) is stored once, for the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import ArtifactError
from ..plan import Plan
from ..program import Weight
from ..runtime.equality import same_bits

WEIGHTS = "weights.safetensors"


def weights_to_bytes(plan: Plan, weights: Sequence[Mapping[str, Tensor]]) -> bytes:
    """The file's bytes: the same for the same plan and weights. ``weights``: for each part those it names."""
    stored: dict[str, Tensor] = {}
    for part, (weight, key, home) in _places(plan):
        tensor = _storable(weights[part][weight.name])
        if key == home or not same_bits(tensor, stored[home]):
            stored[key] = tensor
    return safetensors.torch.save(stored)


def weights_from_bytes(data: bytes, plan: Plan) -> tuple[dict[str, Tensor], ...]:
    """The tensors of each part, each as the plan types it (strides included), on the CPU.

    Raises: `ArtifactError` where the file is none, or holds other weights than the plan names.
    """
    try:
        stored = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{WEIGHTS} cannot be read: {ascii(str(error))[1:-1]}; compile it again") from None
    places = list(_places(plan))
    odd = stored.keys() - {key for _, (_, key, _) in places} | {home for _, (_, _, home) in places} - stored.keys()
    if odd:
        raise ArtifactError(f"{WEIGHTS} does not hold the plan's weights: {sorted(odd)[:5]!a}; compile it again")
    typed: dict[str, Tensor] = {}
    found: tuple[dict[str, Tensor], ...] = tuple({} for _ in plan.parts)
    for part, (weight, key, home) in places:
        held = key if key in stored else home
        if held not in typed:
            typed[held] = _as_typed(stored[held], weight)
        found[part][weight.name] = typed[held]
    return found


def _places(plan: Plan) -> Iterator[tuple[int, tuple[Weight, str, str]]]:
    """Of each part, each weight with its own key, and with the one under which it stands if it is shared."""
    homes: dict[object, str] = {}
    for part, subject in enumerate(plan.parts):
        assert subject.program is not None
        prefix = f"part{part + 1}." if part else ""
        new: dict[object, str] = {}
        for weight in subject.program.weights:
            key, what = prefix + weight.name, (weight.kind, weight.path, weight.type)
            new.setdefault(what, key)
            yield part, (weight, key, homes.get(what, key))
        homes = new | homes


def _as_typed(stored: Tensor, weight: Weight) -> Tensor:
    kind = weight.type
    if tuple(stored.shape) != kind.shape or str(stored.dtype).removeprefix("torch.") != kind.dtype:
        raise ArtifactError(
            f"weight {weight.name} is {stored.dtype} {tuple(stored.shape)} in {WEIGHTS} and {kind} in the plan; "
            "compile it again"
        )
    if stored.stride() == kind.stride:
        return stored
    span = sum((size - 1) * stride for size, stride in zip(kind.shape, kind.stride, strict=True)) + 1
    if span > 4 * max(stored.numel(), 1):
        raise ArtifactError(f"weight {weight.name} has strides {kind.stride} that spread it over {span} elements")
    laid_out = stored.new_empty(span).as_strided(kind.shape, kind.stride)
    places = [slice(0, 1) if stride == 0 else slice(None) for stride in kind.stride]
    laid_out[tuple(places)].copy_(stored[tuple(places)])  # elements that share a place are the same number
    return laid_out


def _storable(t: Tensor) -> Tensor:
    return t.detach().to("cpu").contiguous().clone()

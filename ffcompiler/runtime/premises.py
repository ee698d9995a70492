"""Run-time checks of the facts that a proof rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

import torch
from torch import Tensor

from ..plan import Bounded, Finite, NoNegativeZero, Premise
from ..proof import Proof
from .equality import bits, same_bits

LARGEST_REDUCED = 3.38e38
"""Values up to this stay finite when a kernel rounds them to TF32 or bfloat16, whose range ends at 3.39e38."""


class Zeros:
    """What a proof rests on of values that no step changes, on the device: `broken` names those that differ from it.

    A value is zero where it was, a mask that the proof uses as a whole is the same in every bit, and what is added to
    products with zeros holds no -0. All are looked at in every call: a version counter would miss a write through
    ``.data`` or through numpy.
    """

    def __init__(self, proof: Proof, device: torch.device) -> None:
        zeros = {name: ~nonzero for name, nonzero in proof.patterns.items() if not isinstance(nonzero, Tensor)}
        self._zero = {name: torch.from_numpy(zero).to(device) for name, zero in zeros.items()}
        self._masks = {name: mask.to(device) for name, mask in proof.patterns.items() if isinstance(mask, Tensor)}
        self._unsigned = [premise.value for premise in proof.premises if isinstance(premise, NoNegativeZero)]
        self._magnitudes: dict[str, Tensor] = {}  # masks over the bits of each value, made at first use

    def broken(self, values: Mapping[str, Tensor]) -> list[str]:
        """Keys of the values that no longer are what the proof needs."""
        changed = [name for name, mask in self._masks.items() if not same_bits(values[name], mask)]
        changed += [name for name, zero in self._zero.items() if not self._holds(name, values[name], zero)]
        return changed + [name for name in self._unsigned if has_negative_zero(values[name])]

    def _holds(self, name: str, value: Tensor, zero: Tensor) -> bool:
        if value.shape != zero.shape:
            return False
        if not value.dtype.is_floating_point:
            return not bool((value[zero] != 0).any())
        raw = bits(value)
        magnitude = self._magnitudes.get(name)
        if magnitude is None or magnitude.stride() != raw.stride() or magnitude.dtype != raw.dtype:
            largest = torch.iinfo(raw.dtype).max  # every bit but the sign's, so that -0 is zero
            magnitude = self._magnitudes[name] = torch.empty_like(raw).copy_(zero).mul_(largest)
        return raw.numel() == 0 or int((raw & magnitude).amax()) == 0


def has_negative_zero(value: Tensor) -> bool:
    """Whether an element is -0, or counts as such where denormals do (`torch.set_flush_denormal`).

    Read as integers -0 is the smallest float of all, negative denormals come next.
    """
    if value.numel() == 0:
        return False
    least = bits(torch.tensor(-torch.finfo(value.dtype).tiny, dtype=value.dtype))
    if int(bits(value).amin()) >= int(least):
        return False
    return bool(((value == 0) & value.signbit()).any())


def where_zero(values: Iterable[Tensor]) -> str:
    """A fingerprint of where values are zero, and of which sign: proofs rest on no more of their weights."""
    digest = sha256()
    for value in values:
        zero = value == 0
        signed = zero & value.signbit() if value.dtype.is_floating_point else zero
        digest.update(repr(tuple(value.shape)).encode())
        digest.update(torch.stack([zero, signed]).cpu().numpy().tobytes())
    return digest.hexdigest()


def totals(values: Iterable[Tensor]) -> list[Tensor]:
    """Sums to look at for finiteness: a sum is finite only if all its terms are."""
    return [value.sum() for value in values]


def really_finite(values: Iterable[Tensor]) -> bool:
    """The exact test, for when the cheap one says no."""
    return all(bool(value.isfinite().all()) for value in values)


def below(values: Mapping[str, Tensor], bounds: Mapping[str, float]) -> bool:
    """Whether each value that has a bound is smaller than it in magnitude, in all elements; NaN is not."""
    named = [(values[name], bound) for name, bound in bounds.items()]
    return all(value.numel() == 0 or bool(value.abs().amax() < bound) for value, bound in named)


def failed(premises: Iterable[Premise], values: Mapping[str, Tensor], reduced: bool) -> str:
    """The first premise that the values of a sweep do not meet, as text; ``reduced`` products round their factors."""
    for premise in premises:
        if not isinstance(premise, Finite | Bounded):
            continue
        own = [values[premise.value]]
        bound = {premise.value: premise.bound} if isinstance(premise, Bounded) else {}
        if not really_finite(own) or not below(values, bound):
            return str(premise)
        if reduced and not within_reduced_range(own):
            return f"once rounded to TF32 or bfloat16, {premise}"
    return ""


def within_reduced_range(values: Iterable[Tensor]) -> bool:
    """Every magnitude survives rounding to TF32 or bfloat16."""
    return all(value.numel() == 0 or bool(value.abs().amax() <= LARGEST_REDUCED) for value in values)


def reduced_precision(device: torch.device) -> bool:
    """Whether float32 products may be computed in TF32 or bfloat16 on this device now."""
    if torch.get_float32_matmul_precision() != "highest":
        return True
    if device.type == "cuda":
        return bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return False

"""How many leading blocks a sweep left as they were: by their bits, or within a tolerance, all leaves of a block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..plan import Bits, Equality, Tolerance
from .blocks import Values
from .equality import bits, differs
from .unlike import Block, Unlike

LOOK = 64
"""Blocks that are compared first; the look doubles while all are equal, so that a sweep pays for how far it got."""

SMALL = 2**14
"""Elements: unlike blocks of so many are compared in one call with others of their form."""


@dataclass(frozen=True, slots=True)
class Compared:
    """``unchanged`` leading blocks; ``numbers`` that were fetched along.

    Under a tolerance ``residual`` is the largest distance in these blocks, ``change`` the largest of all.
    """

    unchanged: int
    numbers: list[float]
    residual: float | None = None
    change: float | None = None


def compare_blocks(equality: Equality, old: Values, new: Values, extra: list[Tensor]) -> Compared:
    """Old and new values of some blocks."""
    was, now = cast(object, old[0]), cast(object, new[0])
    if isinstance(was, Unlike) and isinstance(now, Unlike):
        return _one_by_one(equality, was, now, extra)
    match equality:
        case Bits():
            return _by_bits(old, new, extra)
        case Tolerance():
            return _by_distance(old, new, equality, extra)


def _one_by_one(equality: Equality, old: Unlike, new: Unlike, extra: list[Tensor]) -> Compared:
    """Blocks that have no tensor in common; by their bits only as far as they are equal."""
    numbers = fetch(extra)
    if isinstance(equality, Bits):
        found = (k for k, (a, b) in enumerate(zip(old, new, strict=True)) if not _alone(equality, a, b).unchanged)
        return Compared(next(found, len(new)), numbers)
    within, changes = [True] * len(new), [0.0] * len(new)
    for blocks in _of_one_form(new):
        for a, b in zip(*(zip(*(state[k] for k in blocks), strict=True) for state in (old, new)), strict=True):
            if not b[0].numel():
                continue
            for k, near, change in zip(blocks, *_each_distance(torch.stack(a), torch.stack(b), equality), strict=True):
                within[k], changes[k] = within[k] and near, max(changes[k], change)
    unchanged = next((k for k, near in enumerate(within) if not near), len(within))
    return Compared(unchanged, numbers, max(changes[:unchanged], default=0.0), max(changes, default=0.0))


def _of_one_form(blocks: Unlike) -> list[list[int]]:
    """Which blocks can be compared in one call, being small and of the same shapes and types."""
    found: dict[object, list[int]] = {}
    for k, block in enumerate(blocks):
        large = sum(t.numel() for t in block) > SMALL
        form = tuple((t.shape, t.dtype) for t in block)
        found.setdefault((form, k if large else None), []).append(k)
    return list(found.values())


def _alone(equality: Equality, old: Block, new: Block) -> Compared:
    """One block."""
    a, b = (tuple(t[None] for t in block if t.numel()) for block in (old, new))
    return compare_blocks(equality, a, b, []) if a else Compared(1, [], 0.0, 0.0)


def _by_bits(old: Values, new: Values, extra: list[Tensor]) -> Compared:
    unchanged, numbers = leading_equal(old[0], new[0], extra)
    for a, b in zip(old[1:], new[1:], strict=True):
        if unchanged == 0:
            break
        unchanged, _ = leading_equal(a[:unchanged], b[:unchanged], [])
    return Compared(unchanged, numbers)


def leading_equal(old: Tensor, new: Tensor, extra: list[Tensor]) -> tuple[int, list[float]]:
    """The number of leading entries with the same bits, and the numbers in ``extra``."""
    if old.device.type != "cpu":  # one look, one transfer
        return _leading_false(_changed(old, new), extra)
    a, b = bits(old).numpy(), bits(new).numpy()  # a third of the time that torch takes for so little
    start, count, width = 0, old.shape[0], LOOK
    numbers = fetch(extra)
    while start < count:
        end = min(start + width, count)
        changed = (a[start:end] != b[start:end]).reshape(end - start, -1).any(axis=1)
        first = int(changed.argmax())
        if changed[first]:
            return start + first, numbers
        start, width = end, 2 * width
    return count, numbers


def _changed(old: Tensor, new: Tensor) -> Tensor:
    return per_block(bits(old) != bits(new)).any(1)


def per_block(t: Tensor) -> Tensor:
    """``[blocks, elements of a block]``."""
    return t.reshape(t.shape[0], -1)


def _leading_false(flags: Tensor, extra: list[Tensor]) -> tuple[int, list[float]]:
    """The number of leading False entries, and the numbers in ``extra``; off the CPU in one transfer."""
    if flags.device.type == "cpu":
        raw = flags.numpy()
        first = int(raw.argmax()) if raw.size else 0
        return (first if raw.size and raw[first] else raw.size), fetch(extra)
    first_, any_true, *numbers = fetch([flags.view(torch.uint8).argmax(), flags.any(), *extra])
    return (int(first_) if any_true else flags.numel()), numbers


def fetch(scalars: list[Tensor]) -> list[float]:
    """The numbers in some one-element tensors, in one transfer from the device."""
    if not scalars or scalars[0].device.type == "cpu":
        return [scalar.item() for scalar in scalars]
    return torch.stack([scalar.double() for scalar in scalars]).tolist()


# ---------------------------------------------------------------------------------------------------- tolerance


def _by_distance(old: Values, new: Values, tolerance: Tolerance, extra: list[Tensor]) -> Compared:
    unchanged, change, numbers = old[0].shape[0], 0.0, fetch(extra)
    gaps = []
    for a, b in zip(old, new, strict=True):
        gap, within, largest = _distances(a, b, tolerance)
        unchanged, change = min(unchanged, within), max(change, largest)
        gaps.append(gap)
    within_all = change if unchanged == old[0].shape[0] else _largest([gap[:unchanged] for gap in gaps])
    return Compared(unchanged, numbers, within_all, change)


def _each_distance(old: Tensor, new: Tensor, tolerance: Tolerance) -> tuple[list[bool], list[float]]:
    """For each block whether it moved within the tolerance, and its largest distance; as `_distances`."""
    if not (new.dtype.is_floating_point or new.dtype.is_complex):
        moved = _of_blocks((new != old).double())
        return (moved <= 0).tolist(), moved.tolist()
    gap, size = (new - old).abs(), new.abs()
    far = _of_blocks(gap).tolist()
    if not all(map(math.isfinite, far)):
        gap, size = _unmoved_left_out(gap, old, new), size.nan_to_num(nan=0.0)
        far = _of_blocks(gap).nan_to_num(nan=math.inf).tolist()
    if max(far) <= tolerance.atol:
        return [True] * len(far), far
    near = (_of_blocks(torch.add(gap, size, alpha=-tolerance.rtol)) <= tolerance.atol).tolist()
    return [ok and distance < math.inf for ok, distance in zip(near, far, strict=True)], far


def _largest(gaps: list[Tensor]) -> float:
    return max((gap.amax().item() for gap in gaps if gap.numel()), default=0.0)


def _distances(old: Tensor, new: Tensor, tolerance: Tolerance) -> tuple[Tensor, int, float]:
    """How far each element moved, how many leading blocks moved within the tolerance, and the largest distance.

    Elements of the same bits did not move, and two NaN neither; whole numbers are within if they are the same.
    """
    if not (new.dtype.is_floating_point or new.dtype.is_complex):
        gap = (new != old).double()
        return gap, _leading_false(_of_blocks(gap) > 0, [])[0], gap.amax().item() if gap.numel() else 0.0
    gap = (new - old).abs_() if new.dtype.is_floating_point else (new - old).abs()
    largest = gap.amax().item() if gap.numel() else 0.0  # `max` takes ten times as long where steps are innermost
    finite = math.isfinite(largest)
    if not finite:
        gap = _unmoved_left_out(gap, old, new)
        largest = gap.nan_to_num(nan=math.inf).amax().item()
    if largest <= tolerance.atol:
        return gap, gap.shape[0], largest
    return gap, _leading_within(gap, new, tolerance, finite), largest


def _leading_within(gap: Tensor, new: Tensor, tolerance: Tolerance, finite: bool) -> int:
    """The number of leading blocks whose elements all moved within the tolerance, by looks that double."""
    start, count, width = 0, gap.shape[0], LOOK if gap.device.type == "cpu" else gap.shape[0]
    while start < count:
        end = min(start + width, count)
        part, size = gap[start:end], new[start:end].abs()
        beyond = torch.add(part, size if finite else size.nan_to_num(nan=0.0), alpha=-tolerance.rtol)
        over = ~(_of_blocks(beyond) <= tolerance.atol)  # NaN is not within anything
        if not finite:
            over |= ~(_of_blocks(part) < math.inf)
        first, _ = _leading_false(over, [])
        if first < end - start:
            return start + first
        start, width = end, 2 * width
    return count


def _unmoved_left_out(gap: Tensor, old: Tensor, new: Tensor) -> Tensor:
    moved = differs(new, old)
    return torch.where(moved.any(-1) if moved.dim() > gap.dim() else moved, gap, 0.0)


def _of_blocks(t: Tensor) -> Tensor:
    """The largest element of each block."""
    dims = tuple(range(1, t.dim()))
    if not dims:
        return t
    return t.amax(dims) if t.numel() else t.new_zeros(t.shape[0])

"""Runs of one random program, eager and compiled, from the same arguments, weights and generator, and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..compiled import Compiled
from ..errors import BranchError
from ..plan import Tolerance
from ..runtime.equality import compare, same_bits
from ..runtime.record import Ending, RunRecord
from ..trees import flatten, unflatten
from .script import Program

TOLERANCE = Tolerance(1e-6, 1e-6)
CLOSE = 1e-2
"""How far, relative to the largest element, a smooth program's result may be from the reference under `TOLERANCE`."""

UNCHECKED = ("p_in <= 1", "probability tensor contains", "std >= 0")
"""What `bernoulli`, `multinomial` and `normal` say of their parameters, which a compiled function does not look at."""

Call = Callable[..., Any]


@dataclass(slots=True)
class Outcome:
    """``verdict``: ``same``, ``mismatch`` or ``error``; ``system``: what was solved, or why nothing was."""

    verdict: str = "same"
    system: str = ""
    detail: str = ""
    equality: str = ""
    runs: int = 0
    swept: int = 0  # runs that ended by sweeps
    endings: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class Mismatch(Exception):
    """What a compiled program gave differs from what it gives when it just runs."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a call gave or raised, and what it left in its arguments, in weights and in the random generator."""

    result: Any
    raised: Exception | None
    arguments: tuple[Any, ...]
    weights: list[Tensor]
    generator: Tensor


@dataclass(slots=True)
class Trial:
    """Runs of one program."""

    program: Program
    module: Any
    outcome: Outcome
    tolerant: bool

    def run(self, function: Call, seed: int) -> Ran:
        """A call of ``function``; afterwards the weights are what they were."""
        arguments, weights = self.module.arguments(seed), self.module.weights()
        before = [w.detach().clone() for w in weights]
        torch.manual_seed(seed + 10)
        result, raised = None, None
        try:
            with torch.no_grad():
                result = function(*arguments)
        except Exception as error:  # the program's own
            raised = error
        generator = torch.get_rng_state()
        ran = Ran(_copied(result), raised, arguments, [w.detach().clone() for w in weights], generator)
        for weight, old in zip(weights, before, strict=True):
            if not same_bits(weight.detach(), old):
                weight.data.copy_(old)
        return ran

    def compare(self, name: str, compiled: Compiled, seeds: tuple[int, ...], from_file: bool = False) -> None:
        """``from_file``: it has weights of its own.

        Raises: `Mismatch`, and what the compiled function raises and the function does not.
        """
        for seed in seeds:
            expected = self.run(self.module.function, seed)
            records: list[RunRecord] = []
            got = self.run(lambda *args: _recorded(compiled, args, records), seed)  # noqa: B023 - called at once
            where = f"{name}, arguments({seed})"
            if any(text in str(expected.raised) for text in UNCHECKED):
                continue
            if from_file and isinstance(got.raised, BranchError):  # the function goes another way, which a file has not
                continue
            if type(got.raised) is not type(expected.raised):
                if got.raised is None:
                    raise Mismatch(f"{where}: the function raises {expected.raised!r}, the compiled one does not")
                raise got.raised
            if expected.raised is None:
                self._count(records[0], where)
                swept = any(part.certified for part in records[0].parts)
                self._same(expected, got, where, self.tolerant and swept, from_file)

    def _count(self, record: RunRecord, where: str) -> None:
        """The record agrees with itself."""
        self.outcome.runs += 1
        self.outcome.swept += any(part.ending is Ending.SWEEPS and part.blocks > 0 for part in record.parts)
        for part in record.parts:
            self._count_part(part, where)

    def _count_part(self, record: RunRecord, where: str) -> None:
        self.outcome.endings[record.ending.name] = self.outcome.endings.get(record.ending.name, 0) + 1
        claim = record.certificate
        if claim is None or (record.blocks and claim.certified_blocks + claim.sequential_blocks != record.blocks):
            raise Mismatch(f"{where}: a certificate of other blocks: {claim}")
        if record.ending is Ending.SWEEPS and record.certified != record.blocks:
            raise Mismatch(f"{where}: ended by sweeps with {record.certified} of {record.blocks} blocks certified")

    def _same(self, expected: Ran, got: Ran, where: str, near: bool, from_file: bool) -> None:
        (a, tree), (b, wanted) = flatten(got.result), flatten(expected.result)
        if tree != wanted:
            raise Mismatch(f"{where}: the result has the form {tree}, not {wanted}")
        for k, ((path, x), (_, y)) in enumerate(zip(a, b, strict=True)):
            if (why := self._differs(k, x, y, near)) is not None:
                raise Mismatch(f"{where}: result{path}: {why}")
        for k, (x, y) in enumerate(zip(got.arguments, expected.arguments, strict=True)):
            if not near and not same_bits(x, y):
                raise Mismatch(f"{where}: argument {k} is left otherwise")
        for k, (x, y) in enumerate(zip(got.weights, expected.weights, strict=True)):
            if not near and not from_file and not same_bits(x, y):
                raise Mismatch(f"{where}: weight {k} is left otherwise")
        if not torch.equal(got.generator, expected.generator):
            raise Mismatch(f"{where}: the random generator is left in another state")

    def _differs(self, k: int, got: Any, expected: Any, near: bool) -> str | None:
        if not isinstance(expected, Tensor) or not isinstance(got, Tensor):
            return None if (type(got), got) == (type(expected), expected) else f"{got!r}, not {expected!r}"
        if got.shape != expected.shape or got.dtype != expected.dtype:
            return f"{got.dtype} {tuple(got.shape)}, not {expected.dtype} {tuple(expected.shape)}"
        if not near:
            return None if (found := compare(k, got, expected)) is None else str(found)
        if not (self.program.smooth and self.program.precise):
            return None
        finite = expected[expected.isfinite()]
        limit = CLOSE * (1.0 + float(finite.abs().max()) if finite.numel() else 1.0)
        if torch.allclose(got.double(), expected.double(), 0.0, limit, equal_nan=True):
            return None
        return f"further from the reference than {limit:.3g}: {float((got - expected).abs().max()):.3g}"


def _recorded(compiled: Compiled, args: tuple[Any, ...], records: list[RunRecord]) -> Any:
    result, record = compiled.run(*args)
    records.append(record)
    return result


def _copied(value: Any) -> Any:
    """A result may be an argument, or share its memory."""
    leaves, tree = flatten(value)
    return unflatten(tree, [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for _, leaf in leaves])

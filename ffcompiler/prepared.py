"""One part of a plan with its proof, ready to run: what a compiled function is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .errors import ArtifactError
from .plan import Method, NoNegativeZero, Plan, Unchanged, ZeroPattern
from .proof import Proof, Prover, Refusal
from .runtime.guard import Handover
from .runtime.premises import where_zero
from .runtime.record import Ending, Sweep
from .runtime.runner import Execution, Runner, constants_of

Observe = Callable[[Sweep], None]


@dataclass(slots=True)
class Prepared:
    """``unproved``: the file of a loaded plan whose proof rests on an argument, until the first call.

    ``refused``: why there was no proof for changed weights, and where these were zero: the next call needs no new look.
    """

    plan: Plan
    proof: Proof
    prove: Prover
    device: torch.device
    handover: Handover
    unproved: str | None = field(init=False, default=None)
    refused: tuple[str, Refusal] | None = field(init=False, default=None)
    runner: Runner = field(init=False)

    def __post_init__(self) -> None:
        self._take(self.proof)

    def _take(self, proof: Proof) -> None:
        self.proof = proof
        self.runner = Runner(self.plan, proof, self.device, handover=self.handover)

    @property
    def sequential(self) -> bool:
        return self.plan.schedule.method is Method.SEQUENTIAL

    def rehearse(self) -> None:
        """Make what runs need and do not pay for."""
        if self.plan.schedule.sweeps:
            self.runner.rehearse()

    def begin(self, arguments: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Execution | Refusal:
        """A run up to its loop, or why the plan does not hold with these weights. Raises: `ArtifactError`."""
        runner = self.runner
        execution = runner.begin(arguments, weights)
        if execution.otherwise:
            return execution
        live = self.handover is not Handover.LOADED
        if live and (why := runner.overwrites.unsettled(execution.env)) is not None:
            return Refusal(why)
        if not self.plan.schedule.sweeps:
            return execution
        assert self.plan.program is not None
        if self.unproved is not None:
            self._accept(self.prove(self.plan.program, execution.env), self.unproved)
            self.unproved = None
        if broken := self.runner.broken_patterns(execution):
            zeros = where_zero(execution.env[name] for name in broken)
            if self.refused is not None and self.refused[0] == zeros:
                return self.refused[1]
            proof = self.prove(self.plan.program, execution.env)
            if isinstance(proof, Refusal):
                self.refused = zeros, proof
                return proof
            self.plan = replace(self.plan, premises=proof.premises)
            self._take(proof)
        return execution if self.runner is runner else self.runner.begin(arguments, weights, execution.drawn_from)

    def sweep(self, execution: Execution, hindrance: str, observe: Observe | None = None) -> None:
        """Sweep as far as sweeps go, if the guard lets them begin: ``hindrance`` says why it does not."""
        record = execution.record
        if not self.plan.schedule.sweeps:
            record.ending = Ending.SEQUENTIAL if self.sequential else Ending.CAPTURED
            record.detail = self.plan.refusal or ""
        elif not hindrance or self.handover is Handover.LOADED:
            self.runner.sweep(execution, observe)
        else:
            record.ending, record.detail = Ending.GUARD, hindrance

    def certify(self, execution: Execution) -> None:
        execution.record.certificate = self.runner.certify(execution)

    def prove_stored(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Make the proof of a loaded plan from its weights; where it rests on an argument, at the first call.

        Raises: `ArtifactError` if the weights in the file do not support the plan in it.
        """
        assert self.plan.program is not None
        constants = constants_of(self.plan.program, weights)
        zeros = {p.value for p in self.plan.premises if isinstance(p, ZeroPattern | Unchanged | NoNegativeZero)}
        if zeros <= set(constants):
            self._accept(self.prove(self.plan.program, constants), name)
        else:
            self.unproved = name

    def _accept(self, proof: Proof | Refusal, name: str) -> None:
        """Take a proof as that of the loaded plan."""
        if isinstance(proof, Refusal) or proof.premises != self.plan.premises:
            why = proof if isinstance(proof, Refusal) else "the proof rests on other premises than the plan says"
            raise ArtifactError(
                f"{name}: the weights in the file do not support the plan in it\n  {why}\n"
                "  the file was changed after it was written; compile the function again"
            )
        self._take(proof)

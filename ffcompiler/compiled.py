"""`Compiled`: a plan with what it takes to run it, in process or from an artifact."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .artifact import save_artifact
from .calls import Parameters, mismatches, parameters_in, parameters_of
from .capture import describe_arguments, look
from .errors import ArtifactError, CaptureError, SignatureError, UsageError
from .explain import Explanation, explain
from .inspect import write_page
from .live import Live
from .modes import as_recorded
from .plan import Method, NoNegativeZero, Plan, Unchanged, ZeroPattern
from .program import Leaf, Signature
from .proof import Proof, Prover, Refusal
from .randomness import same_states, set_states, states
from .runtime.equality import Difference, compare
from .runtime.record import Certificate, Ending, RunRecord, Sweep
from .runtime.runner import Execution, Runner, constants_of
from .trees import flatten, unflatten
from .variants import Found, Variants

Observe = Callable[[Sweep], None]


@dataclass(frozen=True, slots=True)
class Verification:
    """The compiled function against its reference on the same arguments."""

    differences: tuple[Difference, ...]
    outputs: int
    record: RunRecord
    reference_seconds: float
    same_generators: bool = True
    """Both left the random generators in the same states."""

    @property
    def equal(self) -> bool:
        return not self.differences and self.same_generators

    def __str__(self) -> str:
        if self.equal:
            return f"bits equal: {self.outputs} of {self.outputs} outputs ({self.record.certificate})"
        left = [] if self.same_generators else ["the random generators are left in other states than by the reference"]
        return "\n".join([*map(str, self.differences), *left])


@dataclass(slots=True)
class Compiled:
    """A compiled function. Calls may come from several threads.

    ``live`` is the user's function in this process; an artifact loaded from a file has ``stored`` weights instead, and
    its reference is the captured loop run step by step.

    Plan and proof are those of one signature, the example's. Calls with other arguments, or in other modes, go to
    `variants`, which are compiled on first use. An artifact has one signature.
    """

    plan: Plan
    proof: Proof
    prove: Prover  # for when weights have changed
    live: Live | None = None
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    function: Callable[..., Any] | None = None  # of a plan without a program: what could not be captured
    called_as: Signature | None = None  # what a plan without a program was made for
    device: torch.device = field(init=False)
    _runner: Runner | None = field(init=False, default=None)
    _unproved: str | None = field(init=False, default=None)  # the file of a plan whose proof waits for arguments
    _parameters: Parameters = field(init=False, default_factory=Parameters)
    _variants: Variants[Compiled] | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.device = torch.device(self.plan.device)
        if self.plan.program is not None:
            function = None if self.live is None else self.live.function
            signature = self.plan.program.signature
            self._parameters = parameters_in(signature) if function is None else parameters_of(function)
            self._runner = Runner(self.plan, self.proof, self.device)
            if self.live is None and (why := self._unsettled(self._runner, self.stored)) is not None:
                raise ArtifactError(f"{why}\n  the weights were changed after compilation; compile the function again")

    @staticmethod
    def _unsettled(runner: Runner, weights: Mapping[str, Tensor]) -> str | None:
        """Why what steps write into ``weights`` is not the same in all steps, if it is not."""
        return runner.overwrites.unsettled(runner.overwrites.evaluated(weights))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives for these arguments, evaluated without gradients.

        The first call with a new signature compiles for it, which takes as long as `compile` did; `warm` does so ahead.

        Raises: `SignatureError` for arguments that require gradients; of an artifact, listing every argument that is
        not as in its signature.
        """
        return self.run(*args, **kwargs)[0]

    def run(self, *args: Any, **kwargs: Any) -> tuple[Any, RunRecord]:
        """As a call, and the record of the run: fronts, certificate, seconds."""
        return self.observed_run(None, args, kwargs)

    def observed_run(
        self, observe: Observe | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, RunRecord]:
        """As `run`; ``observe`` is told of each sweep as it ends."""
        started = time.perf_counter()
        found = self._found(args, kwargs)
        if found.variant is None:
            result, record = self._as_it_is(args, kwargs, found.why)
        else:
            result, record = found.variant._dispatch(args, kwargs, found.tensors, observe)
        if self._variants is not None and record.ending is Ending.STALE:
            self._variants.refresh()
        record.seconds = time.perf_counter() - started
        return result, record

    # ------------------------------------------------------------------------------------------ variants

    @property
    def signature(self) -> Signature | None:
        """The arguments and modes that this is compiled for."""
        return self.called_as if self.plan.program is None else self.plan.program.signature

    @property
    def variants(self) -> tuple[Compiled, ...]:
        """This one, then those compiled for other signatures that are kept, the last used one last."""
        return (self,) if self._variants is None else self._variants.all()

    def warm(self, *args: Any, **kwargs: Any) -> Compiled:
        """The variant for these arguments and the modes as they are now, compiled if it is new. It is not called.

        Raises: `SignatureError` as for a call; what compiling raises.
        """
        found = self._found(args, kwargs, asked=True)
        if found.variant is None:
            raise SignatureError(found.why)
        return found.variant

    def vary(
        self,
        make: Callable[[tuple[Any, ...], dict[str, Any]], Compiled],
        example: tuple[tuple[Any, ...], dict[str, Any]],
        insist: bool,
        limit: int,
    ) -> Compiled:
        """Compile with ``make`` for signatures other than that of the ``example`` call, at most ``limit`` in all."""
        function = self._called
        assert function is not None
        parameters = parameters_of(function)
        self._variants = Variants(parameters, make, lambda: _modules(function), self._admit, insist, limit, self)
        self._variants.begin(*example)
        return self

    def _found(self, args: tuple[Any, ...], kwargs: dict[str, Any], asked: bool = False) -> Found[Compiled]:
        if self._variants is not None:
            return self._variants.find(args, kwargs, asked)
        return Found(self, self._checked(args, kwargs))

    def _as_it_is(self, args: tuple[Any, ...], kwargs: dict[str, Any], why: str) -> tuple[Any, RunRecord]:
        """There is no plan for this call."""
        record = RunRecord(Method.SEQUENTIAL.value, 0, Ending.UNPLANNED, detail=why)
        record.certificate = Certificate(str(self.plan.equality), "this is the reference", 0, 0, 0)
        return self.reference(*args, **kwargs), record

    @property
    def _called(self) -> Callable[..., Any] | None:
        """The user's function, in its own process."""
        return self.function if self.live is None else self.live.function

    def _admit(self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
        """Raises: `SignatureError` for tensors that require gradients."""
        if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
            return
        given, ordered = describe_arguments(self._called or _nameless, args, kwargs)
        paths = [leaf.path for leaf in given.leaves if leaf.type]
        faults = [_with_gradients(path) for path, t in zip(paths, ordered, strict=True) if t.requires_grad]
        raise SignatureError("\n  ".join(["these arguments cannot be taken", *faults]))

    def explain(self) -> Explanation:
        """Is this function worth compiling, why, and what would change that; as text and as data."""
        return explain(self.plan, self.proof)

    def verify(self, *args: Any, **kwargs: Any) -> Verification:
        """Run both and compare: bits equal, or where they differ and by how much.

        Both begin with the random generators as they are; they are left as the reference leaves them.
        """
        generators = states()
        result, record = self.run(*args, **kwargs)
        left = states()
        set_states(generators)
        started = time.perf_counter()
        expected = self.reference(*args, **kwargs)
        seconds = time.perf_counter() - started
        got = [leaf for _, leaf in flatten(result)[0] if isinstance(leaf, Tensor)]
        wanted = [leaf for _, leaf in flatten(expected)[0] if isinstance(leaf, Tensor)]
        found = (compare(i, a, b) for i, (a, b) in enumerate(zip(got, wanted, strict=True)))
        same = same_states(left, states())
        return Verification(tuple(d for d in found if d is not None), len(got), record, seconds, same)

    def reference(self, *args: Any, **kwargs: Any) -> Any:
        """The user's function itself; of a loaded artifact, its captured loop run step by step."""
        if self.live is not None:
            return self.live.reference(args, kwargs)
        if self.function is not None:
            with torch.no_grad():
                return self.function(*args, **kwargs)
        assert self._runner is not None
        tensors = self._checked(args, kwargs)
        with as_recorded(self.device):
            execution = self._runner.begin(tensors, self.stored)
            return self._result(self._runner.results(execution, self._runner.finish(execution)))

    # ------------------------------------------------------------------------------------------ a run

    def _dispatch(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensors: list[Tensor], observe: Observe | None
    ) -> tuple[Any, RunRecord]:
        runner = self._runner
        if runner is None or (self.plan.schedule.method is Method.SEQUENTIAL):
            return self._sequentially(args, kwargs, Ending.SEQUENTIAL, self.plan.refusal or "")
        weights, stale = (self.stored, None) if self.live is None else self.live.now(self.device.type)
        if stale is not None:
            return self._sequentially(args, kwargs, Ending.STALE, stale)
        if self.live is not None and not runner.worth_starting():
            return self._sequentially(args, kwargs, Ending.GUARD, "the first sweep is not worth its cost")
        with as_recorded(self.device):
            execution = runner.begin(tensors, weights)
            if self.live is not None and (why := runner.overwrites.unsettled(execution.env)) is not None:
                set_states(execution.drawn_from)
                return self._sequentially(args, kwargs, Ending.STALE, why)
            if self._unproved is not None and self.plan.program is not None:
                self._accept(self.prove(self.plan.program, execution.env), self._unproved)
                self._unproved, runner = None, self._runner or runner
            if runner.broken_patterns(execution):
                renewed = self._prove_again(execution)
                if isinstance(renewed, Refusal):
                    set_states(execution.drawn_from)
                    return self._sequentially(args, kwargs, Ending.STALE, str(renewed))
                runner = renewed
                execution = runner.begin(tensors, weights, execution.drawn_from)
            solution = runner.sweep(execution, observe)
            execution.record.certificate = runner.certify(execution)
            if solution.certified == execution.record.blocks or self.live is None or not self._can_resume(self.live):
                state = runner.finish(execution)
                result = self._result(runner.results(execution, state))
                if self.live is not None:
                    self.live.write(runner.overwrites.values(execution.env))
                return result, execution.record
            front, resumed = runner.resume_state(execution)
        return self.live.resume(args, kwargs, front, resumed), execution.record

    def _can_resume(self, live: Live) -> bool:
        """Whether the user's own loop can be begun in its middle.

        Not if it is not marked, and not if it draws: the numbers of all its steps are drawn already. Where it writes
        into its first state, what that must hold then is known of array loops only.
        """
        if not live.captured.marked or (self._runner is not None and self._runner.draws):
            return False
        return self.plan.array is not None or not live.captured.in_place

    def _sequentially(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], ending: Ending, detail: str
    ) -> tuple[Any, RunRecord]:
        loop = self.plan.program.loop if self.plan.program else None
        blocks = loop.hi - loop.lo if loop else 0
        record = RunRecord(str(self.plan.schedule), blocks, ending, detail=detail)
        record.certificate = Certificate(str(self.plan.equality), "this is the reference", 0, blocks, 0)
        return self.reference(*args, **kwargs), record

    def prove_stored(self, name: str) -> None:
        """Make the proof of a loaded plan from its weights; where it rests on an argument, at the first call.

        Raises: `ArtifactError` if the weights in the file do not support the plan in it.
        """
        assert self.plan.program is not None
        constants = constants_of(self.plan.program, self.stored)
        zeros = {p.value for p in self.plan.premises if isinstance(p, ZeroPattern | Unchanged | NoNegativeZero)}
        self._unproved = None if zeros <= set(constants) else name
        if self._unproved is None:
            self._accept(self.prove(self.plan.program, constants), name)

    def _accept(self, proof: Proof | Refusal, name: str) -> None:
        """Take a proof as that of the loaded plan."""
        if isinstance(proof, Refusal) or proof.premises != self.plan.premises:
            why = proof if isinstance(proof, Refusal) else "the proof rests on other premises than the plan says"
            raise ArtifactError(
                f"{name}: the weights in the file do not support the plan in it\n  {why}\n"
                "  the file was changed after it was written; compile the function again"
            )
        self.proof = proof
        self._runner = Runner(self.plan, self.proof, self.device)

    def _prove_again(self, execution: Execution) -> Runner | Refusal:
        """The weights have changed where the proof needs zeros: prove with the new ones."""
        assert self.plan.program is not None
        proof = self.prove(self.plan.program, execution.env)
        if isinstance(proof, Refusal):
            return proof
        self.plan = replace(self.plan, premises=proof.premises)
        self.proof = proof
        self._runner = Runner(self.plan, self.proof, self.device)
        return self._runner

    # ------------------------------------------------------------------------------------------ arguments

    def _checked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a call. Raises `SignatureError` with every mismatch."""
        if self.plan.program is None:
            return []
        wanted = self.plan.program.signature
        try:
            given, tensors = describe_arguments(self._called or _nameless, *self._parameters.canonical(args, kwargs))
        except CaptureError as error:
            raise SignatureError(str(error)) from None
        faults = list(mismatches(wanted, given))
        faults += [
            f"{leaf.path} is on {t.device}; the plan is for {self.device}"
            for leaf, t in zip([x for x in given.leaves if x.type], tensors, strict=True)
            if t.device.type != self.device.type
        ]
        faults += [
            _with_gradients(leaf.path)
            for leaf, t in zip([x for x in given.leaves if x.type], tensors, strict=True)
            if t.requires_grad and torch.is_grad_enabled()
        ]
        if faults:
            raise SignatureError("the arguments are not those the function was compiled for\n  " + "\n  ".join(faults))
        return tensors

    def _result(self, tensors: list[Tensor]) -> Any:
        assert self.plan.program is not None
        remaining = iter(tensors)
        result = self.plan.program.result
        leaves = [constant(leaf) if leaf.name is None else next(remaining) for leaf in result.leaves]
        return unflatten(result.tree, leaves)

    # ------------------------------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str], force: bool = False) -> None:
        """Write the artifact; an existing file is kept unless ``force``. Raises: `UsageError`, `FFCompilerError`."""
        weights = self.live.weights() if self.live is not None else self.stored
        if self._runner is not None and (why := self._unsettled(self._runner, weights)) is not None:
            raise UsageError(f"{why}\n  compile the function again with these weights, then save")
        save_artifact(self.plan, weights, path, force)

    def inspect(self, path: str | os.PathLike[str], record: RunRecord | None = None, force: bool = False) -> None:
        """Write a page with the schedule, the proof, and the front of ``record`` if one is given."""
        write_page(self.plan, path, record, force, self.proof)


def _nameless() -> None:
    """A function without parameter names."""


def constant(leaf: Leaf) -> Any:
    """The constant of a leaf, from its text."""
    assert leaf.constant is not None
    if leaf.constant in ("inf", "-inf", "nan"):
        return float(leaf.constant)
    return ast.literal_eval(leaf.constant)


def _with_gradients(path: str) -> str:
    return f"{path} requires gradients, compiled functions give none: detach it, or call under torch.no_grad()"


def _modules(function: Callable[..., Any]) -> list[nn.Module]:
    """The modules in a function's reach; none where that is too much to look through."""
    try:
        return look(function).modules()
    except CaptureError:
        return []

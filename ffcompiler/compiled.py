"""`Compiled`: a plan with what it takes to run it, in process or from an artifact."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import admit, checked_tensors, in_its_structure
from .artifact import save_artifact
from .calls import Parameters, as_stored, bind, left_out, parameters_in, parameters_of
from .capture import look, unmoved
from .choice.processors import Simulation
from .choice.workers import Example, Progress, checked, examples_in_a_row, impossible, simulate_workers
from .errors import ArtifactError, BranchError, CaptureError, SignatureError, UsageError
from .given import Bound, Wrapper, unbound
from .live import Live
from .modes import as_recorded, other_modes
from .plan import Method, Plan, in_a_row
from .prepared import Observe, Prepared
from .program import Signature
from .proof import Proof, Prover, Refusal
from .randomness import States, same_states, set_states, states
from .runtime.checks import Late
from .runtime.guard import Handover
from .runtime.record import Certificate, Ending, RunRecord, records_in_a_row
from .runtime.runner import Execution, Runner
from .tell.explain import Explanation, explain
from .tell.inspect import write_page
from .variants import Found, Variants
from .verification import Verification, differences, left_otherwise

LEAVES = 4
"""So many of the places where a function leaves tensors are named."""


@dataclass(slots=True)
class Compiled(Wrapper):
    """A compiled function. Calls may come from several threads.

    ``live`` is the user's function in this process; an artifact loaded from a file has ``stored`` weights instead, and
    its reference is the captured loop run step by step.

    Plan and proof are those of one signature, the example's. Calls with other arguments, or in other modes, go to
    `variants`, which are compiled on first use. An artifact has one signature.
    """

    plan: Plan
    proofs: tuple[Proof, ...]  # of its parts
    prove: Prover  # for when weights have changed
    live: Live | None = None
    stored: tuple[Mapping[str, Tensor], ...] = ()  # for each part
    function: Callable[..., Any] | None = None  # of a plan without a program: what could not be captured
    called_as: Signature | None = None  # what a plan without a program was made for
    gradients: bool = False  # the function cannot be called without them: it has those of the caller
    measured: str | None = None  # when its schedule was chosen, if that was in an earlier compilation
    device: torch.device = field(init=False)
    parts: tuple[Prepared, ...] = field(init=False, default=())  # one for each loop
    _parameters: Parameters = field(init=False, default_factory=Parameters)
    _variants: Variants[Compiled] | None = field(init=False, default=None, repr=False, compare=False)
    _late: Late = field(init=False, default_factory=Late, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.device = torch.device(self.plan.device)
        if self.plan.program is not None:
            function = None if self.live is None else self.live.function
            signature = self.plan.program.signature
            self._parameters = parameters_in(as_stored(signature)) if function is None else parameters_of(function)
            both = zip(self.plan.parts, self.proofs, strict=True)
            self.parts = tuple(Prepared(part, proof, self.prove, self.device, self._handover) for part, proof in both)
            for part, weights in zip(self.parts, self.stored, strict=self.live is None):
                if (why := _unsettled(part.runner, weights)) is not None:
                    again = "the weights were changed after compilation; compile the function again"
                    raise ArtifactError(f"{why}\n  {again}")

    @property
    def _handover(self) -> Handover:
        """Who does the rest where sweeps end early."""
        if self.live is None:
            return Handover.LOADED
        return self.live.handover(self.plan)

    @property
    def proof(self) -> Proof:
        """That of the first loop."""
        return self.parts[0].proof if self.parts else self.proofs[0]

    def __repr__(self) -> str:
        """How each part is run; the whole is `explain()`, or ``str(compiled.plan)``."""
        ways = ", ".join(str(part.schedule) for part in self.plan.parts)
        return f"<ffcompiler.Compiled: {ways}; {self.plan.equality}; {self.plan.device}>"

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
        record.seconds = time.perf_counter() - started - sum(part.seconds for part in record.parts[1:])
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
        function = unbound(self._called)
        parameters, reached = parameters_of(function), partial(_modules, function)
        self._variants = Variants(parameters, make, reached, self._admit, insist, limit, self)
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

    @property
    def wrapped(self) -> Callable[..., Any] | None:
        """The user's function; of an artifact None."""
        return None if self._called is None else unbound(self._called)

    def _admit(self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
        """Raises: `SignatureError` for tensors that require gradients."""
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            admit(self._called, args, kwargs)

    def explain(
        self,
        processors: Sequence[int] = (),
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Explanation:
        """Is this function worth compiling, why, and what would change that; as text and as data.

        ``processors``: simulate the schedules on so many workers as well (docs/processors.md). For this each is run
        without the guard, on the example inputs or on ``args`` and ``kwargs``; a loaded artifact has no example.

        Raises: `UsageError` for a number of processors that is none, or where there is nothing to run on.
        """
        asked = checked(processors)
        simulated = self._simulated(asked, args, kwargs or {}, progress) if asked else []
        explanation = explain(self.plan, *(part.proof for part in self.parts), simulated=simulated)
        return replace(explanation, why=(*explanation.why, *self._told()))

    def _told(self) -> Iterator[str]:
        """What is to be known of calls, besides the plan."""
        if self.measured is not None:
            again = "to measure again: cache=False, --no-cache, or `ffc cache clear`"
            yield f"the choice is from the plan cache, measured on {self.measured}; {again}"
        if self.plan.program is not None and (held := left_out(self.plan.program.signature)):
            what = "it" if self.live is None else "an artifact of it"
            yield f"{what} holds {_listed(held)}, and is called without"
        left = [leaf for part in self.plan.parts if part.program for leaf in part.program.result.left]
        found = [leaf.path for leaf in left if leaf.name is not None and self.live is not None]
        other = [leaf.path for leaf in left if leaf.path not in found]
        if found:
            yield f"calls also leave what the function leaves in {_listed(found)}"
        if other:
            loaded = self.live is None
            who = "an artifact leaves nothing" if loaded else "calls that sweeps solve leave those as they were"
            yield f"the function also leaves tensors in {_listed(other)}; {who}"

    def _simulated(
        self,
        processors: tuple[int, ...],
        args: tuple[Any, ...] | None,
        kwargs: Mapping[str, Any],
        progress: Progress | None,
    ) -> list[Simulation]:
        """Of each part."""
        notes = [impossible(part) for part in self.plan.parts]
        if None not in notes:
            return [Simulation(processors, note=note or "") for note in notes]
        examples = self._examples(args, kwargs)
        return [
            Simulation(processors, note=note)
            if note is not None
            else simulate_workers(part.runner, self.prove, example, processors, progress)
            for note, part, example in zip(notes, self.parts, examples, strict=True)
        ]

    def _examples(self, args: tuple[Any, ...] | None, kwargs: Mapping[str, Any]) -> list[Example]:
        """What each part is run on to simulate it."""
        weights = self.stored if self.live is None else self.live.all_weights()
        if args is not None or kwargs:
            arguments = self._checked(args or (), kwargs)
            return examples_in_a_row([part.runner for part in self.parts], arguments, weights)
        if self.live is None:
            raise UsageError(
                "an artifact has no example inputs to simulate on: give args, or --input on a command line"
            )
        known = (part.replays[0] for part in self.live.captured.parts)
        return [Example(one.arguments, own, one.generators) for one, own in zip(known, weights, strict=True)]

    def verify(self, *args: Any, **kwargs: Any) -> Verification:
        """Run both and compare: bits equal, or where they differ and by how much.

        Both begin with the random generators as they are; they are left as the reference leaves them.
        """
        generators = states()
        live = None if (found := self._found(args, kwargs).variant) is None else found.live
        with nullcontext() if self._called is None else unmoved(bind(self._called, args, kwargs)):
            result, record = self.run(*args, **kwargs)
            behind = [] if live is None else live.standing()
        left = states()
        set_states(generators)
        started = time.perf_counter()
        expected = self.reference(*args, **kwargs)
        seconds = time.perf_counter() - started
        same, wanted = same_states(left, states()), [] if live is None else live.standing()
        return Verification(*differences(result, expected), record, seconds, same, left_otherwise(behind, wanted))

    def reference(self, *args: Any, **kwargs: Any) -> Any:
        """The user's function itself; of a loaded artifact, its captured loop run step by step."""
        if self.live is not None:
            return self.live.reference(args, kwargs)
        if self.function is not None:
            with torch.set_grad_enabled(self.gradients and torch.is_grad_enabled()):
                return self.function(*args, **kwargs)
        tensors = self._checked(args, kwargs)
        for part, weights in zip(self.parts, self.stored, strict=True):
            with as_recorded(self.device):
                execution = part.runner.begin(tensors, weights)
                results = [] if execution.otherwise else part.runner.complete(execution)
            if execution.otherwise:
                raise _branched(execution)
            tensors = part.runner.returned(results)
        return self._result(tensors)

    # ------------------------------------------------------------------------------------------ a run

    def _dispatch(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensors: list[Tensor], observe: Observe | None
    ) -> tuple[Any, RunRecord]:
        if all(part.sequential for part in self.parts):
            return self._sequentially(args, kwargs, Ending.SEQUENTIAL, self.plan.refusal or "")
        weights, stale = (self.stored, None) if self.live is None else self.live.now(self.device.type, tensors)
        if stale is not None:
            return self._sequentially(args, kwargs, Ending.STALE, stale)
        hindrances = [part.runner.hindrance() if part.plan.schedule.sweeps else "" for part in self.parts]
        if self.live is not None and all(
            why or part.sequential for why, part in zip(hindrances, self.parts, strict=True)
        ):
            return self._sequentially(args, kwargs, Ending.GUARD, next(filter(None, hindrances)))
        if (self.live is not None or self._unseen) and self._late.too_often:
            return self._sequentially(args, kwargs, Ending.OTHERWISE, f"{self._late.why}, as in other calls before")
        generators = states() if any(part.runner.draws for part in self.parts) else {}
        try:
            return self._run_parts(args, kwargs, tensors, weights, hindrances, generators, observe)
        except AssertionError:  # our own logic
            raise
        except Exception:
            if self.live is None or all(part.handover is Handover.RESUMED for part in self.parts):
                raise
            set_states(generators)  # recorded calls raise in their own way, with all drawn that the function may draw
            return self._sequentially(args, kwargs, Ending.RAISED, "the function began anew")

    def _run_parts(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        tensors: list[Tensor],
        weights: Sequence[Mapping[str, Tensor]],
        hindrances: Sequence[str],
        generators: States,
        observe: Observe | None,
    ) -> tuple[Any, RunRecord]:
        """Each part by sweeps, as far as they go. ``generators``: their states before the call, if it draws."""
        records: list[RunRecord] = []
        left: dict[str, Tensor] = {}  # behind, in attributes and entries
        for part, own, hindrance in zip(self.parts, weights, hindrances, strict=True):
            started = time.perf_counter()
            with as_recorded(self.device):
                execution = part.begin(tensors, own)
                if isinstance(execution, Refusal):
                    set_states(generators)
                    return self._sequentially(args, kwargs, Ending.STALE, str(execution))
                if not execution.otherwise:
                    part.sweep(execution, hindrance, observe)
                    if why := self._given_up(part, execution):
                        set_states(generators)
                        execution.record.detail += f"; {why}the function began anew"
                        return self._begun_anew(args, kwargs, execution.record)
                    part.certify(execution)
                    resumed = self._resumed(part, execution)
                    results = [] if resumed is not None else part.runner.complete(execution)
            if execution.otherwise:
                set_states(generators)
                self._late.note(bool(records) or execution.solution is not None, execution.otherwise)
                return self._otherwise(args, kwargs, execution)
            if resumed is not None and self.live is not None:
                return self.live.resume(args, kwargs, *resumed), execution.record
            tensors = part.runner.returned(results)
            left |= part.runner.left_behind(results)
            execution.record.seconds = time.perf_counter() - started
            records.append(execution.record)
        assert isinstance(execution, Execution), "there are parts"
        self._note_proofs()
        self._late.note(True, "")
        if self.live is not None:
            self.live.write(self.parts[0].runner.overwrites.values(execution.env))
            self.live.leave(left)
        return self._result(tensors), records_in_a_row(records)

    def _given_up(self, part: Prepared, execution: Execution) -> str:
        """Why what sweeps have found is of no use: then the function begins anew."""
        if part.handover is Handover.CACHED and execution.record.certified < execution.record.blocks:
            seen = execution.record.ending in (Ending.PREMISE, Ending.RAISED)
            return "what is padded may be seen by captured steps, so " if seen else "that costing less, "
        alone = self.live is not None and len(self.parts) == 1 and part.plan.schedule.sweeps
        if alone and part.runner.anew(execution):
            return "the captured loop being slower, "
        return ""

    def _resumed(self, part: Prepared, execution: Execution) -> tuple[int, tuple[Tensor, ...]] | None:
        """Where, and in which state, the function itself is to go on; None if it is not to, or nothing is left."""
        left = execution.record.certified < execution.record.blocks
        resumes = left and part.handover is Handover.RESUMED and part.plan.schedule.sweeps
        return part.runner.resume_state(execution) if resumes else None

    def _note_proofs(self) -> None:
        """Weights may have changed, and with them what the plan rests on."""
        if any(part.proof is not proof for part, proof in zip(self.parts, self.proofs, strict=True)):
            self.plan = in_a_row([part.plan for part in self.parts])
            self.proofs = tuple(part.proof for part in self.parts)

    def _otherwise(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], execution: Execution
    ) -> tuple[Any, RunRecord]:
        """A test on values came out otherwise, or may. Raises: `BranchError` if there is only the captured program."""
        if self.live is None and not self._unseen:
            raise _branched(execution)
        return self._sequentially(args, kwargs, Ending.OTHERWISE, execution.otherwise)

    @property
    def _unseen(self) -> bool:
        """Whether steps test what sweeps do not show: only steps one by one tell then how such a test came out."""
        return any(part.proof.unseen for part in self.parts)

    def _sequentially(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], ending: Ending, detail: str
    ) -> tuple[Any, RunRecord]:
        loops = [part.program.loop for part in self.plan.parts if part.program]
        blocks = sum(loop.hi - loop.lo for loop in loops)
        return self._begun_anew(args, kwargs, RunRecord(str(self.plan.schedule), blocks, ending, detail=detail))

    def _begun_anew(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], record: RunRecord) -> tuple[Any, RunRecord]:
        """What the function gives from its beginning: nothing is claimed of sweeps."""
        record.certified = 0
        record.certificate = Certificate(str(self.plan.equality), "this is the reference", 0, record.blocks, 0)
        return self.reference(*args, **kwargs), record

    def prove_stored(self, name: str) -> None:
        """Make the proofs of a loaded plan. Raises: `ArtifactError` if the weights in the file do not support it."""
        for part, weights in zip(self.parts, self.stored, strict=True):
            if part.plan.refusal is None and part.plan.array is not None:
                part.prove_stored(name, weights)

    # ------------------------------------------------------------------------------------------ arguments

    def _checked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a call. Raises `SignatureError` with every mismatch."""
        if self.plan.program is None:
            return []
        wanted = self.plan.program.signature
        if self._called is None and (faults := other_modes(wanted.modes)):
            raise SignatureError("\n  ".join(["the artifact was compiled for other modes than these", *faults]))
        return checked_tensors(wanted, self._called, self._parameters, args, kwargs, self.device)

    def _result(self, tensors: list[Tensor]) -> Any:
        program = self.parts[-1].plan.program
        assert program is not None
        return in_its_structure(program.result, tensors)

    # ------------------------------------------------------------------------------------------ copies, files

    def __copy__(self) -> Compiled:
        """Itself, as of a function: a copy of a module that keeps it has the same one."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        """Raises: `UsageError`: it holds the user's function."""
        raise UsageError(
            "a compiled function cannot be pickled\n"
            "  write it with compiled.save(PATH) and read it with ffc.load(PATH), or compile again where it is needed"
        )

    def save(self, path: str | os.PathLike[str], force: bool = False) -> None:
        """Write the artifact; an existing file is kept unless ``force``. Raises: `UsageError`, `FFCompilerError`."""
        weights = self.live.all_weights() if self.live is not None else self.stored
        for part, own in zip(self.parts, weights, strict=bool(self.parts)):
            if (why := _unsettled(part.runner, own)) is not None:
                raise UsageError(f"{why}\n  compile the function again with these weights, then save")
        save_artifact(self.plan, weights, path, force)

    def inspect(
        self,
        path: str | os.PathLike[str],
        record: RunRecord | None = None,
        force: bool = False,
        processors: Sequence[int] = (),
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a page with the schedule, the proof, and the front of ``record`` if one is given.

        ``processors``, ``args`` and ``kwargs`` as of `explain`.
        """
        asked = checked(processors)
        simulated = self._simulated(asked, args, kwargs or {}, None) if asked else []
        write_page(self.plan, path, record, force, *(part.proof for part in self.parts), simulated=simulated)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LEAVES]) + ", ..." * (len(names) > LEAVES)


def _branched(execution: Execution) -> BranchError:
    return BranchError(
        f"{execution.otherwise}; an artifact goes one way only\n"
        "  run the function itself for these arguments, or compile it with them as its example"
    )


def _unsettled(runner: Runner, weights: Mapping[str, Tensor]) -> str | None:
    """Why what steps write into ``weights`` is not the same in all steps, if it is not."""
    return runner.overwrites.unsettled(runner.overwrites.evaluated(weights))


def _modules(function: Callable[..., Any], objects: tuple[Any, ...]) -> list[nn.Module]:
    """The modules that a function reaches which is given these objects; none where that is too much to look through."""
    try:
        return look(Bound(function, tuple((str(k), one) for k, one in enumerate(objects)))).modules()
    except CaptureError:
        return []

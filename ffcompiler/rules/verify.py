"""What makes a plan valid. Passes, the runtime and the loader may take every rule here for granted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from itertools import islice, pairwise

from ..errors import InvalidPlanError
from ..graph import Ref
from ..plan import Bits, Bounded, Costs, Finite, Method, NoNegativeZero, Plan, Premise, Schedule, Unchanged, ZeroPattern
from ..program import Chain, Leaf, Recurrence, RepeatedMap
from .graphs import (
    arguments_are_well_formed,
    graphs_are_small_enough,
    inputs_are_listed,
    names_are_bound_once,
    names_are_plain,
    operators_are_admitted,
    references_are_available,
    types_are_possible,
)
from .loops import (
    blocks_hand_on_their_own_values,
    blocks_have_families,
    blocks_together_are_alike,
    body_returns_the_carry,
    carry_begins_with_its_type,
    checks_look_at_booleans,
    draws_read_no_tensor,
    overwrites_are_made_from_weights,
    positions_are_written_once,
    steps_are_handed_stacks,
    steps_leave_what_is_collected,
    steps_stand_in_loops,
    tables_have_an_entry_per_step,
    tail_gives_the_written_part,
    write_stays_inside,
)
from .parts import (
    parts_agree,
    parts_are_few,
    parts_are_given_what_was_handed_on,
    parts_hand_on_tensors,
    parts_have_programs,
    parts_leave_weights_alone,
)
from .scopes import Environment, Fault, Subject, after_loop, carried, result_type, results

Rule = Callable[[Subject], Iterator[Fault]]
MAX_FAULTS = 5  # of one rule, told in one error


def verify(plan: Plan) -> Plan:
    """``plan`` itself, when each of its parts obeys every rule in `RULES`; a rule may rely on those before it.

    Raises:
        InvalidPlanError: with the first broken rule, the places where it is broken, and what to do.
    """
    parts = plan.parts
    for k, part in enumerate(parts, 1):
        subject, where = Subject.of(part), f"in part {k} of {len(parts)}: " if len(parts) > 1 else ""
        for rule in RULES:
            if faults := list(islice(rule(subject), MAX_FAULTS)):
                raise InvalidPlanError("\n".join(f"{rule.__name__}: {where}{fault}" for fault in faults))
    return plan


# ---------------------------------------------------------------------------------------------------- leaves


def arguments_are_tensors_or_constants(subject: Subject) -> Iterator[Fault]:
    """An argument leaf has a name and a type, or a constant."""
    for leaf in subject.program.signature.leaves if subject.program else ():
        if not _is_tensor(leaf) and not _is_constant(leaf):
            yield Fault(f"the argument {leaf.path!a} is {str(leaf)!a}", "give a name and type, or a constant")


def results_exist(subject: Subject) -> Iterator[Fault]:
    """A result leaf is a constant, or a value that the epilogue could see or computed, with its shape and dtype."""
    if subject.program is None:
        return
    environment = {**after_loop(subject.program), **results(subject.program.epilogue)}
    result = subject.program.result
    for leaf in (*result.leaves, *(leaf for leaf in result.left if leaf.name is not None)):
        name, _, output = (leaf.name or "").partition(".")
        type_ = result_type(environment.get(name, ()), int(output) if output.isdecimal() and len(output) < 5 else None)
        known = type_ and leaf.type and (type_.dtype, type_.shape) == (leaf.type.dtype, leaf.type.shape)
        if not _is_constant(leaf) and not (_is_tensor(leaf) and known):
            what = f"the result {leaf.path!a} is {str(leaf)!a}, and {leaf.name!a} is {type_}"
            yield Fault(what, "return an argument, a weight, the carry, or a value of prologue or epilogue")


def _is_tensor(leaf: Leaf) -> bool:
    return leaf.name is not None and leaf.type is not None and leaf.constant is None


def _is_constant(leaf: Leaf) -> bool:
    return leaf.name is None and leaf.type is None and leaf.constant is not None


# ---------------------------------------------------------------------------------------------------- schedules


def schedule_has_its_block(subject: Subject) -> Iterator[Fault]:
    """GS-Jacobi, Jacobi-GS and sliding have a block size of at least 1; the others have none."""
    plan = subject.plan
    elsewhere = (one.schedule for one in plan.alternatives if one.schedule is not None)
    for schedule in (plan.schedule, *(candidate.schedule for candidate in plan.candidates), *elsewhere):
        if not _block_fits(schedule):
            yield Fault(f"the schedule {schedule} has block {schedule.block}", "e.g. jacobi, or sliding(16)")


def _block_fits(schedule: Schedule) -> bool:
    if schedule.method in {Method.GS_JACOBI, Method.GROWING, Method.JACOBI_GS, Method.SLIDING}:
        return schedule.block is not None and schedule.block >= 1
    return schedule.block is None


def schedule_has_its_system(subject: Subject) -> Iterator[Fault]:
    """A schedule of sweeps needs a system, and one that has the order or the windows that it asks for.

    A repeated map has no blocks for any but Jacobi. Blocks in runs leave a residual to hold against a tolerance only
    where each reads the one before it alone, and windows keep nothing of them (docs/runs.md). The blocks of chains and
    recurrences are computed whole.
    """
    schedule, system = subject.plan.schedule, subject.plan.system
    if schedule.sweeps and system is None:
        yield Fault(f"{schedule} is scheduled and there is no triangular system", "run it sequentially")
    if isinstance(system, RepeatedMap) and schedule.sweeps and schedule != Schedule(Method.JACOBI):
        yield Fault(f"{schedule} is scheduled for a repeated map", "jacobi or sequential")
    in_runs = schedule.method is Method.JACOBI_GS
    if in_runs and not isinstance(system, Recurrence) and not isinstance(subject.plan.equality, Bits):
        yield Fault(f"{schedule} is scheduled under {subject.plan.equality}", "jacobi, or bits")
    if in_runs and schedule.windows:
        yield Fault(f"{schedule} is scheduled", "the same without windows")
    if schedule.windows and isinstance(system, Chain | Recurrence):
        yield Fault(f"{schedule} is scheduled and there is no array", "the same without windows")


def refused_plans_are_sequential(subject: Subject) -> Iterator[Fault]:
    """A plan with a refusal runs sequentially."""
    if subject.plan.refusal is not None and subject.plan.schedule.sweeps:
        yield Fault(f"{subject.plan.schedule} is scheduled and refused", "run it sequentially")


# ---------------------------------------------------------------------------------------------------- figures


def equality_is_finite(subject: Subject) -> Iterator[Fault]:
    """Tolerances are finite and not negative."""
    equality = subject.plan.equality
    if not isinstance(equality, Bits) and not (_is_figure(equality.rtol) and _is_figure(equality.atol)):
        yield Fault(f"the equality is {equality}", "give tolerances that are finite and at least 0")


def figures_are_finite(subject: Subject) -> Iterator[Fault]:
    """Costs, predicted seconds and sweeps are finite and not negative: the guard computes with them."""
    costs = subject.plan.costs
    if costs and not all(map(_is_figure, _single(costs))):
        yield Fault(f"the costs are {costs}", "measure again")
    for known in (costs.windows, costs.waves) if costs else ():
        if not _rising(known):
            yield Fault(f"the costs of windows are {known}", "measure again, for rising numbers of blocks")
    if costs and not all(_rising(tuple(known)) for known in _by_run(costs).values()):
        yield Fault(f"the costs of runs are {costs.runs}", "measure again, for rising numbers of blocks")
    if subject.plan.align < 1:
        yield Fault(f"windows are aligned to {subject.plan.align}", "align them to 1 or more")
    for candidate in subject.plan.candidates:
        figures = (candidate.seconds, candidate.predicted or 0.0, candidate.memory or 0)
        if not all(map(_is_figure, figures)) or not 0 <= candidate.certifying <= candidate.sweeps:
            yield Fault(f"{candidate.schedule}: {candidate.seconds!r} s, {candidate.sweeps} sweeps", "measure again")

    for other in subject.plan.alternatives:
        if not all(map(_is_figure, (other.sweeps, other.seconds, other.reference))):
            yield Fault(f"of {other.change!a}: {other.seconds!r} s, {other.sweeps} sweeps", "measure again")
    convergence = subject.plan.convergence
    if convergence and not (math.isfinite(convergence.lyapunov or 0.0) and all(map(_is_figure, convergence.sweeps))):
        yield Fault(f"the convergence is {convergence}", "measure again")


def _single(costs: Costs) -> tuple[float, ...]:
    """The figures of costs, but for windows."""
    sweeps = (costs.step, costs.sweep, costs.certify, costs.fill)
    together = (seconds for _, *both in costs.together for seconds in both)
    others = (costs.once, costs.after, costs.captured or 0.0, costs.draws, costs.again or 0.0, costs.start)
    return (*sweeps, *others, *costs.blocks, *together)


def _by_run(costs: Costs) -> dict[int, list[tuple[int, float]]]:
    """Blocks and seconds of sweeps, by the blocks in a run."""
    found: dict[int, list[tuple[int, float]]] = {}
    for run, blocks, seconds in costs.runs:
        found.setdefault(run, []).append((blocks, seconds))
    return found


def _rising(windows: tuple[tuple[int, float], ...]) -> bool:
    widths = [blocks for blocks, _ in windows]
    return all(a < b for a, b in pairwise([0, *widths])) and all(_is_figure(seconds) for _, seconds in windows)


def _is_figure(x: float) -> bool:
    return math.isfinite(x) and x >= 0


def premises_name_values(subject: Subject) -> Iterator[Fault]:
    """A premise is about a tensor that a sweep, or before it a call, can look at; its numbers and SHA-256 are possible.

    What is looked at once per call depends on neither state nor step.
    """
    shared = next((scope for scope in subject.scopes if scope.name == "shared"), None)
    outside = dict(shared.outside) if shared else {}
    seen = _keys({**outside, **results(shared.graph)}) if shared else set()
    fixed = _keys(outside) - (_keys(carried(subject.program.loop)) if subject.program else set())
    for premise in subject.plan.premises:
        if premise.value not in (seen if isinstance(premise, Finite | Bounded) else fixed):
            yield Fault(f"the premise {premise} names no value that it can be about", "prove the dependence again")
        elif not _is_possible(premise):
            yield Fault(f"the premise {premise} can be that of no proof", "prove the dependence again")


def _keys(values: Environment) -> set[str]:
    """The keys of all tensors: of a value with several results, one for each."""
    return {
        Ref(name, output if len(types) > 1 else None).key
        for name, types in values.items()
        for output, kind in enumerate(types)
        if kind is not None
    }


def _is_possible(premise: Premise) -> bool:
    match premise:
        case Finite() | NoNegativeZero():
            return True
        case Bounded(bound=bound):
            return _is_figure(bound)
        case ZeroPattern(zeros=zeros, of=of, sha256=sha256):
            return 0 <= zeros <= of and _is_sha256(sha256)
        case Unchanged(sha256=sha256):
            return _is_sha256(sha256)


def _is_sha256(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


RULES: tuple[Rule, ...] = (
    graphs_are_small_enough,
    names_are_plain,
    names_are_bound_once,
    arguments_are_tensors_or_constants,
    types_are_possible,
    operators_are_admitted,
    arguments_are_well_formed,
    references_are_available,
    inputs_are_listed,
    tables_have_an_entry_per_step,
    steps_stand_in_loops,
    draws_read_no_tensor,
    steps_are_handed_stacks,
    overwrites_are_made_from_weights,
    checks_look_at_booleans,
    carry_begins_with_its_type,
    body_returns_the_carry,
    write_stays_inside,
    positions_are_written_once,
    tail_gives_the_written_part,
    steps_leave_what_is_collected,
    blocks_hand_on_their_own_values,
    blocks_have_families,
    blocks_together_are_alike,
    results_exist,
    schedule_has_its_block,
    schedule_has_its_system,
    refused_plans_are_sequential,
    equality_is_finite,
    figures_are_finite,
    premises_name_values,
    parts_are_few,
    parts_have_programs,
    parts_agree,
    parts_hand_on_tensors,
    parts_are_given_what_was_handed_on,
    parts_leave_weights_alone,
)

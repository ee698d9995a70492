"""The rules about plans of several parts: what a part hands on is what the next one is given, and all agree."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from ..program import Leaf
from .scopes import Fault, Subject

MAX_PARTS = 32  # in an artifact they stand inside each other, and its JSON may be 64 deep

ADVICE = "compile the function again"


def parts_are_few(subject: Subject) -> Iterator[Fault]:
    """A plan has a limited number of parts."""
    if (count := len(subject.plan.parts)) > MAX_PARTS:
        yield Fault(f"the plan has {count} parts; {MAX_PARTS} are allowed", ADVICE)


def parts_have_programs(subject: Subject) -> Iterator[Fault]:
    """What could not be captured is one part, the whole function: its results could not be handed on."""
    rest = subject.plan.rest
    if rest is None:
        return
    if subject.program is None:
        yield Fault("the part has no program, and another follows it", ADVICE)
    if rest.program is None:
        yield Fault("the part after this one has no program", ADVICE)


def parts_agree(subject: Subject) -> Iterator[Fault]:
    """All parts are for one device and one equality: what is claimed of the whole is what is claimed of each."""
    plan, rest = subject.plan, subject.plan.rest
    if rest is None:
        return
    if plan.device != rest.device:
        yield Fault(f"the part is for {plan.device!a}, the one after it for {rest.device!a}", ADVICE)
    if plan.equality != rest.equality:
        yield Fault(f"the equality of the part is {plan.equality}, of the one after it {rest.equality}", ADVICE)


def parts_hand_on_tensors(subject: Subject) -> Iterator[Fault]:
    """The results of a part that another follows are tensors: there is no place for constants in what it is given."""
    if subject.plan.rest is None or subject.program is None:
        return
    for leaf in subject.program.result.leaves:
        if leaf.type is None:
            yield Fault(
                f"the part hands on {leaf.path!a}, which is {str(leaf)!a}", "write constants into the next part"
            )


def parts_are_given_what_was_handed_on(subject: Subject) -> Iterator[Fault]:
    """The arguments of a part are the results of the one before it, in order: as many, of the same dtypes and shapes.

    Their strides may differ from what a result was recorded with, as those of a result may.
    """
    rest = subject.plan.rest
    if rest is None or rest.program is None or subject.program is None:
        return
    pairs = zip_longest(subject.program.result.leaves, rest.program.signature.leaves)
    for k, (left, given) in enumerate(pairs):
        if _kind(given) is None or _kind(left) != _kind(given):
            what = f"result {k} of the part is {_told(left)}, argument {k} of the one after it is {_told(given)}"
            yield Fault(what, "hand on what is taken")


def _kind(leaf: Leaf | None) -> tuple[str, tuple[int, ...]] | None:
    return None if leaf is None or leaf.type is None else (leaf.type.dtype, leaf.type.shape)


def _told(leaf: Leaf | None) -> str:
    return "missing" if leaf is None else str(leaf.type or leaf.constant)


def parts_leave_weights_alone(subject: Subject) -> Iterator[Fault]:
    """Only a plan of one part overwrites weights: others may read them before and after."""
    rest = subject.plan.rest
    if rest is None:
        return
    for part in (subject.program, rest.program):
        for overwrite in part.overwrites if part is not None else ():
            yield Fault(f"{overwrite.weight} is overwritten in one of several parts", "plan the function as one part")

"""The last step of a repeated map written out after the loop, where it leaves something that no other step has to.

before:  for _ in range(T): x, ld = f(x), g(x);  return x, ld
after:   for _ in range(T - 1): x = f(x);  return f(x), g(x)

So inverses of flows are written that also compute a log-determinant in each step, and return the last one. What all
steps leave would have to be kept of each; the loop without its last step leaves nothing but its state.
"""

from __future__ import annotations

from dataclasses import replace

from ..graph import Ref
from ..program import Loop, Program
from .recurrence import chained, needed
from .renamed import Renaming, bound, fresh


def peel_last(program: Program) -> Program | None:
    """``program`` with its last step after the loop; None where that does not make it a repeated map."""
    loop = program.loop
    if not isinstance(loop, Loop) or not loop.collected or loop.inputs or loop.hi - loop.lo < 3:
        return None
    if any(any(node.steps()) for node in loop.body.nodes) or program.overwrites or program.checks:
        return None
    last = _last_ones(program, loop)
    if last is None:
        return None
    taken = set(bound(program))
    names = {node.name: Ref(fresh(node.name, taken)) for node in loop.body.nodes}
    step = Renaming(names, 0).graph(loop.body)
    state, left = step.outputs[: len(loop.carry)], step.outputs[len(loop.carry) :]
    made = dict(zip((value.name for value in loop.collected), left, strict=True))
    instead = dict(zip((value.name for value in loop.carry), state, strict=True))
    instead |= {name: made[of] for name, of in last.items()}
    own = Renaming(instead, 0)
    rest = [own.reading(node) for node in program.epilogue.nodes if node.name not in last]
    outputs = tuple(own.ref(ref) for ref in program.epilogue.outputs)
    known = {value.name: value for value in (*loop.body.inputs, *program.epilogue.inputs, *loop.carry)}
    (epilogue,) = chained([(*step.nodes, *rest)], outputs, known)
    ends = loop.body.outputs[: len(loop.carry)]
    (body,) = chained([needed(loop.body.nodes, ends)], ends, known)
    return replace(
        program,
        loop=replace(loop, hi=loop.hi - 1, body=body, collected=()),
        epilogue=epilogue,
        result=program.result.mapped(own.leaf),
    )


def _last_ones(program: Program, loop: Loop) -> dict[str, str] | None:
    """The nodes of the epilogue that take what the last step has left, and of what; None if others read more of it."""
    collected, count = {value.name for value in loop.collected}, loop.hi - loop.lo
    found: dict[str, str] = {}
    for node in program.epilogue.nodes:
        match node.op, node.args:
            case "aten.select.int", (Ref(name=name), 0, int() as at) if name in collected and at in (-1, count - 1):
                found[node.name] = name
                continue
        if any(ref.name in collected for ref in node.refs()):
            return None
    outputs = {ref.name for ref in program.epilogue.outputs}
    return None if outputs & collected else found

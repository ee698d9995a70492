"""Tests in steps that come out alike in all of them, made once before the loop.

before:  body(h, x) = .., test(isnan(x).any());  a check on what all steps saw
after:   prologue t0 = isnan(x), t1 = any(t0);   a check on t1
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..graph import Arg, Graph, Node, Ref, Value
from ..program import Check, Loop, Program


def hoisted(program: Program) -> Program:
    """``program`` with the checks of its loop that read neither state nor step before the loop."""
    loop = program.loop
    if not isinstance(loop, Loop) or program.tested is None:
        return program
    moving = _moving(loop)
    left = {value.name: ref for value, ref in zip(loop.collected, loop.body.outputs[len(loop.carry) :], strict=True)}
    early = {c.value.name for c in program.checks if c.value.name in left and left[c.value.name].name not in moving}
    return _moved(program, loop, {name: left[name] for name in early}) if early else program


def _moving(loop: Loop) -> set[str]:
    """What differs from step to step."""
    found = {value.name for value in (*loop.carry, *(given.value for given in loop.inputs))}
    for node in loop.body.nodes:
        if any(node.steps()) or any(ref.name in found for ref in node.refs()):
            found.add(node.name)
    return found


def _moved(program: Program, loop: Loop, early: Mapping[str, Ref]) -> Program:
    """``early``: by name of what is collected, what a step leaves for it."""
    nodes = _needed(loop.body.nodes, (ref.name for ref in early.values()))
    names = {node.name: f"t{k}" for k, node in enumerate(nodes)}
    copies = [_renamed(node, names) for node in nodes]
    values = {name: _new(ref, names) for name, ref in early.items()}
    own = set(names.values())
    prologue = program.prologue
    made = {node.name for node in prologue.nodes}
    known = {value.name: value for value in (*prologue.inputs, *loop.body.inputs)}
    read = dict.fromkeys(ref.name for node in (*prologue.nodes, *copies) for ref in node.refs())
    before = Graph(
        tuple(known[name] for name in read if name not in made and name not in own),
        (*prologue.nodes, *copies),
        (*prologue.outputs, *dict.fromkeys(ref for ref in values.values() if ref.name in own)),
    )
    checks = [replace(c, value=values[c.value.name]) if c.value.name in values else c for c in program.checks]
    first = [check for check in checks if check.value in values.values()]
    return replace(
        program,
        prologue=before,
        loop=_without(loop, early),
        checks=_in_order(program, loop, checks, first),
    )


def _in_order(program: Program, loop: Loop, checks: Iterable[Check], first: list[Check]) -> tuple[Check, ...]:
    """Those before the loop, then ``first``, each once, then the others."""
    later = {value.name for value in loop.collected} | {node.name for node in program.epilogue.nodes}
    later |= {value.name for value in loop.carry}
    rest = [check for check in checks if check not in first]
    before = [check for check in rest if check.value.name not in later]
    return tuple(dict.fromkeys([*before, *first, *(check for check in rest if check not in before)]))


def _without(loop: Loop, early: Iterable[str]) -> Loop:
    kept = [k for k, value in enumerate(loop.collected) if value.name not in set(early)]
    size = len(loop.carry)
    outputs = (*loop.body.outputs[:size], *(loop.body.outputs[size + k] for k in kept))
    nodes = _needed(loop.body.nodes, (ref.name for ref in outputs))
    own = {node.name for node in nodes}
    read = {ref.name for node in nodes for ref in node.refs()} | {ref.name for ref in outputs}
    inputs: tuple[Value, ...] = tuple(v for v in loop.body.inputs if v.name in read - own)
    handed = tuple(given for given in loop.inputs if given.value.name in read)
    body = Graph(inputs, tuple(nodes), outputs)
    return replace(loop, body=body, inputs=handed, collected=tuple(loop.collected[k] for k in kept))


def _needed(nodes: Iterable[Node], names: Iterable[str]) -> list[Node]:
    read, found = set(names), []
    for node in reversed([*nodes]):
        if node.name in read:
            found.append(node)
            read |= {ref.name for ref in node.refs()}
    return found[::-1]


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    args = tuple(_arg(arg, names) for arg in node.args)
    return replace(node, name=names[node.name], args=args, kwargs=tuple((k, _arg(v, names)) for k, v in node.kwargs))


def _arg(arg: Arg, names: Mapping[str, str]) -> Arg:
    match arg:
        case Ref():
            return _new(arg, names)
        case tuple():
            return tuple(_arg(part, names) for part in arg)
    return arg


def _new(ref: Ref, names: Mapping[str, str]) -> Ref:
    return replace(ref, name=names.get(ref.name, ref.name))

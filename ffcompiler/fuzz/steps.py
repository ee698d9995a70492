"""One step of a random recurrence: every state assigned, by an expression, a cell, in place or under a condition."""

from __future__ import annotations

from dataclasses import dataclass, field

from .expressions import Expressions
from .script import Script


@dataclass(slots=True)
class Loop:
    """One loop: names and widths of states, how a step comes by its inputs."""

    script: Script
    write: Expressions
    steps: int
    head: str = ""
    states: list[tuple[str, int]] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)  # lines at the beginning of a step
    histories: list[tuple[str, int]] = field(default_factory=list)  # lists of past states
    kept: list[tuple[str, int]] = field(default_factory=list)  # lists of outputs
    written: list[tuple[str, int]] = field(default_factory=list)  # tensors of outputs, [steps, batch, width]
    lists: list[tuple[str, int]] = field(default_factory=list)  # of what the loop before left, an entry for each step
    unset: bool = False  # before the loop those hold nothing that may be read


def step(loop: Loop, inside: bool) -> None:
    """Assigns every state, and sometimes more. ``inside``: of a plain loop, where anything goes."""
    script, write = loop.script, loop.write
    write.variables += loop.states
    if inside:
        write.variables += [(f"{past}[-{script.pick([2, 1])}]", width) for past, width in loop.histories]
    if loop.steps and script.some(0.2):
        _per_step(loop)
    if inside and script.some(0.15):
        name = script.fresh("z")
        width = script.pick([3, 4])
        script.line(f"{name} = {write.vector(width, 1)}")
        with script.block(f"for k in range({script.pick([2, 3])}):"):
            write.variables.append((name, width))
            script.line(f"{name} = {write.bounded(width, 2)}")
    if inside and script.some(0.15):
        name, width = script.pick(loop.states)
        view = script.fresh("v")
        script.line(f"{view} = {script.pick([f'{name}[:, :1]', f'{name}.flip(1)', name, f'{name}.t().t()'])}")
        write.variables.append((view, 1 if ":1" in script.lines[-1] else width))
    for name, width in loop.states:
        if inside and script.some(0.12):
            guard = script.pick(["t > 0", "t % 3 == 2", f"t < {loop.steps} - 1", "t != 1"])
            with script.block(f"if {guard}:"):
                _assign(loop, name, width, inside)
        else:
            _assign(loop, name, width, inside)
    if script.some(0.12):
        _test(loop)


def _test(loop: Loop) -> None:
    """A decision that the values of a state make, in most steps alike."""
    script = loop.script
    name, _ = script.pick(loop.states)
    limit = script.pick([1000.0, 30.0, 2.5])
    tests = [f"({name} > {limit}).any()", f"not ({name}.abs() < {limit}).all()", f"{name}.max() > {limit}"]
    with script.block(f"if {script.pick(tests)}:"):
        script.line(f"{name} = {name} * 0.5")


def _assign(loop: Loop, name: str, width: int, inside: bool) -> None:
    script, write = loop.script, loop.write
    if not write.exact and script.some(0.25):
        _cell(loop, name, width)
        return
    new = write.bounded(width, 3) if script.smooth or script.some(0.8) else write.vector(width, 3)
    new = f"0.25 * {new}" if script.smooth else new
    forms = [f"{name} = {new}", f"{name} = 0.5 * {name} + {new}", f"{name} = {name} * 0.25 - ({new})"]
    if inside:
        column = script.number(0, width - 1)
        overwriting = f"({name} + {new}).clamp_(-2, 2)" if write.exact else f"torch.tanh_({name} + {new})"
        forms += [
            f"{name} *= 0.5; {name} += {new}",
            f"{name} = {name}.clone(); {name}[:, {column}] = ({new})[:, {column}]",
            f"{name} = {overwriting}",
        ]
    for line in script.pick(forms).split("; "):
        script.line(line)


def _cell(loop: Loop, name: str, width: int) -> None:
    """A cell of torch's own."""
    script, write = loop.script, loop.write
    source, inputs = script.pick(write.variables)
    kind = script.pick(["GRUCell", "RNNCell", "LSTMCell"])
    scale = (0.5 if script.smooth else 1.0) / width**0.5
    module = script.module(f"trained(nn.{kind}({inputs}, {width}), {script.number(0, 99)}, {scale:.3g})")
    state = f"({name}, torch.tanh({name}))" if kind == "LSTMCell" else name
    script.line(f"{name} = {module}({source}, {state}){'[0]' if kind == 'LSTMCell' else ''}")


def _per_step(loop: Loop) -> None:
    """Weights of which each step has its own."""
    script, write = loop.script, loop.write
    width = script.pick([3, 4])
    source, inputs = script.pick(write.variables)
    name, seed = script.fresh("y"), script.number(0, 99)
    kind = script.pick(["vector", "vector"] if write.exact else ["vector", "layers", "stack", "list"])
    if kind == "layers":
        made = f"trained(nn.Linear({inputs}, {width}), {seed} + k, 0.4) for k in range({loop.steps})"
        script.line(f"{name} = {script.module(f'nn.ModuleList([{made}])')}[t]({source})")
    elif kind == "stack":
        weights = script.weight(loop.steps, inputs, width, scale=0.4)
        script.line(f"{name} = {source} @ {weights}[t]")
    elif kind == "list":
        weights = script.constant(
            "ws", f"[rnd({inputs}, {width}, seed={seed} + k, scale=0.4) for k in range({loop.steps})]"
        )
        script.line(f"{name} = {source} @ {weights}[t]")
    else:
        weights, width = script.weight(loop.steps, inputs, scale=0.8), inputs
        script.line(f"{name} = {source} * {weights}[t]")
    write.variables.append((name, width))

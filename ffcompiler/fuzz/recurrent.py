"""Random recurrences: states that are carried from step to step, read inputs, and leave outputs."""

from __future__ import annotations

from dataclasses import dataclass, field

from .expressions import Expressions
from .script import Script

STEPS = [5, 7, 12, 3, 8, 10, 4, 16, 6, 9, 2, 1, 0]


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
    unset: bool = False  # before the loop those hold nothing that may be read


def recurrence(script: Script) -> None:
    """The lines of a function with one to three recurrences in a row."""
    batch = script.pick([2, 1, 3])
    exact = script.some(0.4)
    sequences = [_input(script, batch, script.pick([3, 2, 5]), (n := script.pick(STEPS)))]
    results: list[str] = []
    steps = n
    if steps and script.some(0.3):
        sequences.append(_input(script, batch, script.pick([2, 4]), steps))
    for _ in range(script.pick([1, 1, 1, 2])):
        write = Expressions(script, batch, exact, draws=script.some(0.2))
        loop = Loop(script, write, steps)
        results = _loop(loop, sequences, results)
        sequences = sequences[:1]
    script.line(_returned(script, results))


def _input(script: Script, batch: int, width: int, steps: int) -> tuple[str, int]:
    shape = f"{batch}, {steps}, {width}"
    return script.argument("x", f"rnd({shape}, seed=seed + {script.number(0, 9)})"), width


# ---------------------------------------------------------------------------------------------------- one loop


def _loop(loop: Loop, sequences: list[tuple[str, int]], before: list[str]) -> list[str]:
    """Writes the loop; the expressions of what it leaves."""
    script = loop.script
    _states(loop)
    if script.some(0.25):
        return [*before, *_marked(loop, sequences)]
    _outputs(loop)
    _inputs(loop, sequences)
    with script.block(loop.head):
        for line in loop.reads:
            script.line(line)
        _step(loop, inside=True)
        _keep(loop)
    return [*before, *_left(loop)]


def _states(loop: Loop) -> None:
    script, batch = loop.script, loop.write.batch
    container = script.pick(["", "", "list", "dict"])
    home = script.fresh("s")
    if container:
        script.line(f"{home} = {'[]' if container == 'list' else '{}'}")
    for k in range(script.pick([1, 2, 1, 3])):
        width = script.pick([4, 3, 1, 6])
        init = _initial(loop, batch, width)
        if container == "list":
            script.line(f"{home}.append({init})")
        name = {"": f"h{home[1:]}_{k}", "list": f"{home}[{k}]", "dict": f"{home}['k{k}']"}[container]
        if container != "list":
            script.line(f"{name} = {init}")
        loop.states.append((name, width))


def _initial(loop: Loop, batch: int, width: int) -> str:
    script = loop.script
    kind = script.pick(["zeros", "ones", "weight", "argument"])
    if kind == "argument":
        return script.argument("h", f"rnd({batch}, {width}, seed=seed + 5)") + ".clone()"
    if kind == "weight":
        copied = script.pick(["clone", "clone", "contiguous"])  # of one row, the latter is the weight itself
        return f"{script.weight(width, scale=0.5)}.expand({batch}, {width}).{copied}()"
    return f"torch.{kind}({batch}, {width}, dtype=DTYPE)"


def _outputs(loop: Loop) -> None:
    script, batch = loop.script, loop.write.batch
    for name, width in loop.states:
        kind = script.pick(["nothing", "list", "tensor", "list", "history"])
        if kind == "list":
            loop.kept.append((script.fresh("out"), width))
            script.line(f"{loop.kept[-1][0]} = []")
        if kind == "tensor":
            loop.written.append((script.fresh("all"), width))
            unset = script.some(0.3)
            loop.unset |= unset
            how = "empty" if unset else script.pick(["zeros", "ones"])
            script.line(f"{loop.written[-1][0]} = torch.{how}({loop.steps}, {batch}, {width}, dtype=DTYPE)")
        if kind == "history":
            loop.histories.append((script.fresh("past"), width))
            script.line(f"{loop.histories[-1][0]} = [{name}, {name}]")


def _inputs(loop: Loop, sequences: list[tuple[str, int]]) -> None:
    """The head of the loop, and how a step reads its part of each sequence."""
    script, steps = loop.script, loop.steps
    (first, width), *others = sequences
    entry = script.fresh("x")
    heads = [
        (f"for t in range({steps}):", f"{entry} = {first}[:, t]"),
        (f"for t in range({first}.shape[1]):", f"{entry} = {first}[:, t, :]"),
        (f"for t, {entry} in enumerate({first}.unbind(1)):", ""),
        (f"for t, {entry} in enumerate({first}.transpose(0, 1)):", ""),
        (f"for t, {entry} in enumerate({first}.permute(1, 0, 2).contiguous()):", ""),
        (f"for t, {entry} in enumerate({first}.split(1, dim=1)):", f"{entry} = {entry}.squeeze(1)"),
        (f"for t in reversed(range({steps})):", f"{entry} = {first}[:, t]"),
        (f"for t in range({steps}):", f"{entry} = {first}[:, {steps} - 1 - t].contiguous()"),
        (f"for t in range({steps}):", f"{entry} = {first}.select(1, t)"),
        (f"for t in range({steps}):", f"{entry} = torch.index_select({first}, 1, torch.tensor([t]))[:, 0]"),
        (f"for t in range({steps}):", f"{entry} = {first}[:, max(t - 1, 0)] + {first}[:, t]"),
        (
            f"for t in range({steps}):",
            f"{entry} = {first}[:, :, :].narrow(1, t, 1).reshape({loop.write.batch}, {width})",
        ),
    ]
    loop.head, read = script.pick(heads)
    if script.some(0.08):
        script.line("t = -1")
        loop.head, read = f"while t + 1 < {steps}:", f"t += 1; {entry} = {first}[:, t]"
    loop.reads += read.split("; ") if read else []
    loop.write.step = "t"
    loop.write.variables = [(entry, width)]
    for name, size in others:
        other = script.fresh("x")
        loop.reads.append(f"{other} = {name}[:, t]")
        loop.write.variables.append((other, size))
    if script.some(0.2):
        table = script.constant("table", f"{[round(0.1 * k - 0.3, 2) for k in range(max(steps, 1))]}")
        loop.reads.append(f"{entry} = {entry} * {table}[t]")


# ---------------------------------------------------------------------------------------------------- a step


def _step(loop: Loop, inside: bool) -> None:
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


# ---------------------------------------------------------------------------------------------------- what it leaves


def _keep(loop: Loop) -> None:
    script = loop.script
    for name, width in loop.kept:
        forms = [f"{name}.append({{}})", f"{name}.insert(0, {{}})", f"{name} += [{{}}]"]
        script.line(script.pick(forms).format(loop.write.vector(width, script.pick([0, 1]))))
    for name, width in loop.written:
        forms = [f"{name}[t] = {{}}", f"{name}[t].copy_({{}})", f"{name}[t, :] = {{}}"]
        form = script.pick(forms if loop.unset else [*forms, f"{name}[t] += {{}}"])
        script.line(form.format(loop.write.vector(width, 1)))
    for name, width in loop.histories:
        state = next(s for s, size in loop.states if size == width)
        script.line(f"{name}.append({state})")


def _left(loop: Loop) -> list[str]:
    script = loop.script
    kept = [name for name, _ in loop.kept]
    if loop.steps:
        kept = [
            script.pick([f"torch.stack({name}, 1)", f"torch.cat({name}, dim=1)", f"torch.stack({name})", name])
            for name in kept
        ]
    return [*(name for name, _ in loop.states), *kept, *(f"{name} * 2" for name, _ in loop.written)]


def _marked(loop: Loop, sequences: list[tuple[str, int]]) -> list[str]:
    """The loop as `fori_loop`."""
    script = loop.script
    (first, width), *_ = sequences
    body, state = script.fresh("step"), script.fresh("state")
    with script.block(f"def {body}(t, {state}):"):
        entry = script.fresh("x")
        names = [name for name, _ in loop.states]
        inner = [f"g{k}" for k in range(len(names))]
        script.line(f"{', '.join(inner)}, = {state}")
        script.line(f"{entry} = {first}[:, t]")
        loop.write.step, loop.write.variables = "t", [(entry, width)]
        loop.states = [(g, size) for g, (_, size) in zip(inner, loop.states, strict=True)]
        _step(loop, inside=False)
        script.line(f"return ({', '.join(inner)},)")
    result = script.fresh("left")
    script.line(f"{result} = ffc.fori_loop(0, {loop.steps}, {body}, ({', '.join(names)},))")
    return [f"*{result}"]


def _returned(script: Script, results: list[str]) -> str:
    plain = [r for r in results if not r.startswith("*")]
    if plain and script.some(0.3):
        entries = ", ".join(f"'r{k}': {r}" for k, r in enumerate(plain))
        return f"return {{{entries}, 'constant': 3}}"
    if plain and script.some(0.3):
        return f"return {plain[-1]}"
    return f"return ({', '.join(results)},)"

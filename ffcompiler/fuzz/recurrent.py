"""Random recurrences: states that are carried from step to step, read inputs, and leave outputs."""

from __future__ import annotations

from .expressions import Expressions
from .script import Script
from .steps import Loop, step

STEPS = [5, 7, 12, 3, 8, 10, 4, 16, 6, 9, 2, 1, 0]


def recurrence(script: Script) -> None:
    """The lines of a function with one to three recurrences in a row."""
    batch = script.pick([2, 1, 3])
    exact = script.some(0.4)
    sequences = [_input(script, batch, script.pick([3, 2, 5]), (n := script.pick(STEPS)))]
    results: list[str] = []
    steps = n
    if steps and script.some(0.3):
        sequences.append(_input(script, batch, script.pick([2, 4]), steps))
    lists: list[tuple[str, int]] = []
    for _ in range(script.pick([1, 1, 2, 3])):
        write = Expressions(script, batch, exact, draws=script.some(0.2))
        loop = Loop(script, write, steps, lists=lists)
        results = _loop(loop, sequences, results)
        sequences, lists = sequences[:1], loop.kept if steps else []
        if lists and script.some(0.5):  # the next loop reads what this one left, as one tensor
            left, width = script.pick(lists)
            sequences = [(script.fresh("left"), width)]
            script.line(f"{sequences[0][0]} = torch.stack({left}, 1)")
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
        step(loop, inside=True)
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
    for name, size in loop.lists:
        if script.some(0.4):
            other = script.fresh("y")
            loop.reads.append(f"{other} = {name}[{script.pick(['t', '-1 - t'])}]")
            loop.write.variables.append((other, size))
    if script.some(0.2):
        table = script.constant("table", f"{[round(0.1 * k - 0.3, 2) for k in range(max(steps, 1))]}")
        loop.reads.append(f"{entry} = {entry} * {table}[t]")


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
        step(loop, inside=False)
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
